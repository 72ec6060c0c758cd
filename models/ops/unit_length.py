"""Vectors of unit length, as fla's kernels and the published model make them: x / sqrt(Σ x² + 1e-6), times a factor."""

from typing import Any

import torch
from torch import Tensor

from .decoding import power_of_two, takes_kernels


def unit_length(x: Tensor, scale: float = 1.0) -> Tensor:
    """l2-normalise the last dimension of ``[…, K]`` in float32 or wider; one kernel on an accelerator."""
    return _UnitLength.apply(x.contiguous(), scale) if takes_kernels(x) else reference(x, scale)


def reference(x: Tensor, scale: float = 1.0) -> Tensor:
    """In plain torch."""
    wide = x if x.dtype == torch.float64 else x.float()
    return (wide * (torch.rsqrt(wide.square().sum(-1, keepdim=True) + 1e-6) * scale)).to(x.dtype)


class _UnitLength(torch.autograd.Function):
    """By kernels; x ``[…, K]``, contiguous."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        from .triton_surroundings import normalise

        ctx.save_for_backward(x)
        ctx.scale = scale
        y = torch.empty_like(x)
        rows, grid, blocks = _launch(x)
        with torch.cuda.device_of(x):
            normalise[grid](x, y, rows, scale, **blocks, num_warps=4)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        from .triton_surroundings import normalise_backward

        (x,) = ctx.saved_tensors
        dx = torch.empty_like(x)
        rows, grid, blocks = _launch(x)
        with torch.cuda.device_of(x):
            normalise_backward[grid](x, dy.contiguous(), dx, rows, ctx.scale, **blocks, num_warps=4)
        return dx, None


def _launch(x: Tensor) -> tuple[int, tuple[int], dict[str, int]]:
    """Rows, grid and block sizes: some 4,096 numbers a program."""
    K = x.shape[-1]
    rows, width = x.numel() // K, power_of_two(K)
    block = max(1, 4096 // width)
    return rows, (-(-rows // block),), {"K": K, "BLOCK_K": width, "BLOCK_ROWS": block}
