"""RMSNorm of each head's output and its gate: y = o / sqrt(mean o² + ε) · w · silu(gate)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .decoding import power_of_two, takes_kernels

PROGRAMS = 4096
"""Of the backward pass, about: enough to fill an accelerator, few enough that their sums of the weight's gradient are
little to keep and to add up."""


def head_norm(o: Tensor, weight: Tensor, eps: float, gate: Tensor | None = None) -> Tensor:
    """Normalise and gate; one kernel on an accelerator.

    Args:
        o: ``[…, V]``.
        weight: ``[V]``.
        eps: what keeps the norm from dividing by zero.
        gate: of o's shape or one that is repeated to it, before its SiLU; None for none.

    Returns:
        ``[…, V]`` in o's dtype, computed in float32 or wider.
    """
    if not takes_kernels(o):
        return reference(o, weight, eps, gate)
    return _HeadNorm.apply(o.contiguous(), weight, eps, None if gate is None else gate.expand_as(o).contiguous())


def reference(o: Tensor, weight: Tensor, eps: float, gate: Tensor | None = None) -> Tensor:
    """In plain torch."""
    wide = o if o.dtype == torch.float64 else o.float()
    normed = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(o.dtype) * weight
    # Under autocast the weight is wider than what it is multiplied with; a wide result would be passed on.
    return (normed if gate is None else normed * F.silu(gate)).to(o.dtype)


class _HeadNorm(torch.autograd.Function):
    """By kernels; all contiguous."""

    @staticmethod
    def forward(ctx: Any, o: Tensor, weight: Tensor, eps: float, gate: Tensor | None) -> Tensor:
        from .triton_surroundings import norm_and_gate

        ctx.save_for_backward(o, weight, gate)
        ctx.eps = eps
        y = torch.empty_like(o)
        rows, block, sizes = _blocks(o, gate)
        with torch.cuda.device_of(o):
            norm_and_gate[(-(-rows // block),)](o, gate, weight, y, rows, eps, **sizes, num_warps=4)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, Tensor | None]:
        from .triton_surroundings import norm_and_gate_backward

        o, weight, gate = ctx.saved_tensors
        do, dgate = torch.empty_like(o), None if gate is None else torch.empty_like(gate)
        rows, block, sizes = _blocks(o, gate)
        each = max(1, rows // (block * PROGRAMS))
        programs = -(-rows // (block * each))
        partial = torch.empty(programs, weight.numel(), dtype=torch.float32, device=o.device)
        with torch.cuda.device_of(o):
            norm_and_gate_backward[(programs,)](
                o, gate, weight, dy.contiguous(), do, dgate, partial, rows, ctx.eps, each, **sizes, num_warps=4
            )  # fmt: skip
        return do, partial.sum(0).to(weight.dtype), None, dgate


def _blocks(o: Tensor, gate: Tensor | None) -> tuple[int, int, dict[str, int | bool]]:
    """Rows, rows of a block, and what else the kernels take: some 2,048 numbers a block."""
    V = o.shape[-1]
    width = power_of_two(V)
    block = max(1, 2048 // width)
    return o.numel() // V, block, {"V": V, "GATED": gate is not None, "BLOCK_V": width, "BLOCK_ROWS": block}
