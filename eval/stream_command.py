"""`infinitevl-bench stream`: a video as a stream, frame by frame, with questions at given frames.

What is printed of speed is the wall time of everything that a user waits for, decoding and resizing included; for
figures beside their floor there is `profile stream`.
"""

import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from PIL import Image
from rich.progress import Progress

from ..data.conversations import BrokenSampleError
from ..data.video import each_frame, frames_and_rate
from ..errors import UserError
from ..models.checkpoints import LoadedModel, load_model
from ..models.device import resolve_device
from ..models.shipped import named
from ..models.streaming import StreamingSession
from ..printing import PlainConsole

ANSWER_ROOM = 512
"""Tokens that are laid out for a question and its answer, where layers of full attention need room beforehand."""

SHOWN_EVERY_SECONDS = 5.0
"""How often a line of progress is written where there is no terminal to draw in."""


def parse_questions(asks: list[str], frames: int) -> dict[int, list[str]]:
    """Questions by the number of frames after which they are asked.

    Args:
        asks: ``FRAME:QUESTION`` each.
        frames: how many frames there are.

    Raises:
        UserError: for another form, or a frame that the video does not have.
    """
    questions: dict[int, list[str]] = {}
    for ask in asks:
        number, colon, question = ask.partition(":")
        if not (colon and number.strip().isdigit() and question.strip()):
            raise UserError(f"--ask {ask!r} is not FRAME:QUESTION; write, say, --ask '100:what does the sign say ?'")
        if not 1 <= int(number) <= frames:
            raise UserError(f"--ask {ask!r}: the video gives frames 1 to {frames}; ask after one of them")
        questions.setdefault(int(number), []).append(question.strip())
    return questions


def stream_command(
    video: Path,
    asks: list[str],
    *,
    model: str | None,
    frames_per_second: float | None,
    max_frames: int | None,
    max_new_tokens: int,
    device: str,
) -> dict[int, list[str]]:
    """Watch a video, print frames per second as it goes, and answers where they are asked for.

    Args:
        video: a file that OpenCV decodes.
        asks: ``FRAME:QUESTION`` each, asked after that many frames.
        model: as `eval` takes it; the shipped one if None.
        frames_per_second: how many frames of a second of video are watched; all if None.
        max_frames: where to stop; at the end if None.
        max_new_tokens: of an answer.
        device: auto, cpu or cuda.

    Returns:
        Frame → the answers given there.

    Raises:
        UserError: for a file that does not decode, or questions of another form.
    """
    model = named(model, "--model")
    device = resolve_device(device)
    try:
        total, rate = frames_and_rate(video)
        wanted = min(frames_per_second or rate, rate)
        watched = min(max_frames or total, max(1, int(total * wanted / rate)))
        questions = parse_questions(asks, watched)
        frames = each_frame(video, wanted / rate, watched)
        first = next(frames, None)
        if first is None:
            raise BrokenSampleError(f"video {video} has no frame that decodes")
        session = _session(load_model(model, device=device), first, wanted, watched, asks, max_new_tokens)
        return _watch(session, chain([first], frames), watched, questions, max_new_tokens)
    except BrokenSampleError as error:
        raise UserError(f"{error}; give a video file that OpenCV reads, such as an mp4") from None


def _watch(
    session: StreamingSession,
    frames: Iterable[Image.Image],
    count: int,
    questions: dict[int, list[str]],
    max_new_tokens: int,
) -> dict[int, list[str]]:
    """Push frames, ask on the way, and print."""
    console = PlainConsole(soft_wrap=True, highlight=False)
    answers: dict[int, list[str]] = {}
    with Progress(console=PlainConsole(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=count)
        begun = shown = time.monotonic()
        for number, frame in enumerate(frames, start=1):
            session.push(frame)
            now = time.monotonic()
            speed = f"{number / (now - begun):.1f} frames/s"
            progress.update(task, advance=1, description=speed)
            if not progress.console.is_terminal and now - shown >= SHOWN_EVERY_SECONDS:
                console.print(f"frame {number} of {count}: {speed}")
                shown = now
            for question in questions.get(number, []):
                answer = session.ask(question, max_new_tokens)
                answers.setdefault(number, []).append(answer)
                console.print(f"frame {number}: {question}\n  {answer}")
        seconds = time.monotonic() - begun
    speed, megabytes = f"{session.frames / seconds:.1f} frames/s", session.cache_bytes / 1e6
    console.print(f"{session.frames} frames in {seconds:.1f} s: {speed}; {megabytes:.1f} MB kept")
    return answers


def _session(
    loaded: LoadedModel, frame: Image.Image, rate: float, frames: int, asks: list[str], max_new_tokens: int
) -> StreamingSession:
    """A session, with room for the whole video where the model keeps every token."""
    model, processor = loaded.model, loaded.processor
    room = None
    if "full_attention" in model.config.text_config.layer_types:
        seen = processor.image_processor(images=[frame], return_tensors="pt")
        tokens = int(seen["image_grid_thw"].prod()) // model.config.vision_config.spatial_merge_size**2
        room = tokens * frames + (ANSWER_ROOM + max_new_tokens if asks else 0) + ANSWER_ROOM
    return StreamingSession(model, processor, frames_per_second=rate, max_length=room)
