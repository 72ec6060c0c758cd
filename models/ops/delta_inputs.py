"""All that the gated delta rule takes, from one merged projection: short convolutions, unit length, gates.

    y_t = silu(Σ_i w_i · x_{t−W+1+i}) for q, k and v;  q̂ = q / (|q| √K), k̂ = k / |k|
    log α_t = −exp(A_log) · softplus(a_t + dt_bias),  β_t = sigmoid(b_t)

For a frame these are the largest part of what stands between matrix products: the kernel reads the projection once for
each tap, which stays in the cache, and writes each result once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .decoding import check_contiguous, takes_kernels


def delta_inputs(
    projected: Tensor, past: Tensor, filters: Tensor, A_log: Tensor, dt_bias: Tensor, H: int, K: int, V: int
) -> tuple[Tensor, ...]:
    """Compute; the kernel on an accelerator, the reference elsewhere.

    Args:
        projected: ``[B, T, H·(2 K + V) + H·V + 2 H]``: q, k, v, output gate (not read), decay, write strength.
        past: ``[B, C, W − 1]``, inputs of the short convolutions before these, for their C = H·(2 K + V) channels.
        filters: ``[C, W]``.
        A_log, dt_bias: ``[H]``.
        H, K, V: heads, key and value width.

    Returns:
        q and k ``[B, T, H, K]`` of unit length, q scaled; v ``[B, T, H, V]``; the log decay and the write strength
        ``[B, T, H]`` in float32 or wider; and the new past ``[B, C, W − 1]``.
    """
    form = kernel if takes_kernels(projected) else reference
    C, kept = filters.shape[0], filters.shape[1] - 1
    results = form(projected, past, filters, A_log, dt_bias, H, K, V)
    recent = projected[:, max(0, projected.shape[1] - kept) :, :C].mT
    return *results, torch.cat([past.to(recent.dtype), recent], dim=-1)[..., recent.shape[-1] :]


def reference(
    projected: Tensor, past: Tensor, filters: Tensor, A_log: Tensor, dt_bias: Tensor, H: int, K: int, V: int
) -> tuple[Tensor, ...]:
    """In plain torch; all but the new past."""
    T, C = projected.shape[1], filters.shape[0]
    streams, _, a, b = projected.split([C, H * V, H, H], dim=-1)
    padded = torch.cat([past.to(streams.dtype).mT, streams], dim=1)
    y = padded[:, :T] * filters[:, 0]
    for i in range(1, filters.shape[1]):
        y = y + padded[:, i : i + T] * filters[:, i]
    q, k, v = (stream.unflatten(-1, (H, -1)) for stream in F.silu(y).split([H * K, H * K, H * V], dim=-1))
    wide = torch.float64 if projected.dtype == torch.float64 else torch.float32
    q, k = ((x.to(wide) * torch.rsqrt(x.to(wide).square().sum(-1, keepdim=True) + 1e-6)) for x in (q, k))
    log_decay = -A_log.to(wide).exp() * F.softplus(a.to(wide) + dt_bias.to(wide))
    return (q * K**-0.5).to(v.dtype), k.to(v.dtype), v, log_decay, b.to(wide).sigmoid()


def kernel(
    projected: Tensor, past: Tensor, filters: Tensor, A_log: Tensor, dt_bias: Tensor, H: int, K: int, V: int
) -> tuple[Tensor, ...]:
    """By one Triton kernel; K and V are powers of two."""
    from .triton_decoding import delta_rule_inputs

    check_contiguous(projected=projected, past=past, filters=filters)
    B, T, width = projected.shape
    q, k = (projected.new_empty(B, T, H, K) for _ in range(2))
    v = projected.new_empty(B, T, H, V)
    log_decay, beta = (projected.new_empty(B, T, H, dtype=torch.float32) for _ in range(2))
    delta_rule_inputs[(B * T, H)](
        projected, past, filters, A_log, dt_bias, q, k, v, log_decay, beta, T, width,
        H=H, K=K, V=V, CONV=filters.shape[1], num_warps=2,
    )  # fmt: skip
    return q, k, v, log_decay, beta
