"""Whether memory holds a batch of videos, said with the estimate before the first of them is asked about."""

from collections.abc import Sequence
from typing import Any

from ..data.pages import TOKEN_PIXELS
from ..errors import UserError
from ..models.accounting import forward_bytes
from ..models.config import HybridVLConfig
from ..models.device import free_bytes
from ..options import TEMPORAL_PATCH
from .videos import Clip
from .vlmevalkit import Message

VALUES_A_PIXEL = 3 * 2
"""Elements a pixel that are held at a time: its colours, as the processor and as the tower have them."""


def clip_tokens(clip: Clip) -> int:
    """Visual tokens of a video."""
    frame = clip.frames[0]
    return len(clip.frames) // TEMPORAL_PATCH * (frame.width // TOKEN_PIXELS) * (frame.height // TOKEN_PIXELS)


def check_room(model: Any, messages: Sequence[Message]) -> None:
    """Refuse videos that memory does not hold.

    Args:
        model: on its device.
        messages: the prompts of a batch, with their frames.

    Raises:
        UserError: with the estimate, and what would need less.
    """
    clips: list[Clip] = [part["value"] for message in messages for part in message if part["type"] == "video"]
    if not clips or not isinstance(model.config, HybridVLConfig):
        return
    tokens = max(map(clip_tokens, clips))
    size = model.dtype.itemsize
    pixels = max(len(clip.frames) * clip.frames[0].width * clip.frames[0].height for clip in clips)
    # All prompts of a batch are as long as the longest.
    needed = len(clips) * (forward_bytes(model.config, tokens, tokens, size) + 4 * VALUES_A_PIXEL * pixels)
    free = free_bytes(model.device.type)
    if needed > free:
        raise UserError(
            f"{len(clips)} videos of {max(len(clip.frames) for clip in clips):,} frames ({tokens:,} tokens each) need "
            f"about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; give a smaller --batch-size, fewer "
            "--frames or a smaller --max-pixels",
            1,
        )
