"""What the kernels of a decode step share: when they are taken, and what they count on."""

from torch import Tensor


def takes_kernels(x: Tensor) -> bool:
    """Whether an operation on x runs by a kernel: on an accelerator. Elsewhere its definition runs."""
    return x.device.type == "cuda"


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
