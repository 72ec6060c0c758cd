"""`generate` on the fast path: a prompt through the model as it is, then captured decode steps."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from ...errors import UserError
from ..cache import HybridCache
from ..graph import GraphedDecoder
from ..hybrid import CACHE_ARGUMENT
from .slots import FixedCache, KeyValueSlots

TAKEN = frozenset({
    "input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "pixel_values_videos", "image_grid_thw",
    "video_grid_thw", "second_per_grid_ts",
})  # fmt: skip
"""What the processor gives."""

NOT_TAKEN: dict[str, Any] = {
    "do_sample": False, "num_beams": 1, "logits_processor": None, "assistant_model": None, "streamer": None,
    "stopping_criteria": None,
}  # fmt: skip
"""Options of `generate` that the fast path, which is greedy, does not take; each with the value that is no change."""


@torch.no_grad()
def generate(
    decoder: GraphedDecoder,
    *,
    max_new_tokens: int,
    eos_token_id: int | list[int] | None = None,
    pad_token_id: int | None = None,
    **inputs: Any,
) -> Tensor:
    """Continue a prompt greedily, as `model.generate(do_sample=False)` does.

    Args:
        decoder: of the model that is to write.
        max_new_tokens: tokens to write at most.
        eos_token_id: what ends a sequence; the model's own if None.
        pad_token_id: what fills it after its end; the model's own if None.
        **inputs: what the processor gives: ``input_ids`` ``[B, T]``, ``attention_mask`` without padding, pictures, …

    Returns:
        Prompt and continuation ``[B, T + new]``; after its end a sequence is filled with padding.

    Raises:
        UserError: for an option that is not greedy, padded prompts, or more tokens than there is room for.
    """
    for name, harmless in NOT_TAKEN.items():
        if inputs.pop(name, harmless) not in (harmless, None):
            raise UserError(f"generation by graphs is greedy and does not take {name}; leave it out, or the decoder")
    for name in inputs:
        if name not in TAKEN:
            raise UserError(f"generation by graphs does not take {name}; leave it out, or the decoder")
    model, ids = decoder.model, inputs["input_ids"]
    mask = inputs.get("attention_mask")
    if mask is not None and not bool(mask.all()):
        raise UserError("generation by graphs takes no padded prompts; give prompts of one length, or no decoder")
    if ids.shape[0] != decoder.batch_size:
        raise UserError(f"the decoder was made for {decoder.batch_size} sequences, not {ids.shape[0]}; make another")
    decoder.reset()
    decoder.cache.check_room(ids.shape[1] + max_new_tokens)
    cache = HybridCache(config=model.config.text_config)
    output = model(**inputs, use_cache=True, **{CACHE_ARGUMENT: cache}, logits_to_keep=1)
    take_over(cache, decoder.cache, ids.shape[1])
    if model.model.rope_deltas is not None:
        decoder.position_offset.copy_(model.model.rope_deltas.flatten().expand(decoder.batch_size))
    end = model.generation_config.eos_token_id if eos_token_id is None else eos_token_id
    ends = torch.tensor([end] if isinstance(end, int) else end or [], device=ids.device)
    padding = model.generation_config.pad_token_id if pad_token_id is None else pad_token_id
    if padding is None:
        padding = model.config.text_config.pad_token_id or 0
    open_ = torch.ones(ids.shape[0], dtype=torch.bool, device=ids.device)
    logits, written = output.logits[:, -1], [ids]
    for number in range(max_new_tokens):
        token = torch.where(open_, logits.argmax(dim=-1), padding)
        written.append(token[:, None])
        open_ = open_ & ~torch.isin(token, ends)
        if number + 1 == max_new_tokens or not bool(open_.any()):
            break
        logits = decoder.decode(token[:, None])
    return torch.cat(written, dim=1)


def take_over(cache: HybridCache, slots: FixedCache, tokens: int) -> None:
    """Lay what a dynamic cache holds after ``tokens`` tokens out in slots."""
    for held, layer in zip(cache.layers, slots.layers, strict=True):
        if isinstance(layer, KeyValueSlots):
            kept = min(held.keys.shape[2], layer.keys.shape[2])
            place = torch.arange(tokens - kept, tokens, device=held.keys.device) % layer.keys.shape[2]
            layer.keys.index_copy_(2, place, held.keys[:, :, -kept:].to(layer.keys.dtype))
            layer.values.index_copy_(2, place, held.values[:, :, -kept:].to(layer.values.dtype))
        elif isinstance(held, LinearAttentionCacheLayerMixin):
            layer.store(held.conv_states[0], held.recurrent_states[0])
    slots.set_length(tokens)
