"""Frames of a video file, sampled evenly; decoded by OpenCV."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .conversations import BrokenSampleError


@dataclass(frozen=True)
class VideoLimits:
    """How a video is sampled.

    Attributes:
        fps: frames a second that are wanted.
        frames: most frames of one video; a longer one is sampled more thinly.
        pixels: largest area of a frame.
    """

    fps: float = 2.0
    frames: int = 128
    pixels: int = 256 * 256


@dataclass(frozen=True)
class VideoPlan:
    """Which frames are taken, by number, how large they are in pixels, and how many seconds lie between two."""

    indices: tuple[int, ...]
    height: int
    width: int
    seconds_between: float


def plan_video(path: Path, limits: VideoLimits, origin: str) -> VideoPlan:
    """Say which frames to take, after decoding the first one.

    Raises:
        BrokenSampleError: if the file does not decode.
    """
    capture = _open(path, origin)
    try:
        found, frame = capture.read()
        if not found:
            raise BrokenSampleError(f"{origin}: video {path} does not decode")
        import cv2

        total, rate = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), float(capture.get(cv2.CAP_PROP_FPS)) or 1.0
    finally:
        capture.release()
    total = max(total, 1)
    wanted = min(total, limits.frames, max(1, round(total / rate * limits.fps)))
    indices = np.linspace(0, total - 1, wanted).round().astype(int)
    return VideoPlan(tuple(indices.tolist()), frame.shape[0], frame.shape[1], total / rate / wanted)


def read_frames(path: Path, plan: VideoPlan, origin: str) -> np.ndarray:
    """Decode the planned frames: ``[N, height, width, 3]``, RGB in 8 bits.

    Raises:
        BrokenSampleError: if the file ends, or stops to decode, before the last of them.
    """
    capture, wanted = _open(path, origin), set(plan.indices)
    frames = []
    try:
        for number in range(plan.indices[-1] + 1):
            if not capture.grab():
                break
            if number in wanted:
                found, frame = capture.retrieve()
                if not found:
                    break
                frames.append(frame[:, :, ::-1])
    finally:
        capture.release()
    if len(frames) < len(plan.indices):
        raise BrokenSampleError(
            f"{origin}: video {path} does not decode after {len(frames)} of {len(plan.indices)} frames"
        )
    return np.stack(frames)


def frames_and_rate(path: Path) -> tuple[int, float]:
    """How many frames a video says it has, and how many a second.

    Raises:
        BrokenSampleError: if the file does not open.
    """
    import cv2

    capture = _open(path, "stream")
    try:
        return max(1, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))), float(capture.get(cv2.CAP_PROP_FPS)) or 1.0
    finally:
        capture.release()


def each_frame(path: Path, share: float, count: int) -> Iterator[Image.Image]:
    """Frames of a video one by one, each decoded when it is asked for.

    Args:
        path: the file.
        share: of the frames that are taken, evenly; at most 1.
        count: where to stop; earlier if the file ends.

    Raises:
        BrokenSampleError: if the file does not open.
    """
    capture, given, position = _open(path, "stream"), 0, 0
    try:
        while given < count and capture.grab():
            position += 1
            if position * share < given + 1 - 1e-9:
                continue
            found, frame = capture.retrieve()
            if not found:
                return
            given += 1
            yield Image.fromarray(np.ascontiguousarray(frame[:, :, ::-1]))
    finally:
        capture.release()


def _open(path: Path, origin: str) -> Any:
    import cv2

    # Its backends write to the terminal what the error below says.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise BrokenSampleError(f"{origin}: video {path} {'does not decode' if path.is_file() else 'is not there'}")
    return capture
