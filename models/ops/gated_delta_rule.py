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

from .chunks import causal, chunk_size, clamped, join, pair_decay, split
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
    size = chunk_size(T, k.shape[-1])
    S = start_state(k, v, state)
    q, k, v, log_decay, beta = (split(x, size, S.dtype) for x in (q, k, v, log_decay, beta))
    total = clamped(log_decay).cumsum(dim=-1)
    between = pair_decay(total)
    beta = beta.unsqueeze(-1)
    # Row i: what token i recalls of the writes of the chunk's earlier tokens. Written values solve (1 + recall) w = b.
    recall = ((k * beta) @ k.mT * between).masked_fill(~causal(size, k.device, strict=True), 0)
    asked = torch.cat([v * beta, k * (beta * total.unsqueeze(-1).exp())], dim=-1)
    solved = torch.linalg.solve_triangular(recall, asked, upper=False, unitriangular=True)
    written, erased = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
    inside = (q @ k.mT) * between
    reading = q * total.exp().unsqueeze(-1)
    last = total[..., -1:]
    keeping = (k * (last - total).exp().unsqueeze(-1)).mT
    decay = last.exp().unsqueeze(-1)
    before, values = [], []
    # Only what needs the state goes from chunk to chunk; the outputs are then one product over all chunks.
    for written_n, erased_n, decay_n, keeping_n in zip(
        *(x.unbind(2) for x in (written, erased, decay, keeping)), strict=True
    ):
        before.append(S)
        values.append(written_n - erased_n @ S)
        S = decay_n * S + keeping_n @ values[-1]
    o = reading @ torch.stack(before, dim=2) + inside @ torch.stack(values, dim=2)
    return join(o, T).to(dtype), S


def kernel(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, *, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Through flash-linear-attention."""
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule

    function = fused_recurrent_gated_delta_rule if v.shape[1] == 1 else chunk_gated_delta_rule
    o, S = function(
        q, k, v, g=log_decay, beta=beta, scale=1.0, initial_state=state, output_final_state=True
    )  # fmt: skip
    return o, S


def _random_gates(k: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    log_decay = F.logsigmoid(torch.randn(k.shape[:-1], generator=generator, dtype=k.dtype) + 3)
    return log_decay, torch.rand(k.shape[:-1], generator=generator, dtype=k.dtype)


GATED_DELTA_RULE = Recurrence("gated_delta_rule", reference, chunked, kernel, _random_gates, unit_keys=True)
