"""Gated linear attention: every key channel of the memory decays at a rate of its own.

    S_t = diag(exp(log_decay_t)) · S_{t-1} + k_t ⊗ v_t
    o_t = S_tᵀ q_t

Source: Yang, Wang, Shen, Panda, Kim, "Gated Linear Attention Transformers with Hardware-Efficient Training",
arXiv 2312.06635, eq. 3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .chunks import carry, chunk_size, decayed_scores, outputs, split
from .kernels import Kernel, one_step
from .recurrence import Recurrence, start_state, steps, wide_dtype


def reference(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Step by step; ``log_decay`` ``[B, T, H, K]``, ≤ 0; other shapes as in `Recurrence.__call__`."""
    wide = wide_dtype(v)
    S = start_state(k, v, state)
    outputs = []
    for q_t, k_t, v_t, log_decay_t in steps(wide, q, k, v, log_decay):
        S = S * log_decay_t.exp().unsqueeze(-1) + k_t.unsqueeze(-1) * v_t.unsqueeze(-2)
        outputs.append(torch.einsum("bhkv,bhk->bhv", S, q_t))
    return torch.stack(outputs, dim=1).to(v.dtype), S


def chunked(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """In chunks; ``log_decay`` ``[B, T, H, K]``, ≤ 0; other shapes as in `Recurrence.__call__`."""
    T, dtype = v.shape[1], v.dtype
    size = chunk_size(k)
    start = start_state(k, v, state)
    q, k, v, log_decay = (split(x, size, start.dtype) for x in (q, k, v, log_decay))
    inside = decayed_scores([q], k, log_decay.exp())
    before, end = carry(inside.total.mT, inside.keys.mT @ v, start)
    return outputs(inside.readers[0], before, inside.scores[0], v, T).to(dtype), end


def kernel(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *, state: Tensor | None = None, cu_seqlens: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Through flash-linear-attention."""
    from fla.ops.gla import chunk_gla, fused_recurrent_gla

    shared = {"scale": 1.0, "initial_state": state, "output_final_state": True, "cu_seqlens": cu_seqlens}
    if one_step(q, k, v, log_decay):
        return fused_recurrent_gla(q, k, v, gk=log_decay, **shared)
    return chunk_gla(q, k, v, g=log_decay, **shared)


def _random_gates(k: Tensor, v: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (F.logsigmoid(torch.randn(k.shape, generator=generator, dtype=k.dtype) + 1) / 4,)


GATED_LINEAR_ATTENTION = Recurrence(
    "gated_linear_attention", reference, chunked, _random_gates, {"fla": Kernel(kernel)}
)
