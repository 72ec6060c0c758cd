"""Gated delta rule: the memory decays, and a key's old value is replaced by its new one instead of added to it.

    S'_t = exp(log_decay_t) · S_{t-1}
    S_t  = S'_t + β_t · k_t ⊗ (v_t − S'_tᵀ k_t)
    o_t  = S_tᵀ q_t

Source: Yang, Kautz, Hatamizadeh, "Gated Delta Networks", arXiv 2412.06464, eq. 10 (state stored key × value). The
chunked form is its section 3.3: within a chunk, what each token really writes solves a unit lower triangular system.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .chunks import causal, chunk_size, clamped, pair_decay, split
from .delta_chunks import chunks_in_turn
from .kernels import Kernel, one_step
from .recurrence import Recurrence, start_state, steps, wide_dtype


def reference(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, *, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Step by step.

    ``log_decay`` ``[B, T, H]``, ≤ 0, and write strength ``beta`` ``[B, T, H]``, in (0, 1); k l2-normalised by the
    caller; other shapes as in `Recurrence.__call__`.
    """
    wide = wide_dtype(v)
    S = start_state(k, v, state)
    outputs = []
    for q_t, k_t, v_t, log_decay_t, beta_t in steps(wide, q, k, v, log_decay, beta):
        S = S * log_decay_t.exp()[..., None, None]
        recalled = torch.einsum("bhkv,bhk->bhv", S, k_t)
        S = S + k_t.unsqueeze(-1) * (beta_t.unsqueeze(-1) * (v_t - recalled)).unsqueeze(-2)
        outputs.append(torch.einsum("bhkv,bhk->bhv", S, q_t))
    return torch.stack(outputs, dim=1).to(v.dtype), S


def chunked(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, *, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """In chunks; arguments as in `reference`."""
    T, dtype = v.shape[1], v.dtype
    size = chunk_size(k)
    S = start_state(k, v, state)
    q, k, v, log_decay, beta = (split(x, size, S.dtype) for x in (q, k, v, log_decay, beta))
    total = clamped(log_decay).cumsum(dim=-1)
    between, since, last = pair_decay(total), total.exp(), total[..., -1:]
    recall = (k @ k.mT * between * beta.unsqueeze(-1)).masked_fill(~causal(size, k.device, strict=True), 0)
    inside = (q @ k.mT) * between
    reading, keeping = q * since.unsqueeze(-1), k * (last - total).exp().unsqueeze(-1)
    decay = last.exp().unsqueeze(-1)
    o, S = chunks_in_turn(recall, v, beta, k, beta * since, inside, reading, keeping, decay, S, T)
    return o.to(dtype), S


def kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    *,
    state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Through flash-linear-attention."""
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule

    one = one_step(q, k, v, log_decay, beta)
    function = fused_recurrent_gated_delta_rule if one else chunk_gated_delta_rule
    o, S = function(
        q, k, v, g=log_decay, beta=beta, scale=1.0, initial_state=state, output_final_state=True, cu_seqlens=cu_seqlens
    )  # fmt: skip
    return o, S


def _random_gates(k: Tensor, v: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    log_decay = F.logsigmoid(torch.randn(k.shape[:-1], generator=generator, dtype=k.dtype) + 3)
    return log_decay, torch.rand(k.shape[:-1], generator=generator, dtype=k.dtype)


GATED_DELTA_RULE = Recurrence(
    "gated_delta_rule", reference, chunked, _random_gates, {"fla": Kernel(kernel, largest_key=256)},
    unit_keys=True,
)  # fmt: skip
