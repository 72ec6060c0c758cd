"""Kimi's delta rule: every key channel of the memory decays at a rate of its own, and a key's old value is replaced.

    S'_t = diag(exp(log_decay_t)) · S_{t-1}
    S_t  = S'_t + β_t · k_t ⊗ (v_t − S'_tᵀ k_t)
    o_t  = S_tᵀ q_t

Source: Kimi Team, "Kimi Linear: An Expressive, Efficient Attention Architecture", arXiv 2510.26692, eq. 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .chunks import causal, chunk_size, decayed_scores, split
from .delta_chunks import chunks_in_turn
from .kernels import Kernel, one_step
from .recurrence import Recurrence, start_state, steps, wide_dtype


def reference(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, *, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Step by step.

    ``log_decay`` ``[B, T, H, K]``, ≤ 0, and write strength ``beta`` ``[B, T, H]``, in (0, 1); k l2-normalised by the
    caller; other shapes as in `Recurrence.__call__`.
    """
    S = start_state(k, v, state)
    outputs = []
    for q_t, k_t, v_t, log_decay_t, beta_t in steps(wide_dtype(v), q, k, v, log_decay, beta):
        S = S * log_decay_t.exp().unsqueeze(-1)
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
    (inside, recall), (reading, recalling), keeping, decay = decayed_scores([q, k], k, log_decay.exp())
    recall = (recall * beta.unsqueeze(-1)).masked_fill(~causal(size, k.device, strict=True), 0)
    o, S = chunks_in_turn(recall, v, beta, recalling, beta, inside, reading, keeping, decay.mT, S, T)
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
    from fla.ops.kda import chunk_kda, fused_recurrent_kda

    function = fused_recurrent_kda if one_step(q, k, v, log_decay, beta) else chunk_kda
    o, S = function(
        q, k, v, g=log_decay, beta=beta, scale=1.0, initial_state=state, output_final_state=True, cu_seqlens=cu_seqlens
    )  # fmt: skip
    return o, S


def _random_gates(k: Tensor, v: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    log_decay = F.logsigmoid(torch.randn(k.shape, generator=generator, dtype=k.dtype) + 3)
    return log_decay, torch.rand(k.shape[:-1], generator=generator, dtype=k.dtype)


KIMI_DELTA_RULE = Recurrence(
    "kimi_delta_rule", reference, chunked, _random_gates, {"fla": Kernel(kernel, largest_key=256)},
    unit_keys=True,
)  # fmt: skip
