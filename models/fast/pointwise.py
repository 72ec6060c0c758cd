"""The operations between matrix products, as plain functions; on an accelerator each is compiled to a kernel or two.

In eager mode a decoder layer launches some forty small kernels around its four matrix products; for a frame of 256
tokens they take longer than the products. Compiled, each function here reads its inputs once and writes its result
once. The functions are the definition, too: on a CPU they run as they stand.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension, in float32 or wider, as transformers' Qwen2.5-VL has it."""
    wide = x if x.dtype == torch.float64 else x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def add_rms_norm(x: Tensor, added: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x + added`` and its RMSNorm: the end of one residual branch and the beginning of the next."""
    x = x + added
    return x, rms_norm(x, weight, eps)


def swiglu(gate_and_up: Tensor) -> Tensor:
    """silu(gate) · up of ``[…, 2 F]``, the gate first; ``[…, F]``."""
    gate, up = gate_and_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: x ``[B, T, H, K]``, cos and sin ``[B, T, K]`` whose halves are equal."""
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def rotated_wide(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotated` in float32, as the vision tower does it."""
    return rotated(x.float(), cos.float(), sin.float()).to(x.dtype)


MOST_SHAPES = 256
"""Shapes that a function may be compiled for in one process. torch gives up after eight by default, with an error; each
size of chunk, frame, batch and model is one here, and kernels of fixed shape are the point of it."""


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # A patch around each call would cost ten times the call.
    torch._dynamo.config.recompile_limit = max(MOST_SHAPES, torch._dynamo.config.recompile_limit)
    return torch.compile(function, fullgraph=True, dynamic=False)


def fused(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call one of the functions above: compiled if its first argument is on an accelerator, else as it stands."""
    return (_compiled(function) if arguments[0].device.type == "cuda" else function)(*arguments)
