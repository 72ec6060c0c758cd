"""Whether flash-linear-attention's kernels can be used here, and whether they are known to be right.

Nothing of it is imported before a kernel is asked for, so the package works without Triton and without a GPU.
"""

from functools import cache
from importlib import metadata
from importlib.util import find_spec

import torch

GATED = frozenset({"gated_delta_rule", "gated_linear_attention", "state_space_dual"})
"""Recurrences whose backward pass runs the kernel that fla refuses on Hopper with Triton 3.4 to 3.7.0."""

COMPARED = frozenset({"gated_delta_rule"})
"""Recurrences whose kernel was compared with its definition on a GPU, outputs and gradients; `auto` takes no other."""


def auto_trouble(recurrence: str, with_gradient: bool = False) -> str | None:
    """Why `auto` does not take a recurrence's kernel, which may still be asked for by name; None where it does."""
    trouble = kernel_trouble(recurrence, with_gradient)
    if trouble is None and recurrence not in COMPARED:
        return "not yet compared with its definition on a GPU; backend fla asks for it all the same"
    return trouble


@cache
def kernel_trouble(recurrence: str, with_gradient: bool = False) -> str | None:
    """Why flash-linear-attention's kernel for a recurrence is not used here; None where it is.

    Args:
        recurrence: Name of the recurrence.
        with_gradient: Whether a backward pass will follow.
    """
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    for package in ("triton", "fla"):
        if find_spec(package) is None:
            return f"{package} is not installed"
    if with_gradient and recurrence in GATED and _wrong_backward_on_hopper() and find_spec("tilelang") is None:
        version = metadata.version("triton")
        return (
            f"its backward kernel is wrong on Hopper with Triton {version} (3.4 to 3.7.0), and fla's way around it, "
            "tilelang, is not installed"
        )
    return None


def _wrong_backward_on_hopper() -> bool:
    version = tuple(int(part) for part in metadata.version("triton").split(".")[:3] if part.isdigit())
    return torch.cuda.get_device_capability()[0] == 9 and (3, 4) <= version < (3, 7, 1)
