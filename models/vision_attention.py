"""The vision tower's attention, with all windows of one size in one call.

transformers' own takes each window by itself: of a picture of 1,024 × 1,024 pixels some eighty calls a layer, each to
be launched. Windows of a picture have few sizes (whole ones, and those at its edges), so a layer is a call for each
size; pictures of one size likewise share the calls of layers that see all.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionAttention, apply_rotary_pos_emb_vision

from .ops.packing import packing_of


class BatchedVisionAttention(Qwen2_5_VLVisionAttention):
    """Qwen2.5-VL's, but for how "sdpa" is called; every other implementation is transformers' own."""

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        max_seqlen: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Attend within each sequence of patches; called as transformers calls it.

        Args:
            hidden_states: ``[P, D]``, the patches of all pictures, sequence by sequence.
            cu_seqlens: ``[N + 1]``, where each of N sequences (windows, or whole pictures) begins, and the end.
            position_embeddings: cosine and sine ``[P, K]`` of the rotary angles.
            max_seqlen: for other implementations.
            **kwargs: likewise.

        Returns:
            ``[P, D]``.
        """
        if position_embeddings is None or self.config._attn_implementation != "sdpa":
            return super().forward(hidden_states, cu_seqlens, position_embeddings, max_seqlen, **kwargs)
        P = hidden_states.shape[0]
        q, k, v = self.qkv(hidden_states).view(P, 3, self.num_heads, -1).unbind(1)
        q, k = apply_rotary_pos_emb_vision(q, k, *position_embeddings)
        lengths = packing_of(cu_seqlens, hidden_states.unsqueeze(0)).lengths
        return self.proj(attend_within(q, k, v, lengths, self.scaling).flatten(1))


def attend_within(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], scale: float) -> Tensor:
    """Attention of everything to everything within each of N sequences, one call for each length that occurs.

    Args:
        q, k, v: ``[P, H, K]``, sequence by sequence.
        lengths: of the sequences, none of them empty; they sum to P.
        scale: of the scores.

    Returns:
        ``[P, H, K]``.
    """
    in_order = sorted(lengths)
    if in_order == lengths:
        return _groups(q, k, v, lengths, scale)
    places, back = _by_length(tuple(lengths), q.device)
    q, k, v = (x.index_select(0, places) for x in (q, k, v))
    return _groups(q, k, v, in_order, scale).index_select(0, back)


@lru_cache(maxsize=4)
def _by_length(lengths: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Places ``[P]`` of what is sorted by its sequence's length, and back; laid out once for all layers of a tower."""
    # Gradients need them later, though inference may be the first to ask.
    with torch.inference_mode(False):
        of_each = torch.arange(sum(lengths)).split(lengths)
        # Sequences of a length keep their order: the patches of a group follow each other.
        places = torch.cat([of_each[n] for n in sorted(range(len(lengths)), key=lengths.__getitem__)])
        return places.to(device), places.argsort().to(device)


def _groups(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], scale: float) -> Tensor:
    """`attend_within` for sequences in the order of their lengths."""
    counts = {length: lengths.count(length) for length in dict.fromkeys(lengths)}
    sizes = [length * count for length, count in counts.items()]
    attended = []
    for length, *parts in zip(counts, *(x.split(sizes) for x in (q, k, v)), strict=True):
        of_q, of_k, of_v = (x.unflatten(0, (-1, length)).transpose(1, 2) for x in parts)
        o = F.scaled_dot_product_attention(of_q, of_k, of_v, scale=scale)
        attended.append(o.transpose(1, 2).flatten(0, 1))
    return torch.cat(attended)


def batch_windows(visual: nn.Module) -> None:
    """Have a tower of transformers' attend so: the same modules and weights, called in another way."""
    for module in visual.modules():
        if type(module) is Qwen2_5_VLVisionAttention:
            module.__class__ = BatchedVisionAttention
