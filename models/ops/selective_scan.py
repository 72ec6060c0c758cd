"""Mamba's selective scan (S6): every pair of key and value channels of the memory decays at a rate of its own.

    S_t = exp(Δ_t ⊗ A) ∘ S_{t-1} + k_t ⊗ Δ_t v_t        (Δ_t one step a value channel, A one rate a pair)
    o_t = S_tᵀ q_t

With one head, q = C, k = B, v = x it is Mamba's. No two channels share their decay, so a chunk is no matrix product;
what is chunked is time: all chunks take their steps side by side, first to find what each adds to the state, then, from
the states that follow, to read. In training only the states between segments of chunks are kept, and a segment is run
again in the backward pass, so that memory is that of one segment and not of T states.

Source: Gu, Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv 2312.00752, section 3.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .kernels import Kernel
from .recurrence import Recurrence, start_state, steps, wide_dtype

CHUNK, SEGMENT = 16, 512
"""Tokens of a chunk, and of a segment."""


def reference(
    q: Tensor, k: Tensor, v: Tensor, step: Tensor, A: Tensor, *, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Step by step.

    The step ``[B, T, H, V]``, ≥ 0, and the parameter A ``[H, K, V]``, < 0; other shapes as in `Recurrence.__call__`.
    """
    wide = wide_dtype(v)
    S, A = start_state(k, v, state), A.to(wide)
    outputs = []
    for q_t, k_t, v_t, step_t in steps(wide, q, k, v, step):
        S = (step_t.unsqueeze(-2) * A).exp() * S + k_t.unsqueeze(-1) * (step_t * v_t).unsqueeze(-2)
        outputs.append(torch.einsum("bhkv,bhk->bhv", S, q_t))
    return torch.stack(outputs, dim=1).to(v.dtype), S


def chunked(
    q: Tensor, k: Tensor, v: Tensor, step: Tensor, A: Tensor, *, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """In chunks that take their steps side by side; arguments as in `reference`."""
    T, wide = v.shape[1], wide_dtype(v)
    S, A = start_state(k, v, state), A.to(wide)
    streams = [x.to(wide) for x in (q, k, v, step)]
    outputs = []
    for first in range(0, T, SEGMENT):
        segment = [x[:, first : first + SEGMENT] for x in streams]
        run: Any = _segment
        if torch.is_grad_enabled() and T > SEGMENT:
            o, S = checkpoint(run, *segment, A, S, use_reentrant=False)
        else:
            o, S = run(*segment, A, S)
        outputs.append(o)
    return torch.cat(outputs, dim=1).to(v.dtype), S


def _segment(q: Tensor, k: Tensor, v: Tensor, step: Tensor, A: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """One segment; all in the wide type."""
    T = v.shape[1]
    size = min(CHUNK, T)
    # Time within a chunk first, the chunks behind the batch: [C, B, N, H, …].
    q, k, written, step = (
        F.pad(x, (0, 0, 0, 0, 0, -T % size)).unflatten(1, (-1, size)).movedim(2, 0) for x in (q, k, v * step, step)
    )
    moves = [
        ((step_t.unsqueeze(-2) * A).exp(), k_t.unsqueeze(-1) * written_t.unsqueeze(-2))
        for k_t, written_t, step_t in zip(k.unbind(0), written.unbind(0), step.unbind(0), strict=True)
    ]
    added = moves[0][1]
    for decay_t, write_t in moves[1:]:
        added = torch.addcmul(write_t, decay_t, added)
    over = (step.sum(0).unsqueeze(-2) * A).exp()
    before = []
    for over_n, added_n in zip(over.unbind(1), added.unbind(1), strict=True):
        before.append(S)
        S = torch.addcmul(added_n, over_n, S)
    states, outputs = torch.stack(before, dim=1), []
    for (decay_t, write_t), q_t in zip(moves, q.unbind(0), strict=True):
        states = torch.addcmul(write_t, decay_t, states)
        outputs.append((q_t.unsqueeze(-2) @ states).squeeze(-2))
    return torch.stack(outputs, dim=2).flatten(1, 2)[:, :T], S


def mamba_kernel(
    q: Tensor, k: Tensor, v: Tensor, step: Tensor, A: Tensor, *, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Through mamba-ssm, which takes no state and gives none a gradient; a single token is a step."""
    if v.shape[1] == 1:
        return reference(q, k, v, step, A, state=state)
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    H, V = v.shape[2:]
    # The library has channels of all heads in a row before time, its B and C by groups, and states value × key.
    x, delta = (y.flatten(2).mT.contiguous() for y in (v, step.to(v.dtype)))
    keys, queries = (y.permute(0, 2, 3, 1).to(v.dtype).contiguous() for y in (k, q))
    o, S = selective_scan_fn(x, delta, A.float().mT.flatten(0, 1), keys, queries, return_last_state=True)
    return o.mT.unflatten(-1, (H, V)), S.unflatten(1, (H, V)).mT.float().detach()


def _random_gates(k: Tensor, v: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    step = F.softplus(torch.randn(v.shape, generator=generator, dtype=k.dtype) - 1)
    return step, -torch.rand(*k.shape[2:], v.shape[-1], generator=generator, dtype=k.dtype) - 0.1


SELECTIVE_SCAN = Recurrence(
    "selective_scan", reference, chunked, _random_gates,
    {"mamba_ssm": Kernel(mamba_kernel, packed=False, from_state=False, state_gradient=False)}, parameters=1,
)  # fmt: skip
