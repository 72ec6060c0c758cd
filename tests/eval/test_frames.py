"""Evaluation of videos by number of frames: the sweep, what was really fed, and what memory does not hold."""

from pathlib import Path
from typing import Any

import decord
import pytest
from infinitevl_bench.errors import UserError
from infinitevl_bench.eval.benchmarks import find_benchmark
from infinitevl_bench.eval.command import Request, eval_command
from infinitevl_bench.eval.synthetic import synthetic_tsv
from infinitevl_bench.models.checkpoints import new_model
from infinitevl_bench.models.presets import get_preset

pytestmark = pytest.mark.usefixtures("first_import", "no_official_files")


def request(runs: Path, **changes: Any) -> Request:
    fields: dict[str, Any] = {
        "model": "tiny", "data": "synthetic", "limit": 2, "batch_size": 4, "level": 1, "seed": 0, "device": "cpu",
        "blind": False,
    }  # fmt: skip
    return Request(**fields | changes, runs=runs)


@pytest.mark.parametrize("name", ["Video-MME", "LongVideoBench"])
def test_a_sweep_is_a_run_a_number_of_frames(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = eval_command([name], None, request(tmp_path, frames=(8, 40)))
    assert [record.frames for result in results for record in result.records] == [8, 40]
    assert len({record.run_id for result in results for record in result.records}) == 2
    for result in results:
        (record,) = result.records
        assert record.extra["frames_fed"] == record.extra["fewest_frames_fed"] == record.frames
        assert record.extra["short_videos"] == 0
        assert [row["frames"] for row in result.predictions] == [record.frames] * 2
    shown = capsys.readouterr().out
    assert "frames: 40 asked for, 40 fed on average" in shown
    assert f"{name} (8 frames)" in shown
    again = eval_command([name], None, request(tmp_path, frames=(40,)))
    assert again[0].records == results[1].records


def test_a_short_video_gives_what_it_has_and_the_record_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("runner", "synthetic"):
        monkeypatch.setattr(
            f"infinitevl_bench.eval.{module}.synthetic_tsv",
            lambda *where, frames, **asked: synthetic_tsv(*where, **asked),
        )
    (result,) = eval_command(["Video-MME"], None, request(tmp_path, frames=(64,)))
    (record,) = result.records
    assert record.frames == 64
    assert (record.extra["frames_fed"], record.extra["fewest_frames_fed"], record.extra["short_videos"]) == (16, 16, 2)
    assert "2 videos have fewer, down to 16" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("asked", "drawn"), [(2, 16), (16, 16), (17, 20), (1024, 1024)])
def test_a_twins_videos_are_as_long_as_is_asked(asked: int, drawn: int, tmp_path: Path) -> None:
    table, _ = synthetic_tsv(
        find_benchmark("LongVideoBench"), tmp_path, questions=1, seed=0, level=1, frames=asked
    )  # fmt: skip
    (video,) = table.parent.glob("video/*.mp4")
    assert len(decord.VideoReader(str(video))) == drawn


def test_frames_that_memory_does_not_hold_are_refused_with_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infinitevl_bench.eval.room.free_bytes", lambda device: 5e6)
    asked: list[Any] = []
    monkeypatch.setattr("infinitevl_bench.eval.runner.answer", lambda *given: asked.append(given))
    words = (
        r"2 videos of 40 frames \(500 tokens each\) need about 0\.\d GB and 0\.0 GB are free; give a smaller --batch"
    )
    with pytest.raises(UserError, match=words):
        eval_command(["Video-MME"], None, request(tmp_path, frames=(40,)))
    assert asked == []


def test_the_estimate_grows_with_the_frames_where_the_cache_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from infinitevl_bench.eval.room import check_room
    from infinitevl_bench.eval.videos import Clip
    from PIL import Image

    monkeypatch.setattr("infinitevl_bench.eval.room.free_bytes", lambda device: 0.0)

    def needed(pattern: str, frames: int) -> float:
        model = new_model(get_preset("tiny", pattern=pattern), 0)
        clip = Clip([Image.new("RGB", (280, 280))] * frames, 2.0)
        with pytest.raises(UserError) as error:
            check_room(model, [[{"type": "video", "value": clip}]])
        return float(str(error.value).split("about ")[1].split(" GB")[0])

    # Keys and values of 8 layers with 2 heads of 32 channels, in 4 bytes, for 100 tokens a pair of frames.
    more = needed("F", 8000) - needed("S", 8000)
    assert more == pytest.approx(8 * 2 * 2 * 32 * 4 * 100 * 4000 / 1e9, abs=0.15)
