"""Attention of new tokens over slots of keys and values that lie at fixed addresses.

    o_t = softmax(scale · q_t Kᵀ) V   over the tokens that t may see

Slots are a ring where there is a window, and the token that comes after n others stands in slot n mod S. Positions are
in the keys already (rotary), so a query needs to know of a slot only whether it holds a token and how old that is. Both
follow from n, which is read on the device: a CUDA graph can be replayed to any length.

The kernels cut the slots into pieces, one a program, and merge their partial softmaxes, as FlashAttention's split-KV
kernel does: a handful of queries alone would keep a tenth of a GPU busy.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .decoding import check_contiguous, fits_a_block, power_of_two, takes_kernels

SLOTS_PER_PIECE, MOST_PIECES = 128, 128
"""For one token: slots of a piece at least, and pieces at most, since each makes the merge longer."""

LOG2_E = math.log2(math.e)

CHUNK_PIECES = 8
"""For a chunk, whose queries and heads are many programs already."""


def decode_attention(
    projected: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, seen: Tensor, scale: float
) -> Tensor:
    """Turn one token's q and k, store its k and v, attend; kernels on an accelerator, else the reference.

    Args:
        projected: ``[B, H + 2 G, K]``, q of H heads, k and v of G groups, without positions.
        cos, sin: ``[B, K]``, of the token's rotary angles; their halves are equal.
        keys, values: ``[B, G, S, K]``, contiguous; the token's slot is overwritten.
        seen: ``[]`` int64 on the same device, tokens before this one.
        scale: factor of the scores.

    Returns:
        ``[B, H, K]``.
    """
    form = decode_kernel if takes_kernels(projected) and fits_a_block(projected.shape[-1]) else decode_reference
    return form(projected, cos, sin, keys, values, seen, scale)


def decode_reference(
    projected: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, seen: Tensor, scale: float
) -> Tensor:
    """By `scaled_dot_product_attention` over all slots, those without a token masked."""
    G, S = keys.shape[1:3]
    query, key, value = projected.split([projected.shape[1] - 2 * G, G, G], dim=1)
    slot = (seen % S).view(1)
    keys.index_copy_(2, slot, _turned(key, cos, sin).unsqueeze(2).to(keys.dtype))
    values.index_copy_(2, slot, value.unsqueeze(2).to(values.dtype))
    groups = query.shape[1] // G
    every_key, every_value = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (keys, values))
    mask = (torch.arange(S, device=keys.device) <= seen)[None, None, None]
    query = _turned(query, cos, sin).unsqueeze(2)
    return F.scaled_dot_product_attention(query, every_key, every_value, mask, scale=scale).squeeze(2)


def decode_kernel(
    projected: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, seen: Tensor, scale: float
) -> Tensor:
    """By three Triton kernels."""
    from .triton_decoding import attend_piece, merge_pieces, rotate_and_store

    check_contiguous(projected=projected, cos=cos, sin=sin, keys=keys, values=values)
    B, G, S, K = keys.shape
    H = projected.shape[1] - 2 * G
    query, o = (projected.new_empty(B, H, K) for _ in range(2))
    rotate_and_store[(B, H + 2 * G)](projected, cos, sin, seen, query, keys, values, S, H=H, G=G, K=K, num_warps=1)
    pieces = max(1, min(MOST_PIECES, S // SLOTS_PER_PIECE))
    partial = query.new_empty(B, H, pieces, K, dtype=torch.float32)
    weight = query.new_empty(B, H, pieces, 2, dtype=torch.float32)
    attend_piece[(B * G, pieces)](
        query, keys, values, seen, partial, weight, scale * LOG2_E, S, pieces,
        G=G, HEADS=H // G, HEADS_PADDED=max(16, power_of_two(H // G)), K=K, BLOCK=64,
    )  # fmt: skip
    merge_pieces[(B * H,)](partial, weight, o, 1, pieces, H=H, K=K, PIECES_PADDED=power_of_two(pieces))
    return o


def chunk_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    seen: Tensor,
    window: int | None,
    scale: float,
) -> Tensor:
    """Attend from T new tokens to the slots and to each other; nothing is stored.

    Args:
        query: ``[B, T, H, K]``, contiguous, with its positions.
        key, value: ``[B, T, G, K]``, contiguous, likewise.
        keys, values: ``[B, G, S, K]``, contiguous.
        seen: ``[]`` int64 on the same device, tokens before these.
        window: tokens that a query sees, its own included; None for all. With one, the slots are a ring of its size.
        scale: factor of the scores.

    Returns:
        ``[B, T, H, K]``.
    """
    form = chunk_kernel if takes_kernels(query) and fits_a_block(query.shape[-1]) else chunk_reference
    return form(query, key, value, keys, values, seen, window, scale)


def chunk_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    seen: Tensor,
    window: int | None,
    scale: float,
) -> Tensor:
    """By `scaled_dot_product_attention` with a mask of T by S + T."""
    T, S = query.shape[1], keys.shape[2]
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    slot, t = torch.arange(S, device=seen.device), torch.arange(T, device=seen.device)
    # How many tokens ago, seen from the first new one; those of the new ones are not in the past.
    age = torch.cat([(seen - 1 - slot) % S + 1, -t])
    distance = t[:, None] + age
    allowed = (distance >= 0) & torch.cat([slot < seen, torch.ones_like(t, dtype=torch.bool)])
    if window is not None:
        allowed &= distance < window
    groups = query.shape[1] // key.shape[1]
    every = [torch.cat([slots, new.to(slots.dtype)], dim=2) for slots, new in ((keys, key), (values, value))]
    every_key, every_value = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in every)
    return F.scaled_dot_product_attention(query, every_key, every_value, allowed, scale=scale).transpose(1, 2)


def chunk_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    seen: Tensor,
    window: int | None,
    scale: float,
) -> Tensor:
    """By two Triton kernels."""
    from .triton_decoding import attend_chunk_piece, merge_pieces

    check_contiguous(query=query, key=key, value=value, keys=keys, values=values)
    B, T, H, K = query.shape
    G, S = keys.shape[1:3]
    pieces = CHUNK_PIECES
    partial = query.new_empty(B, H, T, pieces + 1, K, dtype=torch.float32)
    weight = query.new_empty(B, H, T, pieces + 1, 2, dtype=torch.float32)
    o = torch.empty_like(query)
    block = min(128, max(16, power_of_two(T)))
    attend_chunk_piece[(-(-T // block), B * H, pieces + 1)](
        query, key, value, keys, values, seen, partial, weight, scale * LOG2_E, T, S, pieces,
        G=G, H=H, K=K, WINDOW=window or 0, BLOCK_T=block, BLOCK=64, num_warps=8 if block == 128 else 4,
    )  # fmt: skip
    merge_pieces[(B * H * T,)](
        partial, weight, o, T, pieces + 1, H=H, K=K, PIECES_PADDED=power_of_two(pieces + 1), num_warps=1
    )  # fmt: skip
    return o


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions of ``[B, heads, K]``."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.unsqueeze(1) + torch.cat([-second, first], dim=-1) * sin.unsqueeze(1)
