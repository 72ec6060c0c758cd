"""What our own kernels share: when they are taken, and what they count on."""

import torch
from torch import Tensor


def takes_kernels(x: Tensor) -> bool:
    """Whether an operation on x runs by a kernel: on an accelerator, up to float32. Else its definition runs, which
    torch.compile fuses by itself."""
    here = x.device.type == "cuda" and x.dtype != torch.float64
    return here and x.numel() > 0 and not torch.compiler.is_compiling()


def fits_a_block(width: int) -> bool:
    """Whether a kernel takes heads of this width whole: a power of two, and wide enough for tensor cores."""
    return width >= 16 and width == power_of_two(width)


def check_contiguous(**tensors: Tensor | None) -> None:
    """Refuse tensors whose rows do not follow each other: a kernel would read them in another order than they have.

    Raises:
        ValueError: naming the first of them.
    """
    for name, tensor in tensors.items():
        if tensor is not None and not tensor.is_contiguous():
            raise ValueError(f"{name} is not contiguous (strides {tensor.stride()} of shape {tuple(tensor.shape)})")


def power_of_two(n: int) -> int:
    """The least power of two that is not below n; 1 for 0."""
    return 1 << max(n - 1, 0).bit_length()
