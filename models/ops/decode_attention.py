"""Attention of one new token over slots of keys and values that lie at fixed addresses, in any order.

    o = softmax(scale · q Kᵀ) V   over the first ``used`` slots

Rotary positions are in the keys already, so the order of the slots does not matter, and a window is a ring of slots.
The kernel splits the slots over programs and merges their partial softmaxes (flash decoding, as in FlashAttention-2's
split-KV kernel); how many slots are used is read on the device, so that a CUDA graph can be replayed to any length.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SLOTS_PER_PROGRAM = 256
"""Slots of the smallest piece that a program reads."""

MOST_PIECES = 128
"""Pieces that one head's slots are cut into at most: more would only make the merge longer."""


def decode_attention(query: Tensor, keys: Tensor, values: Tensor, used: Tensor, scale: float) -> Tensor:
    """Attend; the kernel on an accelerator in 16 bit, the reference elsewhere.

    Args:
        query: ``[B, H, 1, K]``.
        keys, values: ``[B, G, S, K]`` for G groups of heads, contiguous.
        used: ``[]`` int64 on the same device, how many of the S slots hold tokens; at least 1.
        scale: factor of the scores.

    Returns:
        ``[B, H, 1, K]``.
    """
    if query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16):
        return kernel(query, keys, values, used, scale)
    return reference(query, keys, values, used, scale)


def reference(query: Tensor, keys: Tensor, values: Tensor, used: Tensor, scale: float) -> Tensor:
    """By `scaled_dot_product_attention` over all slots, those without a token masked."""
    groups = query.shape[1] // keys.shape[1]
    keys, values = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (keys, values))
    mask = (torch.arange(keys.shape[2], device=keys.device) < used)[None, None, None]
    return F.scaled_dot_product_attention(query, keys, values, mask, scale=scale)


def kernel(query: Tensor, keys: Tensor, values: Tensor, used: Tensor, scale: float) -> Tensor:
    """By two Triton kernels: partial results of pieces of the slots, and their sum."""
    from .triton_decoding import attend_piece, merge_pieces

    B, H, _, K = query.shape
    G, S = keys.shape[1:3]
    per_piece = SLOTS_PER_PROGRAM
    while -(-S // per_piece) > MOST_PIECES:
        per_piece *= 2
    pieces = -(-S // per_piece)
    partial = query.new_empty(B, H, pieces, K, dtype=torch.float32)
    weight = query.new_empty(B, H, pieces, 2, dtype=torch.float32)
    o = torch.empty_like(query)
    attend_piece[(B * G, pieces)](
        query.contiguous(), keys, values, used, partial, weight, scale, S, pieces, per_piece,
        G=G, HEADS=H // G, HEADS_PADDED=max(16, _power_of_two(H // G)), K=K, BLOCK=64,
    )  # fmt: skip
    merge_pieces[(B * H,)](partial, weight, o, pieces, K=K, PIECES_PADDED=_power_of_two(pieces))
    return o


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
