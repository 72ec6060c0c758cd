"""State-space duality: the whole memory of a head decays at one rate.

    S_t = exp(log_decay_t) · S_{t-1} + k_t ⊗ v_t
    o_t = S_tᵀ q_t

With a constant decay it is RetNet's recurrence; with q = C, k = B, v = Δ·x and log_decay = Δ·A it is Mamba-2's, which
`selective_state_space` states in those terms.

Source: Dao, Gu, "Transformers are SSMs", arXiv 2405.21060, section 6.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .chunks import carry, chunk_size, clamped, outputs, pair_decay, split
from .kernels import Kernel, one_step
from .recurrence import Recurrence, start_state, steps, wide_dtype


def reference(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Step by step; ``log_decay`` ``[B, T, H]``, ≤ 0; other shapes as in `Recurrence.__call__`."""
    wide = wide_dtype(v)
    S = start_state(k, v, state)
    outputs = []
    for q_t, k_t, v_t, log_decay_t in steps(wide, q, k, v, log_decay):
        S = S * log_decay_t.exp()[..., None, None] + k_t.unsqueeze(-1) * v_t.unsqueeze(-2)
        outputs.append(torch.einsum("bhkv,bhk->bhv", S, q_t))
    return torch.stack(outputs, dim=1).to(v.dtype), S


def chunked(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """In chunks; ``log_decay`` ``[B, T, H]``, ≤ 0; other shapes as in `Recurrence.__call__`."""
    T, dtype = v.shape[1], v.dtype
    size = chunk_size(k)
    start = start_state(k, v, state)
    q, k, v, log_decay = (split(x, size, start.dtype) for x in (q, k, v, log_decay))
    total = clamped(log_decay).cumsum(dim=-1)
    last = total[..., -1:]
    kept = (last - total).exp().unsqueeze(-1)
    before, end = carry(last.exp().unsqueeze(-1), (k * kept).mT @ v, start)
    o = outputs(q * total.exp().unsqueeze(-1), before, (q @ k.mT) * pair_decay(total), v, T)
    return o.to(dtype), end


def kernel(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *, state: Tensor | None = None, cu_seqlens: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Through flash-linear-attention."""
    from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla

    function = fused_recurrent_simple_gla if one_step(q, k, v, log_decay) else chunk_simple_gla
    o, S = function(
        q, k, v, g=log_decay, scale=1.0, initial_state=state, output_final_state=True, cu_seqlens=cu_seqlens
    )  # fmt: skip
    return o, S


def _random_gates(k: Tensor, v: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (F.logsigmoid(torch.randn(k.shape[:-1], generator=generator, dtype=k.dtype) + 2),)


STATE_SPACE_DUAL = Recurrence("state_space_dual", reference, chunked, _random_gates, {"fla": Kernel(kernel, even=True)})
