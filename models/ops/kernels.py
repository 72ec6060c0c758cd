"""Which kernel libraries can be used here, what their kernels take, and which are known to be right.

Nothing of a library is imported before its kernel is asked for, so the package works without Triton and without a GPU.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

LIBRARIES = ("fla", "mamba_ssm")
"""Backends that are kernel libraries, in the order in which `auto` tries them."""

EVERY = frozenset({torch.float32, torch.float16, torch.bfloat16})
BRAIN = frozenset({torch.bfloat16})

COMPARED: dict[str, dict[str, frozenset[torch.dtype]]] = {
    "delta_rule": {"fla": BRAIN},
    "gated_delta_rule": {"fla": BRAIN},
    "kimi_delta_rule": {"fla": BRAIN},
    "linear_attention": {"fla": BRAIN},
    "state_space_dual": {"fla": BRAIN},
    "selective_state_space": {"fla": BRAIN, "mamba_ssm": EVERY},
    "selective_scan": {"mamba_ssm": EVERY},
}
"""Recurrence → library → types of q, k and v in which its kernel was compared with its definition on a GPU: outputs,
and gradients where it trains there (``pytest -m gpu tests/models/test_kernels_on_a_gpu.py``). `auto` takes no other."""

FORWARD_ONLY = frozenset({("state_space_dual", "fla"), ("selective_state_space", "fla")})
"""(recurrence, library) of those kernels whose backward pass was not compared: fla refuses it on that GPU."""

REFUSED_ON_HOPPER = frozenset({"gated_delta_rule", "state_space_dual", "selective_state_space"})
"""Recurrences whose backward pass runs the kernel that fla refuses on Hopper with Triton 3.4 to 3.7.0."""

RIGHT_BY_TILELANG = frozenset({"gated_delta_rule"})
"""Those of them that fla then runs by tilelang; it refuses to where it keeps states in float32 (fla 0.6)."""

NEEDED = {
    "fla": (("triton", "triton"), ("fla", "flash-linear-attention")),
    "mamba_ssm": (("triton", "triton"), ("mamba_ssm", "mamba-ssm"), ("selective_scan_cuda", "mamba-ssm")),
}
"""Library → (module, distribution that brings it); mamba_ssm cannot be imported without its compiled module."""


class Call(NamedTuple):
    """What decides whether a kernel can run: the shapes, types and circumstances of one call of a recurrence.

    Attributes:
        device: ``cpu`` or ``cuda``.
        dtype: of q, k and v.
        T, K, V: tokens, key width, value width.
        with_gradient: whether a backward pass may follow.
        from_state: whether a state is given.
    """

    device: str
    dtype: torch.dtype
    T: int
    K: int
    V: int
    with_gradient: bool = False
    from_state: bool = False


@dataclass(frozen=True)
class Kernel:
    """A library's kernel of a recurrence, and what it takes.

    Attributes:
        form: with the signature of the recurrence's reference, and ``cu_seqlens`` if ``packed``.
        largest_key: the widest keys K; None if any will do.
        sixteen_bit: whether q, k and v must be float16 or bfloat16.
        even: whether K and V must be even to train in float16 and bfloat16.
        packed: whether it takes ``cu_seqlens``.
        from_state: whether more than one token can start from a state.
        state_gradient: whether gradients flow into the given state and from the last one.
    """

    form: Callable[..., tuple[Tensor, Tensor]]
    largest_key: int | None = None
    sixteen_bit: bool = False
    even: bool = False
    packed: bool = True
    from_state: bool = True
    state_gradient: bool = True

    def limit(self, call: Call) -> str | None:
        """Which of the kernel's limits a call is beyond; None if it is within all."""
        if call.device != "cuda":
            return "it runs on CUDA devices only"
        if call.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            return f"it takes float32, float16 and bfloat16, not {_name(call.dtype)}"
        if self.sixteen_bit and call.dtype == torch.float32:
            return "it takes float16 and bfloat16, not float32"
        if self.largest_key is not None and self.largest_key < call.K:
            return f"it takes keys of at most {self.largest_key} channels, not {call.K}"
        if self.even and call.with_gradient and call.dtype != torch.float32 and (call.K % 2 or call.V % 2):
            return f"it trains even widths of keys and values in {_name(call.dtype)}, not {call.K} and {call.V}"
        if call.from_state and not self.from_state and call.T > 1:
            return "it cannot start more than one token from a state"
        return None


@cache
def library_trouble(library: str, recurrence: str, with_gradient: bool = False) -> str | None:
    """Why a library's kernel for a recurrence cannot be used here, whatever the call; None where it can.

    Args:
        library: one of `LIBRARIES`.
        recurrence: name of the recurrence.
        with_gradient: whether a backward pass will follow.
    """
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    for module, distribution in NEEDED[library]:
        if find_spec(module) is None:
            return f"{module} is not installed ({_way_to_get(distribution)})"
    if library == "fla" and with_gradient and recurrence in REFUSED_ON_HOPPER and _wrong_on_hopper():
        wrong = f"its backward kernel is wrong on Hopper with Triton {_triton_version()} (3.4 to 3.7.0)"
        if recurrence not in RIGHT_BY_TILELANG:
            return f"{wrong}, and fla has no way around it"
        if find_spec("tilelang") is None:
            return f"{wrong}, and fla's way around it, tilelang, is not installed"
    return None


def not_compared(library: str, recurrence: str, call: Call) -> str | None:
    """Why `auto` does not take a kernel that could run; None where it does."""
    if call.dtype not in COMPARED.get(recurrence, {}).get(library, frozenset()):
        what = f"not compared with its definition on a GPU in {_name(call.dtype)}"
    elif call.with_gradient and (recurrence, library) in FORWARD_ONLY:
        what = "its backward pass was not compared with its definition on a GPU"
    else:
        return None
    return f"{what}; backend {library} asks for it all the same"


def one_step(*inputs: Tensor) -> bool:
    """Whether fla's kernel for single steps is to be taken: not all of those have a gradient."""
    return inputs[0].shape[1] == 1 and not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs))


def _way_to_get(distribution: str) -> str:
    return "pip install 'infinitevl-bench[mamba]'" if distribution == "mamba-ssm" else f"pip install {distribution}"


def _triton_version() -> str:
    """Of the module, since nightly builds come as another package."""
    return str(import_module("triton").__version__)


def _wrong_on_hopper() -> bool:
    version = tuple(int(part) for part in re.findall(r"\d+", _triton_version())[:3])
    return torch.cuda.get_device_capability()[0] == 9 and (3, 4) <= version < (3, 7, 1)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
