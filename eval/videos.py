"""Frames of a video, sampled and sized as VLMEvalKit's Qwen2.5-VL wrapper asks its helper library to.

``N`` frames, an even number, stand at equal distances from the first to the last; a shorter video gives all that it
has. Every frame is resized to whole visual tokens within the limits of that wrapper's configuration for videos.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.pages import TOKEN_PIXELS
from ..errors import UserError
from ..options import TEMPORAL_PATCH
from .vlmevalkit import Message

FRAMES = 64
"""Frames of a video where none are asked for."""

MAX_PIXELS = 768 * 28 * 28
"""Largest area of one frame, in pixels."""


@dataclass(frozen=True)
class Clip:
    """Frames of a video and how many of them there are to a second."""

    frames: list[Image.Image]
    fps: float

    @property
    def metadata(self) -> dict[str, Any]:
        """What the processor wants to know, to place the frames in time."""
        indices = list(range(len(self.frames)))
        return {"total_num_frames": len(indices), "fps": self.fps, "frames_indices": indices}


def frame_indices(total: int, wanted: int) -> list[int]:
    """Which frames are taken of a video of ``total``: ``wanted``, or all, in an even number, first and last among them.

    Raises:
        ValueError: for a video of fewer than `TEMPORAL_PATCH` frames.
    """
    count = min(wanted, total) // TEMPORAL_PATCH * TEMPORAL_PATCH
    if count < TEMPORAL_PATCH:
        raise ValueError(f"{total} frames, and the vision tower joins {TEMPORAL_PATCH}")
    return [int(index) for index in np.linspace(0, total - 1, count).round()]


def load_clip(path: Path, wanted: int, min_pixels: int, max_pixels: int) -> Clip:
    """Read frames of a video.

    Args:
        path: The video.
        wanted: How many frames.
        min_pixels: Smallest area of a frame.
        max_pixels: Largest area of a frame.

    Raises:
        UserError: If it cannot be read, or is too short.
    """
    import decord
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        total, rate = len(reader), float(reader.get_avg_fps())
        indices = frame_indices(total, wanted)
        pictures = [Image.fromarray(frame) for frame in reader.get_batch(indices).asnumpy()]
    except (OSError, ValueError, RuntimeError, decord.DECORDError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the video {path} cannot be read ({reason}); download it again", 1) from None
    height, width = smart_resize(
        pictures[0].height, pictures[0].width, factor=TOKEN_PIXELS, min_pixels=min_pixels, max_pixels=max_pixels
    )
    resized = [picture.resize((width, height), Image.Resampling.BICUBIC) for picture in pictures]
    return Clip(resized, len(indices) / total * rate)


def with_frames(message: Message, processor: Any, wanted: int) -> Message:
    """The prompt with the frames of its videos in the place of their paths, within the processor's picture sizes."""
    limits = processor.image_processor.size
    smallest, largest = limits["shortest_edge"], min(limits["longest_edge"], MAX_PIXELS)
    return [
        part
        if part["type"] != "video"
        else {"type": "video", "value": load_clip(Path(part["value"]), wanted, min(smallest, largest), largest)}
        for part in message
    ]
