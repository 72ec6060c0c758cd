"""Matrix times vector, with the operations around it, in one pass over the matrix: what bounds decoding.

    y = after(W · before(x))

One token of one sequence reads every weight once and does two operations with it, so its time is that of reading; what
stands between two products must not cost another launch each. Before the product: RMSNorm of x.
After it: bias, SwiGLU of two halves of the rows, a short convolution's step on the first rows, a residual.
The norm's factor, one number, is taken out of the sum: W·(x·g·r) = r·(W·(x·g)).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .decoding import check_contiguous, power_of_two, takes_kernels


def tile(rows: int, columns: int, swiglu: bool) -> tuple[int, int, int]:
    """Rows and columns of the matrix that a program reads at a time, and its warps.

    The fastest of sixteen for each matrix of the 4B model on an H200: few rows need small programs to be enough of
    them, long rows need wide ones.
    """
    if rows > 65536:
        return 8, 256, 4
    if swiglu:
        return 4, 512, 2
    if columns > 4096:
        return 2, 1024, 4
    if columns > 2048:
        return 1, 512, 1
    return (4, 512, 4) if rows > 4096 else (4, 1024, 4)


@dataclass(frozen=True)
class Around:
    """What is done before and after the product; every field is optional.

    Attributes:
        norm: weight of an RMSNorm of x, ``[columns]``.
        eps: of the norm.
        bias: ``[rows]``.
        swiglu: the rows are two halves, and silu(first) · second is the result.
        conv_state: ``[channels, W − 1]``, past inputs of the first rows' short convolutions; overwritten.
        filters: ``[channels, W]`` of those convolutions, which silu follows.
        residual: ``[rows]``, added at the end.
    """

    norm: Tensor | None = None
    eps: float = 1e-6
    bias: Tensor | None = None
    swiglu: bool = False
    conv_state: Tensor | None = None
    filters: Tensor | None = None
    residual: Tensor | None = None


def matrix_vector(x: Tensor, matrix: Tensor, around: Around) -> Tensor:
    """Multiply; the kernel on an accelerator, the reference elsewhere.

    Args:
        x: ``[columns]``.
        matrix: ``[rows, columns]``, contiguous.
        around: what comes before and after.

    Returns:
        ``[rows]``, or half as many with ``swiglu``, in x's dtype.
    """
    return (kernel if takes_kernels(x) else reference)(x, matrix, around)


def reference(x: Tensor, matrix: Tensor, around: Around) -> Tensor:
    """In plain torch, in float32 or wider inside."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    value = x.to(wide)
    if around.norm is not None:
        value = value * torch.rsqrt(value.square().mean() + around.eps) * around.norm.to(wide)
    y = matrix.to(wide) @ value
    if around.bias is not None:
        y = y + around.bias.to(wide)
    if around.swiglu:
        first, second = y.chunk(2)
        y = F.silu(first) * second
    if around.conv_state is not None and around.filters is not None:
        channels = around.filters.shape[0]
        window = torch.cat([around.conv_state, y[:channels, None].to(x.dtype)], dim=1)
        y = torch.cat([F.silu((window.to(wide) * around.filters.to(wide)).sum(1)), y[channels:]])
        around.conv_state.copy_(window[:, 1:])
    if around.residual is not None:
        y = y + around.residual.to(wide)
    return y.to(x.dtype)


def kernel(x: Tensor, matrix: Tensor, around: Around) -> Tensor:
    """By one Triton kernel."""
    from .triton_decoding import matrix_vector as run

    check_contiguous(x=x, matrix=matrix, conv_state=around.conv_state, filters=around.filters)
    rows, columns = matrix.shape
    if around.swiglu:
        rows //= 2
    block_rows, block_columns, warps = tile(rows, columns, around.swiglu)
    y = torch.empty(rows, dtype=x.dtype, device=x.device)
    width = 0 if around.filters is None else around.filters.shape[1]
    run[(-(-rows // block_rows),)](
        x, matrix, y, around.norm, around.bias, around.residual, around.conv_state, around.filters,
        rows, 0 if around.filters is None else around.filters.shape[0], around.eps,
        COLUMNS=columns, BLOCK_ROWS=block_rows, BLOCK_COLUMNS=block_columns,
        NORM=around.norm is not None, BIAS=around.bias is not None,
        RESIDUAL=around.residual is not None, SWIGLU=around.swiglu, CONV=width, CONV_PADDED=power_of_two(width),
        num_warps=warps,
    )  # fmt: skip
    return y
