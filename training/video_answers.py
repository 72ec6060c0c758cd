"""Questions about long videos, with the memory of the model's cache alone: watched chunk by chunk, asked one by one.

A video's tokens pass through the model in chunks whose state is handed on, and every question is asked of a copy of
what is remembered after the last one. So a model of constant state needs the same memory for a video of any length, and
one with full attention no more than its cache; what that will be is said before anything is begun.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from ..data.moving import FRAMES
from ..errors import UserError
from ..models.accounting import cache_elements, forward_bytes
from ..models.cache import HybridCache
from ..models.device import free_bytes
from ..models.hybrid import CACHE_ARGUMENT
from .fixed_videos import MOMENT_TOKENS, Answers, FixedVideos, questions_of, turns_right

CHUNK_TOKENS = 512
BATCH = 128
"""Most videos that are watched at a time."""

SHARE = 0.5
"""Of the free memory, what may be planned with: kernels want room too."""

COPIES = 3
"""Caches held at a time: what is remembered, the copy that a question is asked of, and keys that a layer repeats."""


def answers_alone(model: Any, videos: FixedVideos, batch_size: int | None = None) -> list[list[float]]:
    """By video and question, whether it is answered to the letter, each asked alone after the whole video.

    Args:
        model: in evaluation mode, on the device of the videos.
        videos: all of one length.
        batch_size: videos at a time; as many as memory holds, up to `BATCH`, if None.

    Raises:
        UserError: if memory does not hold one of these videos.
    """
    count = len(videos.timelines[0].moments)
    if any(len(one.moments) != count for one in videos.timelines):
        raise ValueError("videos of several lengths cannot be watched side by side")
    device = videos.counts.device
    size = batch_size or batch_that_fits(model.config, videos.timelines[0].frames, free_bytes(device.type))
    asked = [
        Answers.of(videos.writing, questions_of(videos.timelines, number), str(device))
        for number in range(len(videos.timelines[0].questions))
    ]
    found: list[list[float]] = []
    for indices in torch.arange(len(videos), device=device).split(size):
        remembered = watch(model, videos, indices)
        rows = [_ask(model, remembered, videos, text, indices) for text in asked]
        found += torch.stack(rows, dim=1).double().tolist()
    return found


@torch.no_grad()
def watch(model: Any, videos: FixedVideos, indices: Tensor, chunk_tokens: int = CHUNK_TOKENS) -> HybridCache:
    """What the model remembers of videos ``indices`` ``[B]`` of one length after the last token of each."""
    cache = HybridCache(config=model.config.get_text_config(decoder=True))
    count = len(videos.timelines[0].moments)
    end = len(videos.writing.before) + MOMENT_TOKENS * count
    for columns in torch.arange(end, device=indices.device).split(chunk_tokens):
        positions = videos.positions(columns, videos.counts[indices])
        _forward(model, _embedded(model, videos, indices, columns), positions, cache)
    return cache


def _embedded(model: Any, videos: FixedVideos, indices: Tensor, columns: Tensor) -> Tensor:
    """``[B, C, D]``: the opening's embeddings, and the features after it."""
    features = videos.look(indices, columns)
    opening = model.get_input_embeddings()(videos.before)
    written = opening[columns.clamp(max=len(opening) - 1)].expand(len(indices), -1, -1)
    return torch.where((columns >= len(opening)).unsqueeze(-1), features.to(written.dtype), written)


@torch.no_grad()
def written_after(model: Any, remembered: HybridCache, videos: FixedVideos, text: Answers, indices: Tensor) -> Tensor:
    """The likeliest token ``[B, A]`` at each place of an answer, after the true ones; what is remembered stays."""
    ids, slots = text.ids[indices], text.slots[indices]
    start = len(videos.writing.before) + MOMENT_TOKENS * len(videos.timelines[0].moments)
    columns = start + torch.arange(ids.shape[1], device=ids.device)
    embeds = model.get_input_embeddings()(ids)
    hidden = _forward(model, embeds, videos.positions(columns, videos.counts[indices]), deepcopy(remembered))
    before = (slots - 1).unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
    written: Tensor = model.lm_head(hidden.gather(1, before)).argmax(-1)
    return written


def _ask(model: Any, remembered: HybridCache, videos: FixedVideos, text: Answers, indices: Tensor) -> Tensor:
    """Which videos' question is answered right, ``[B]``."""
    turns = text.turns[indices]
    wrong = (written_after(model, remembered, videos, text, indices) != text.targets[indices]) & (turns >= 0)
    return turns_right(wrong, turns)[:, 0]


def _forward(model: Any, embeds: Tensor, positions: Tensor, cache: HybridCache) -> Tensor:
    language = model.model.language_model
    hidden: Tensor = language(
        inputs_embeds=embeds, position_ids=positions, use_cache=True, **{CACHE_ARGUMENT: cache}
    ).last_hidden_state
    return hidden


def watching_bytes(config: Any, frames: int) -> int:
    """Memory that watching one video of so many frames needs beyond the weights, about, in float32."""
    tokens = frames // FRAMES * MOMENT_TOKENS
    copies = 4 * (COPIES - 1) * cache_elements(config, tokens)
    return copies + forward_bytes(config, tokens, CHUNK_TOKENS)


def batch_that_fits(config: Any, frames: int, free: float) -> int:
    """How many videos can be watched side by side.

    Raises:
        UserError: with the estimate, if not one.
    """
    needed = watching_bytes(config, frames)
    if needed > SHARE * free:
        raise UserError(
            f"a video of {frames:,} frames needs about {needed / 1e9:.1f} GB and {SHARE * free / 1e9:.1f} GB of "
            f"{free / 1e9:.1f} GB free may be used; ask for fewer frames, or leave out arms with full attention"
        )
    return max(1, min(BATCH, int(SHARE * free / needed)))
