"""One step of the gated delta rule from a merged projection, in place on the state: the mixer's part of a decode step.

The recurrence is that of `gated_delta_rule`; normalising q and k and computing the gates is as in
`delta_inputs`, for one token and after the short convolutions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .decoding import check_contiguous, takes_kernels
from .gated_delta_rule import reference as gated_delta_rule

BLOCK_V = 32
"""Value channels of a program; the columns of a state do not touch each other."""


def delta_step(projected: Tensor, A_log: Tensor, dt_bias: Tensor, state: Tensor) -> Tensor:
    """Step; the kernel on an accelerator, the reference elsewhere.

    Args:
        projected: ``[H·(2 K + 2 V) + 2 H]``: q, k and v after their convolutions, the output gate (which is not read),
            decay, write strength.
        A_log, dt_bias: ``[H]``.
        state: ``[1, H, K, V]`` float32 or wider, contiguous; overwritten.

    Returns:
        ``[H·V]`` in the projection's dtype.
    """
    return (kernel if takes_kernels(projected) else reference)(projected, A_log, dt_bias, state)


def reference(projected: Tensor, A_log: Tensor, dt_bias: Tensor, state: Tensor) -> Tensor:
    """In plain torch."""
    _, H, K, V = state.shape
    wide = state.dtype
    q, k, v, _, a, b = projected.to(wide).split([H * K, H * K, H * V, H * V, H, H])
    q, k = (x.view(1, 1, H, K) for x in (q, k))
    q, k = (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6) for x in (q, k))
    log_decay = -A_log.to(wide).exp() * F.softplus(a + dt_bias.to(wide))
    o, new = gated_delta_rule(
        q * K**-0.5, k, v.view(1, 1, H, V), log_decay.view(1, 1, H), b.sigmoid().view(1, 1, H), state=state
    )  # fmt: skip
    state.copy_(new)
    return o.flatten().to(projected.dtype)


def kernel(projected: Tensor, A_log: Tensor, dt_bias: Tensor, state: Tensor) -> Tensor:
    """By one Triton kernel."""
    from .triton_decoding import delta_rule_step

    check_contiguous(projected=projected, state=state)
    _, H, K, V = state.shape
    block = BLOCK_V if V % BLOCK_V == 0 else V
    o = torch.empty(H * V, dtype=projected.dtype, device=projected.device)
    delta_rule_step[(H, V // block)](projected, A_log, dt_bias, state, o, H=H, K=K, V=V, BLOCK_V=block, num_warps=4)
    return o
