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


def gated_head_norm(o: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of each head's output ``[B, T, H, V]``, times silu(gate) of the same shape."""
    wide = o if o.dtype == torch.float64 else o.float()
    normed = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(o.dtype) * weight
    return normed * F.silu(gate)


def delta_rule_inputs(
    projected: Tensor, past: Tensor, filters: Tensor, A_log: Tensor, dt_bias: Tensor, H: int, K: int, V: int
) -> tuple[Tensor, ...]:
    """All that the gated delta rule takes, from one merged projection.

    Args:
        projected: ``[B, T, H·(2 K + V) + H·V + 2 H]``: q, k, v, output gate, decay, write strength.
        past: ``[B, C, W − 1]``, inputs of the short convolutions before these, for their C = H·(2 K + V) channels.
        filters: ``[C, W]``.
        A_log, dt_bias: ``[H]``.
        H, K, V: heads, key and value width.

    Returns:
        q and k ``[B, T, H, K]`` of unit length, q scaled; v and the output gate ``[B, T, H, V]``; the log decay and the
        write strength ``[B, T, H]`` in float32 or wider; and the new past ``[B, C, W − 1]``.
    """
    T, C = projected.shape[1], filters.shape[0]
    streams, gate, a, b = projected.split([C, H * V, H, H], dim=-1)
    padded = torch.cat([past.to(streams.dtype).mT, streams], dim=1)
    y = padded[:, :T] * filters[:, 0]
    for i in range(1, filters.shape[1]):
        y = y + padded[:, i : i + T] * filters[:, i]
    q, k, v = (stream.unflatten(-1, (H, -1)) for stream in F.silu(y).split([H * K, H * K, H * V], dim=-1))
    wide = torch.float64 if projected.dtype == torch.float64 else torch.float32
    q, k = ((x.to(wide) * torch.rsqrt(x.to(wide).square().sum(-1, keepdim=True) + 1e-6)) for x in (q, k))
    log_decay = -A_log.to(wide).exp() * F.softplus(a.to(wide) + dt_bias.to(wide))
    return (
        (q * K**-0.5).to(v.dtype), k.to(v.dtype), v, gate.unflatten(-1, (H, V)),
        log_decay, b.to(wide).sigmoid(), padded[:, T:].mT.contiguous(),
    )  # fmt: skip


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, dynamic=False)


def fused(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call one of the functions above: compiled if its first argument is on an accelerator, else as it stands."""
    return (_compiled(function) if arguments[0].device.type == "cuda" else function)(*arguments)
