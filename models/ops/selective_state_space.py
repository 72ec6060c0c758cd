"""Mamba-2's selective state space: one step Δ sets both how much a token writes and how much the memory decays.

    S_t = exp(Δ_t A) · S_{t-1} + k_t ⊗ Δ_t v_t
    o_t = S_tᵀ q_t

It is state-space duality with v = Δ·x and log decay Δ·A, and is computed as that, except by mamba_ssm's kernel, which
takes Δ and A themselves.

Source: Dao, Gu, "Transformers are SSMs", arXiv 2405.21060, section 7.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import state_space_dual
from .kernels import Kernel
from .recurrence import Form, Recurrence, wide_dtype

CHUNK = 256
"""Tokens of a chunk of mamba_ssm's kernel, as Mamba-2 sets it."""


def _through(form: Form) -> Form:
    """A form of state-space duality as one of this recurrence.

    It takes the step ``[B, T, H]``, ≥ 0, and the parameter A ``[H]``, < 0, as its gates.
    """

    def run(
        q: Tensor, k: Tensor, v: Tensor, step: Tensor, A: Tensor, *, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        step = step.to(wide_dtype(v))
        # What is written stays in the wide type, so that it is not rounded twice.
        o, last = form(q, k, v * step.unsqueeze(-1), step * A, state=state)
        return o.to(v.dtype), last

    return run


def kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    step: Tensor,
    A: Tensor,
    *,
    state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Through flash-linear-attention, which takes q, k and v in one type."""
    written = (v * step.unsqueeze(-1)).to(v.dtype)
    return state_space_dual.kernel(q, k, written, step.float() * A, state=state, cu_seqlens=cu_seqlens)


def mamba_kernel(
    q: Tensor, k: Tensor, v: Tensor, step: Tensor, A: Tensor, *, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Through mamba-ssm, whose states are value × key."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    o, S = mamba_chunk_scan_combined(
        v, step, A.float(), k, q, chunk_size=CHUNK, initial_states=None if state is None else state.mT.contiguous(),
        return_final_states=True,
    )  # fmt: skip
    return o, S.mT.float()


def _random_gates(k: Tensor, v: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    step = F.softplus(torch.randn(k.shape[:-1], generator=generator, dtype=k.dtype) - 1)
    return step, -torch.rand(k.shape[2], generator=generator, dtype=k.dtype) - 0.1


SELECTIVE_STATE_SPACE = Recurrence(
    "selective_state_space",
    _through(state_space_dual.reference),
    _through(state_space_dual.chunked),
    _random_gates,
    {"fla": Kernel(kernel, even=True), "mamba_ssm": Kernel(mamba_kernel, packed=False)},
    parameters=1,
)
