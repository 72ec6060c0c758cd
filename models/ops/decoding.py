"""What our own kernels share: when they are taken, and what they count on."""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor


@cache
def has_triton() -> bool:
    """Whether Triton is installed: torch brings it on Linux, but not everywhere that it runs on CUDA."""
    return find_spec("triton") is not None


def takes_kernels(x: Tensor) -> bool:
    """Whether an operation on x runs by a kernel: on an accelerator, up to float32, where Triton is installed. Else its
    definition runs, which torch.compile fuses by itself."""
    here = x.device.type == "cuda" and x.dtype != torch.float64 and x.numel() > 0
    return here and not torch.compiler.is_compiling() and has_triton()


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
