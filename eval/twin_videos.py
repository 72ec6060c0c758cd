"""Synthetic videos in the official form of Video-MME and LongVideoBench: pages one after another, one asked about.

Each question is about one scene, so a model has to keep what it saw; the form (columns, tasks, durations) is the
benchmark's, and its names are dealt out over the rows so that every part of its scorer runs. A video has as many frames
as will be asked for: a longer one shows each scene for longer.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from ..data.pages import Page
from ..errors import UserError
from .benchmarks import Benchmark
from .twin_rows import OPTIONS, Row, options_of

FRAMES_PER_SECOND = 2
SCENES = 4
FEWEST_FRAMES = 4 * SCENES
SIDE = 140
"""Side of a frame in pixels: five visual tokens."""

DURATIONS = ("short", "medium", "long")
TASKS = ("Attribute Perception", "Counting Problem", "Object Recognition", "Temporal Perception")
GROUPS = (15, 60, 600, 3600)
CATEGORIES = ("S2E", "S2O", "S2A", "T2O")


def frames_a_scene(frames: int) -> int:
    """Frames of each scene of a video that is to have so many at least."""
    return -(-max(frames, FEWEST_FRAMES) // SCENES)


def write_video(path: Path, pages: list[Page], frames: int) -> None:
    """Write pages as scenes of an MP4 file, ``frames`` of each.

    Raises:
        UserError: If the file cannot be written here.
    """
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FRAMES_PER_SECOND, (SIDE, SIDE))
    if not writer.isOpened():
        raise UserError(f"cannot write the video {path}; this OpenCV has no MP4 encoder", 1)
    for page in pages:
        frame = np.asarray(page.image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))[:, :, ::-1]
        for _ in range(frames):
            writer.write(np.ascontiguousarray(frame))
    writer.release()


def video_row(benchmark: Benchmark, number: int, pages: list[Page], frames: int, folder: str) -> Row:
    """The row of one video.

    Args:
        benchmark: Whose form.
        number: Which video, from 0; it also picks the scene that is asked about.
        pages: The scenes.
        frames: Of each scene.
        folder: Where the videos are, beside the table.
    """
    place = number % len(pages)
    page = pages[place]
    question = page.questions[number % len(page.questions)]
    options = options_of(question, page)
    text = f"In scene {place + 1} of {len(pages)}: {question.text}"
    letter = options.index(question.answers[0])
    name = f"{number:05d}"
    row: Row = {"index": number, "video": name, "video_path": f"./{folder}/{name}.mp4", "question": text}
    if benchmark.name == "Video-MME":
        listed = [f"{mark}. {option}" for mark, option in zip(OPTIONS, options, strict=False)]
        return row | {
            "duration": DURATIONS[number % len(DURATIONS)], "domain": "Knowledge", "candidates": repr(listed),
            "sub_category": "Technology", "task_type": TASKS[number % len(TASKS)],
            "subtitle_path": f"./subtitle/{name}.srt", "answer": OPTIONS[letter],
        }  # fmt: skip
    return row | {
        "duration": len(pages) * frames / FRAMES_PER_SECOND, "duration_group": GROUPS[number % len(GROUPS)],
        "question_category": CATEGORIES[number % len(CATEGORIES)], "candidates": repr(list(options)),
        "correct_choice": letter, "subtitle_path": f"{name}.json", "starting_timestamp_for_subtitles": 0,
    }  # fmt: skip
