"""Delta rule: a key's old value is replaced by its new one instead of added to it; nothing else is forgotten.

    S_t = S_{t-1} + β_t · k_t ⊗ (v_t − S_{t-1}ᵀ k_t)
    o_t = S_tᵀ q_t

Source: Schlag, Irie, Schmidhuber, "Linear Transformers Are Secretly Fast Weight Programmers", arXiv 2102.11174, eq. 24;
in chunks: Yang, Wang, Zhang, Shen, Kim, "Parallelizing Linear Transformers with the Delta Rule", arXiv 2406.06484.
"""

import torch
from torch import Tensor

from .chunks import causal, chunk_size, split
from .delta_chunks import chunks_in_turn
from .kernels import Kernel, one_step
from .recurrence import Recurrence, start_state, steps, wide_dtype


def reference(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, *, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Step by step.

    Write strength ``beta`` ``[B, T, H]``, in (0, 1); k l2-normalised by the caller; other shapes as in
    `Recurrence.__call__`.
    """
    S = start_state(k, v, state)
    outputs = []
    for q_t, k_t, v_t, beta_t in steps(wide_dtype(v), q, k, v, beta):
        recalled = torch.einsum("bhkv,bhk->bhv", S, k_t)
        S = S + k_t.unsqueeze(-1) * (beta_t.unsqueeze(-1) * (v_t - recalled)).unsqueeze(-2)
        outputs.append(torch.einsum("bhkv,bhk->bhv", S, q_t))
    return torch.stack(outputs, dim=1).to(v.dtype), S


def chunked(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, *, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """In chunks; arguments as in `reference`."""
    T, dtype = v.shape[1], v.dtype
    size = chunk_size(k)
    S = start_state(k, v, state)
    q, k, v, beta = (split(x, size, S.dtype) for x in (q, k, v, beta))
    recall = (k @ k.mT * beta.unsqueeze(-1)).masked_fill(~causal(size, k.device, strict=True), 0)
    inside = (q @ k.mT).masked_fill(~causal(size, k.device), 0)
    o, S = chunks_in_turn(recall, v, beta, k, beta, inside, q, k, None, S, T)
    return o.to(dtype), S


def kernel(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, *, state: Tensor | None = None, cu_seqlens: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Through flash-linear-attention."""
    from fla.ops.delta_rule import chunk_delta_rule, fused_recurrent_delta_rule

    function = fused_recurrent_delta_rule if one_step(q, k, v, beta) else chunk_delta_rule
    o, S = function(
        q, k, v, beta=beta, scale=1.0, initial_state=state, output_final_state=True, cu_seqlens=cu_seqlens
    )  # fmt: skip
    return o, S


def _random_gates(k: Tensor, v: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.rand(k.shape[:-1], generator=generator, dtype=k.dtype),)


DELTA_RULE = Recurrence(
    "delta_rule", reference, chunked, _random_gates,
    {"fla": Kernel(kernel, largest_key=256, sixteen_bit=True)}, unit_keys=True,
)  # fmt: skip
