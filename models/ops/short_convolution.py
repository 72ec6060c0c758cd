"""Short causal convolution over time, one filter a channel, with the last inputs as its state.

y_t = silu(Σ_i w_i · x_{t-W+1+i}),  i = 0 … W−1
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .packing import lengths_of, token_places


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
    B, T, C = x.shape
    W = weight.shape[-1]
    # Under autocast the weights are wider than what they are multiplied with; a wide product would be passed on.
    weight = weight.to(x.dtype)
    if mask is not None:
        # Real tokens first, in their order: then they are each other's neighbours, and the padding is behind them.
        order = mask.bool().logical_not().sort(dim=1, stable=True).indices.unsqueeze(-1)
        x = x.take_along_dim(order, dim=1)
    past = x.new_zeros(B, W - 1, C) if state is None else state.to(x.dtype).mT
    padded = torch.cat([past, x], dim=1)
    lengths = None if cu_seqlens is None else lengths_of(cu_seqlens, B, T)
    places = None if lengths is None else token_places(lengths, x.device)[1].unsqueeze(-1)

    def tap(i: int) -> Tensor:
        earlier = padded[:, i : i + T]
        return earlier if places is None else earlier.masked_fill(places < W - 1 - i, 0)

    # W products of whole sequences: for W of 4 faster than a grouped convolution on a CPU, and fused when compiled.
    y = tap(0) * weight[:, 0, 0]
    for i in range(1, W):
        y = torch.addcmul(y, tap(i), weight[:, 0, i])
    y = F.silu(y) if activation else y
    if lengths is not None and cu_seqlens is not None:
        # Row n of `padded` is the first of the W − 1 inputs before token n.
        before = torch.arange(W - 1, device=x.device)
        ends = cu_seqlens[1:].to(x.device).unsqueeze(-1) + before
        short = torch.tensor(lengths, device=x.device).unsqueeze(-1) + before < W - 1
        return y, padded[0, ends].masked_fill(short.unsqueeze(-1), 0).mT
    if mask is None:
        return y, padded[:, T:].mT
    # Row n of `padded` is the first of the W − 1 inputs that end with the n-th real token.
    last = mask.bool().sum(dim=1, keepdim=True) + torch.arange(W - 1, device=x.device)
    kept = padded.take_along_dim(last.unsqueeze(-1), dim=1)
    return torch.empty_like(y).scatter(1, order.expand_as(y), y), kept.mT
