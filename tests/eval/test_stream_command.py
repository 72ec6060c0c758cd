"""`stream`: a real video file through a real model; what is asked, what is shown, and mistakes."""

from pathlib import Path

import numpy as np
import pytest
from infinitevl_bench.data.video import each_frame, frames_and_rate
from infinitevl_bench.errors import UserError
from infinitevl_bench.eval.stream_command import parse_questions, stream_command

FRAMES, RATE, SIDE = 12, 4.0, 56


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames that grow brighter, so that each can be told."""
    import cv2

    path = tmp_path_factory.mktemp("video") / "ramp.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), RATE, (SIDE, SIDE))
    for number in range(FRAMES):
        writer.write(np.full((SIDE, SIDE, 3), 20 * number, np.uint8))
    writer.release()
    return path


def brightness(path: Path, share: float, count: int) -> list[int]:
    return [round(float(np.asarray(frame).mean()) / 20) for frame in each_frame(path, share, count)]


def test_frames_come_in_order_and_evenly(video: Path) -> None:
    assert frames_and_rate(video) == (FRAMES, RATE)
    assert brightness(video, 1.0, 99) == list(range(FRAMES))
    assert brightness(video, 0.5, 99) == [1, 3, 5, 7, 9, 11]
    assert brightness(video, 0.25, 2) == [3, 7]


def watch(video: Path, asks: list[str], **changes: object) -> dict[int, list[str]]:
    settings: dict = {"model": "tiny", "frames_per_second": None, "max_frames": None, "max_new_tokens": 4}
    return stream_command(video, asks, device="cpu", **(settings | changes))


@pytest.mark.parametrize("model", ["tiny", None], ids=["hybrid", "shipped"])
def test_a_video_is_watched_and_asked_about(video: Path, model: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    answers = watch(video, ["3:what is it ?", "12: what is it ?", "12:how many ?"], model=model)
    assert {frame: len(given) for frame, given in answers.items()} == {3: 1, 12: 2}
    printed = capsys.readouterr().out
    assert "frame 12: how many ?" in printed
    assert f"{FRAMES} frames in" in printed
    assert "frames/s" in printed


def test_fewer_frames_by_rate_and_by_number(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch(video, [], frames_per_second=2.0)
    assert "6 frames in" in capsys.readouterr().out
    watch(video, [], max_frames=2)
    assert "2 frames in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ask", "words"),
    [("what ?", "FRAME:QUESTION"), ("3:", "FRAME:QUESTION"), ("x:what ?", "FRAME:QUESTION"), ("0:what ?", "1 to 12"),
     ("13:what ?", "1 to 12")],
)  # fmt: skip
def test_questions_of_another_form_are_named(ask: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_questions([ask], FRAMES)


def test_a_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no.mp4"
    path.write_bytes(b"nothing to see")
    with pytest.raises(UserError, match=r"no\.mp4"):
        watch(path, [])
    with pytest.raises(UserError, match=r"gone\.mp4"):
        watch(tmp_path / "gone.mp4", [])


def test_an_empty_name_of_a_model_is_not_the_shipped_one(video: Path) -> None:
    with pytest.raises(UserError, match="--model is empty"):
        watch(video, [], model="")
