"""Linear attention: an associative memory that only adds.

    S_t = S_{t-1} + k_t ⊗ v_t
    o_t = S_tᵀ q_t

Source: Katharopoulos, Vyas, Pappas, Fleuret, "Transformers are RNNs", arXiv 2006.16236, eq. 18–20, without the
normaliser (a column of ones in v gives it).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .chunks import causal, chunk_size, outputs, split
from .kernels import Kernel, one_step
from .recurrence import Recurrence, start_state, steps, wide_dtype


def reference(q: Tensor, k: Tensor, v: Tensor, *, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Step by step; shapes as in `Recurrence.__call__`."""
    wide = wide_dtype(v)
    S = start_state(k, v, state)
    outputs = []
    for q_t, k_t, v_t in steps(wide, q, k, v):
        S = S + k_t.unsqueeze(-1) * v_t.unsqueeze(-2)
        outputs.append(torch.einsum("bhkv,bhk->bhv", S, q_t))
    return torch.stack(outputs, dim=1).to(v.dtype), S


def chunked(q: Tensor, k: Tensor, v: Tensor, *, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """In chunks; shapes as in `Recurrence.__call__`."""
    T, dtype = v.shape[1], v.dtype
    size = chunk_size(k)
    start = start_state(k, v, state)
    q, k, v = (split(x, size, start.dtype) for x in (q, k, v))
    before = [start]
    for added in (k.mT @ v).unbind(2):
        before.append(before[-1] + added)
    inside = (q @ k.mT).masked_fill(~causal(size, q.device), 0)
    return outputs(q, torch.stack(before[:-1], dim=2), inside, v, T).to(dtype), before[-1]


def kernel(
    q: Tensor, k: Tensor, v: Tensor, *, state: Tensor | None = None, cu_seqlens: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Through flash-linear-attention, which trains only even widths: values get a column of zeros more, and lose it."""
    if v.shape[-1] % 2:
        o, S = kernel(
            q, k, F.pad(v, (0, 1)), state=None if state is None else F.pad(state, (0, 1)), cu_seqlens=cu_seqlens
        )
        return o[..., :-1], S[..., :-1]
    from fla.ops.linear_attn import chunk_linear_attn, fused_recurrent_linear_attn

    function = fused_recurrent_linear_attn if one_step(q, k, v) else chunk_linear_attn
    o, S = function(
        q, k, v, scale=1.0, initial_state=state, output_final_state=True, normalize=False, cu_seqlens=cu_seqlens
    )  # fmt: skip
    return o, S


LINEAR_ATTENTION = Recurrence(
    "linear_attention", reference, chunked, lambda k, v, generator: (), {"fla": Kernel(kernel)}
)
