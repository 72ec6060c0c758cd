"""Softmax attention over a window or over everything, without ever holding a mask of all tokens by all tokens.

transformers' own interface builds one boolean mask ``[B, 1, T, S]``; at 64 K tokens that is 4 GB, and the work of a
sliding window becomes that of full attention. Here a mask is two-dimensional (which tokens are padding), and causality
and window are given to the kernel as numbers:

    accelerator, 16 bit   FlashAttention-2's kernels: those of flash-attn where it is installed, else torch's own copy
    anything else         blocks of queries, each with the keys that it can see, by `scaled_dot_product_attention`

Both are linear in T for a window. Registered with transformers as the attention implementation `WINDOWED`, which the
hybrid's decoder takes in the place of "sdpa"; "eager", "flash_attention_2" and others stay transformers' own.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.utils import is_flash_attn_2_available

from .ops.packing import packing_of
from .ops.precision import autocast_type

WINDOWED = "windowed"
"""The name of this attention implementation in transformers' registry."""

QUERY_BLOCK = 512
"""Queries of a block on the path without kernels: no mask is larger than this by the window and it."""


def windowed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention; called as transformers calls its attention functions.

    Args:
        module: the attention layer.
        query: ``[B, H, T, K]``, the last T of the S tokens.
        key, value: ``[B, G, S, K]``, for G groups of heads.
        attention_mask: ``[B, ≥ S]``, 0 at padded tokens, its last S columns are taken; None without padding. One of
            four dimensions is transformers' own, of a cache whose slots it describes, and goes to its function.
        scaling: factor of the scores; 1/√K if None.
        dropout: probability; only FlashAttention and the blocks' own kernel apply it.
        sliding_window: tokens that a query sees, its own included; all earlier ones if None.
        cu_seq_lens_q: ``[N + 1]``, where each of N packed sequences begins, and the end; batch of one.
        **kwargs: not used (positions, which are in query and key already).

    Returns:
        ``[B, T, H, K]``, and None where other implementations return weights.
    """
    if attention_mask is not None and attention_mask.ndim == 4:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    narrow = autocast_type(query)
    if narrow is not None:
        # Rotary positions of a float32 residual stream are wide again, and kernels would not take them.
        query, key, value = query.to(narrow), key.to(narrow), value.to(narrow)
    S = key.shape[2]
    padding = None if attention_mask is None else attention_mask[:, -S:].bool()
    if padding is None and has_flash_kernels(query):
        o = flash_attention(query, key, value, scale, sliding_window, dropout, cu_seq_lens_q)
    elif cu_seq_lens_q is None:
        o = blocked_attention(query, key, value, scale, sliding_window, padding, dropout)
    else:
        lengths = packing_of(cu_seq_lens_q, query.transpose(1, 2)).lengths
        sequences = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
        alone = [blocked_attention(q, k, v, scale, sliding_window, None, dropout) for q, k, v in sequences]
        o = torch.cat(alone, dim=2)
    return o.transpose(1, 2).contiguous(), None


def has_flash_kernels(x: Tensor) -> bool:
    """Whether FlashAttention's kernels take this tensor ``[…, K]``."""
    return x.device.type == "cuda" and x.dtype in (torch.float16, torch.bfloat16) and x.shape[-1] <= 256


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    window: int | None,
    dropout: float = 0.0,
    cu_seq_lens: Tensor | None = None,
) -> Tensor:
    """FlashAttention-2, aligned at the last token; arguments as in `windowed_attention`.

    Returns:
        ``[B, H, T, K]``.
    """
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    B, T = q.shape[:2]
    S = k.shape[1]
    left = -1 if window is None else window - 1
    if cu_seq_lens is None and is_flash_attn_2_available():
        from flash_attn import flash_attn_func

        return flash_attn_func(q, k, v, dropout, scale, causal=True, window_size=(left, 0)).transpose(1, 2)
    of_queries = of_keys = None
    longest_query, longest_key = T, S
    if cu_seq_lens is not None:
        packing = packing_of(cu_seq_lens, q)
        of_queries = of_keys = packing.borders.int()
        longest_query = longest_key = max(packing.lengths)
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    o = torch.ops.aten._flash_attention_forward(
        q, k, v, of_queries, of_keys, longest_query, longest_key, dropout, True, False,
        scale=scale, window_size_left=left, window_size_right=0,
    )[0]  # fmt: skip
    return o.view(B, T, *o.shape[-2:]).transpose(1, 2)


def blocked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    window: int | None,
    padding: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention block of queries by block of queries; arguments as in `windowed_attention`.

    A padded query sees no key but its own, so that nothing is divided by zero; what it gives is never read.

    Returns:
        ``[B, H, T, K]``.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (key, value))
    T, S = query.shape[2], key.shape[2]
    if window is not None and window >= S:
        window = None
    if padding is None and window is None and (T == 1 or T == S):
        return F.scaled_dot_product_attention(query, key, value, None, dropout, is_causal=T > 1, scale=scale)
    blocks = []
    for start in range(0, T, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, T)
        first = 0 if window is None else max(0, start + S - T - window + 1)
        last = end + S - T
        position = torch.arange(start + S - T, last, device=query.device).unsqueeze(-1)
        column = torch.arange(first, last, device=query.device)
        seen = column <= position
        if window is not None:
            seen &= column > position - window
        if padding is not None:
            seen = seen & padding[:, None, None, first:last] | (column == position)
        keys, values = key[:, :, first:last], value[:, :, first:last]
        blocks.append(
            F.scaled_dot_product_attention(query[:, :, start:end], keys, values, seen, dropout, scale=scale)
        )  # fmt: skip
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=2)


def mask_of_slots(*args: Any, **kwargs: Any) -> Tensor | None:
    """transformers' mask over the slots of a foreign cache: that of "sdpa", and always there.

    Where it would leave the mask out, a static cache whose slots are not all filled is still to be read from the first
    slot on; without a mask `windowed_attention` takes the last slots for the newest tokens.
    """
    return ALL_MASK_ATTENTION_FUNCTIONS["sdpa"](*args, **(kwargs | {"allow_is_causal_skip": False}))


AttentionInterface.register(WINDOWED, windowed_attention)
# Only masks over the slots of a foreign cache are still built by transformers.
AttentionMaskInterface.register(WINDOWED, mask_of_slots)
