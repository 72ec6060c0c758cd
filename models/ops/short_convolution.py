"""Short causal convolution over time, one filter a channel, with the last inputs as its state.

y_t = silu(Σ_i w_i · x_{t-W+1+i}),  i = 0 … W−1
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .decoding import takes_kernels
from .packing import packing_of

MOST_SEQUENCES = 65535
"""Of a batch, for the kernels: they are a dimension of the grid, and CUDA allows no more."""


def short_convolution(
    x: Tensor,
    weight: Tensor,
    state: Tensor | None = None,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    *,
    activation: bool = True,
) -> tuple[Tensor, Tensor]:
    """Convolve every channel with its own filter and apply SiLU.

    Args:
        x: ``[B, T, C]``.
        weight: ``[C, 1, W]``, the newest token's weight last.
        state: ``[B, C, W - 1]``, the inputs before x, oldest first; zeros if None. Not for packed sequences.
        mask: ``[B, T]``, 0 at padded tokens, which the filters pass over wherever they stand; None without padding.
        cu_seqlens: ``[N + 1]``, borders of packed sequences, across which no filter looks; None without packing.
        activation: whether SiLU is applied.

    Returns:
        ``[B, T, C]``, and the new state ``[B, C, W - 1]`` in x's dtype, of every packed sequence ``[N, C, W - 1]``.
    """
    T, kept = x.shape[1], weight.shape[-1] - 1
    if mask is not None:
        # Real tokens first, in their order: then they are each other's neighbours, and the padding is behind them.
        order = mask.bool().logical_not().sort(dim=1, stable=True).indices.unsqueeze(-1)
        x = x.take_along_dim(order, dim=1)
    packing = None if cu_seqlens is None else packing_of(cu_seqlens, x)
    inputs = x if state is None else torch.cat([state.to(x.dtype).mT, x], dim=1)
    y = filtered(inputs, weight, T, None if packing is None else packing.places, activation=activation)
    if packing is not None:
        ends = packing.borders[1:]
        return y, _last(inputs.expand(len(ends), -1, -1), ends, packing.borders.diff(), kept)
    if mask is None:
        recent = inputs[:, max(0, inputs.shape[1] - kept) :]
        return y, F.pad(recent, (0, 0, kept - recent.shape[1], 0)).mT
    ends = mask.bool().sum(dim=1) + inputs.shape[1] - T
    return torch.empty_like(y).scatter(1, order.expand_as(y), y), _last(inputs, ends, ends, kept)


def _last(inputs: Tensor, ends: Tensor, lengths: Tensor, kept: int) -> Tensor:
    """The last ``kept`` inputs before each end, ``[N, C, kept]``; zero before a sequence's first.

    Args:
        inputs: ``[N, S, C]``.
        ends: ``[N]``, places in the S.
        lengths: ``[N]``, how many of the inputs before the end are the sequence's.
        kept: how many are wanted.
    """
    if inputs.shape[1] == 0:
        return inputs.new_zeros(len(ends), inputs.shape[2], kept)
    back = torch.arange(-kept, 0, device=inputs.device)
    at = (ends.unsqueeze(-1) + back).clamp(min=0).unsqueeze(-1)
    missing = lengths.unsqueeze(-1) + back < 0
    return inputs.take_along_dim(at, dim=1).masked_fill(missing.unsqueeze(-1), 0).mT


def filtered(x: Tensor, weight: Tensor, T: int, places: Tensor | None = None, *, activation: bool = True) -> Tensor:
    """The convolution alone, for the last T of the tokens x; one kernel on an accelerator.

    Args:
        x: ``[B, S, C]``.
        weight: ``[C, 1, W]``.
        T: outputs; the S − T inputs before them, T or T + W − 1 in all, are the past.
        places: ``[T]``, each token's place in its packed sequence; None without packing.
        activation: whether SiLU is applied.

    Returns:
        ``[B, T, C]`` in x's dtype.
    """
    if takes_kernels(x) and x.shape[0] <= MOST_SEQUENCES:
        return _Filtered.apply(x.contiguous(), weight.contiguous(), T, places, activation)
    return reference(x, weight, T, places, activation=activation)


def reference(x: Tensor, weight: Tensor, T: int, places: Tensor | None = None, *, activation: bool = True) -> Tensor:
    """In plain torch: W products of whole sequences, for W of 4 faster than a grouped convolution on a CPU."""
    W = weight.shape[-1]
    # Under autocast the weights are wider than what they are multiplied with; a wide product would be passed on.
    weight = weight.to(x.dtype)
    padded = F.pad(x, (0, 0, T + W - 1 - x.shape[1], 0))
    places = None if places is None else places.unsqueeze(-1)

    def tap(i: int) -> Tensor:
        earlier = padded[:, i : i + T]
        return earlier if places is None else earlier.masked_fill(places < W - 1 - i, 0)

    y = tap(0) * weight[:, 0, 0]
    for i in range(1, W):
        y = torch.addcmul(y, tap(i), weight[:, 0, i])
    return F.silu(y) if activation else y


class _Filtered(torch.autograd.Function):
    """By kernels; x ``[B, S, C]`` and filters ``[C, 1, W]``, contiguous."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor, T: int, places: Tensor | None, activation: bool) -> Tensor:
        ctx.save_for_backward(x, filters, places)
        ctx.T, ctx.activation = T, activation
        return _convolve(x, filters, T, places, activation)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        from .triton_surroundings import convolve_backward

        x, filters, places = ctx.saved_tensors
        (B, S, C), W = x.shape, filters.shape[-1]
        dz = dy.contiguous()
        if ctx.activation:
            # What came out before SiLU is made again: keeping it would cost as much memory as the input.
            dz = _convolve(x, filters, ctx.T, places, activation=True, dy=dz)
        dx = torch.empty_like(x)
        grid = -(-S // 64), -(-C // 64), B
        partial = torch.empty(B * grid[0], W, C, dtype=torch.float32, device=x.device)
        with torch.cuda.device_of(x):
            convolve_backward[grid](
                x, filters, places, dz, dx, partial, ctx.T, S, C,
                W=W, PACKED=places is not None, BLOCK_S=64, BLOCK_C=64, num_warps=4,
            )  # fmt: skip
        return dx, partial.sum(0).mT.unsqueeze(1).to(filters.dtype), None, None, None


def _convolve(
    x: Tensor, filters: Tensor, T: int, places: Tensor | None, activation: bool, dy: Tensor | None = None
) -> Tensor:
    """The outputs, or, given their gradient, the gradient before SiLU; ``[B, T, C]``."""
    from .triton_surroundings import convolve

    (B, S, C), W = x.shape, filters.shape[-1]
    y = x.new_empty(B, T, C)
    with torch.cuda.device_of(x):
        convolve[(-(-T // 32), -(-C // 128), B)](
            x, filters, places, dy, y, T, S, C,
            W=W, PACKED=places is not None, ACTIVATION=activation, GRADIENT=dy is not None,
            BLOCK_T=32, BLOCK_C=128, num_warps=4,
        )  # fmt: skip
    return y
