"""The study of frames: its cells, its bad input, and all of it end to end in a few steps."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from infinitevl_bench.ablations import frame_scaling
from infinitevl_bench.ablations.command import check_study_options, study_command
from infinitevl_bench.ablations.frame_scaling import BENCHMARKS, FRAME_SIZES, PLAN, STAGES, FrameSize
from infinitevl_bench.ablations.plan import VALIDATION_SCORE
from infinitevl_bench.ablations.run import prepare_pages
from infinitevl_bench.ablations.study import arm_config
from infinitevl_bench.ablations.worker import work
from infinitevl_bench.data.timelines import DEPTHS
from infinitevl_bench.errors import UserError
from infinitevl_bench.records import Record, RunFolder, RunSpec
from infinitevl_bench.reports.artifacts import make_artifact
from infinitevl_bench.reports.claims import judge
from rich.console import Console

SMALLEST = FrameSize(
    steps=4, batch_size=2, videos=8, test_videos=3, probe_videos=2, captions=4, events=4, scenes=4,
    long=(16, 40), tested=(32, 64), later_batch_size=2,
)  # fmt: skip
RATES = dict.fromkeys(PLAN.arms, 2e-3)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are run as a worker runs them, without the seconds that a process takes to start."""

    def run_here(specs: list[RunSpec], runs: Path, jobs: int, console: Console) -> list[Record]:
        assert work(specs, runs) == 0
        return [record for spec in specs for record in RunFolder(runs, spec).records()]

    monkeypatch.setattr("infinitevl_bench.ablations.frame_command.run_grid", run_here)


def run(runs: Path, **changes: Any) -> list[Record]:
    options = {"study": "frame_scaling", "arms": ["gated_deltanet"], "steps": None, "jobs": 1, "runs": runs}
    return study_command(**options | {"scale": "tiny", "device": "cpu"} | changes)


def test_stages_differ_in_their_videos_alone() -> None:
    size = FRAME_SIZES["small"]
    short = PLAN.test_cells("small", "cpu", RATES)
    later = PLAN.later_cells(short)
    assert len(later) == 2 * len(short)
    assert len({cell.id for cell in short + later}) == 3 * len(short)
    by_id = {cell.id: cell.arguments for cell in short}
    assert size.short[1] == 32
    assert size.long[1] == 256
    assert (size.tested[0], size.tested[-1]) == (32, 1024)
    assert size.test_videos * 2 >= 1000
    for long, control in zip(later[::2], later[1::2], strict=True):
        one, other, before = long.arguments, control.arguments, by_id[long.arguments["short"]]
        assert (one["stage"], other["stage"], before["stage"]) == ("long", "control", "short")
        assert one["training"] == other["training"]
        assert one["pages"] | {"frames": other["pages"]["frames"]} == other["pages"]
        assert one["pages"]["frames"] == list(size.long)
        assert other["pages"]["frames"] == before["pages"]["frames"] == list(size.short)
        assert one["pages"]["seed"] != before["pages"]["seed"]
        assert one["sets"] == other["sets"] == before["sets"]
        assert one["training"]["steps"] < before["training"]["steps"]
        assert (one["seed"], one["pattern"]) == (before["seed"], before["pattern"])
    tested = {name: one["frames"] for name, one in short[0].arguments["sets"].items() if name != "probe"}
    assert tested == {str(count): [count, count] for count in size.tested}


def test_arms_inherit_from_the_shipped_teacher() -> None:
    for cell in PLAN.validation_cells("small", "cpu"):
        assert cell.arguments["recipe"] == "inherit"
        found = arm_config(cell)
        assert found.config.text_config.intermediate_size == 256
        assert cell.arguments["sets"].keys() == {"probe"}


def test_bad_input_is_named_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="a video of 8 frames is shorter than its 8 captions"):
        run(tmp_path, frames=[8])
    with pytest.raises(UserError, match="did you mean gated_deltanet"):
        run(tmp_path, arms=["gated_delta"])
    monkeypatch.setattr(frame_scaling, "free_bytes", lambda device: 1e9)
    with pytest.raises(UserError, match=r"1,048,576 frames needs about 51\.\d GB and 0\.5 GB of 1\.0 GB free"):
        run(tmp_path, arms=["gated_deltanet", "full_attention"], frames=[32, 2**20])
    with pytest.raises(UserError, match="swa_ratio has no videos"):
        run(tmp_path, study="swa_ratio", arms=["window_only"], frames=[32])
    with pytest.raises(UserError, match="give --study frame_scaling"):
        check_study_options(None, None, [32], {})
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("in_this_process")
def test_the_study_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(FRAME_SIZES, "tiny", SMALLEST)
    records = run(tmp_path)
    shown = capsys.readouterr().out
    assert all(words in shown for words in ("learning rate, chosen on", "exact answers in % by number of frames"))
    assert "scale tiny, synthetic split" in shown
    chosen = [record for record in records if record.metric == VALIDATION_SCORE]
    assert [record.extra["learning_rate"] for record in chosen] == list(PLAN.learning_rates)
    scores = [record for record in records if record.metric == "score"]
    whole = {(r.extra["stage"], r.benchmark, r.frames, r.seed) for r in scores if "depth" not in r.extra}
    assert whole == {
        (stage, benchmark, frames, 0) for stage in STAGES for benchmark in BENCHMARKS.values() for frames in (32, 64)
    }
    deep = [(r.extra["stage"], r.frames, r.extra["depth"]) for r in scores if "depth" in r.extra]
    assert sorted(deep) == sorted((stage, f, depth) for stage in STAGES for f in (32, 64) for depth in DEPTHS)
    for record in scores:
        assert (record.artifact, record.split, record.scale) == ("fig_frames", "synthetic", "tiny")
        per_video = 1 if "depth" in record.extra else {"VideoNeedle": 5}.get(record.benchmark or "", 2)
        assert record.n == 3 * per_video
    for metric in ("blind", "page_value"):
        found = {(r.benchmark, r.frames, r.extra["stage"]) for r in records if r.metric == metric}
        assert found == {(benchmark, 32, "short") for benchmark in BENCHMARKS.values()}
    assert {r.metric for r in records if r.steps and r.metric.endswith("loss")} == {"video_loss"}
    later = [r for r in scores if r.extra["stage"] != "short"]
    assert {record.extra["learning_rate"] for record in later} == {0.5 * next(iter(scores)).extra["learning_rate"]}
    # What the report and the verdict make of them.
    rows = make_artifact("fig_frames", records).tables[0].rows
    assert [row.kind for row in rows] == ["measured"] * 3 * 3 + ["baseline"] * 2 * 3
    assert len(make_artifact("depth_frames", records).tables[0].rows) == 3 * len(DEPTHS)
    assert make_artifact("learning_curves", records).tables == ()
    assert judge("C7", records).status == "inconclusive"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    assert run(tmp_path) == records
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")} == before


@pytest.mark.usefixtures("in_this_process")
def test_an_arm_that_diverges_is_recorded_and_the_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setitem(FRAME_SIZES, "tiny", replace(SMALLEST, tested=(32,)))
    wild = replace(PLAN, learning_rates=(10.0,))
    monkeypatch.setattr("infinitevl_bench.ablations.command.get_plan", lambda name: wild)
    records = run(tmp_path, arms=["window_only"])
    found = {(r.extra["stage"], r.extra["status"]) for r in records if r.metric == "score"}
    assert found == {(stage, "diverged") for stage in STAGES}
    cells = wild.only(["window_only"], "tiny").validation_cells("tiny", "cpu")
    assert [RunFolder(tmp_path, cell).result()["summary"]["status"] for cell in cells] == ["diverged"]
    assert [r.value for r in records if r.metric == VALIDATION_SCORE] == [0.0]


def test_long_trainings_leave_each_other_room() -> None:
    from infinitevl_bench.ablations.exact import LONG_SIDE_BY_SIDE, SIDE_BY_SIDE, side_by_side_of

    for stage, count in (("short", SIDE_BY_SIDE), ("control", SIDE_BY_SIDE), ("long", LONG_SIDE_BY_SIDE)):
        cell = SimpleNamespace(arguments={"scoring": "frames", "stage": stage, "device": "cuda"})
        assert side_by_side_of(cell) == count  # type: ignore[arg-type]


def test_moments_are_seen_once_before_the_workers_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FRAME_SIZES, "tiny", replace(SMALLEST, captions=4, events=4, scenes=4))
    # By this process: that several draw the same is a test of `load_library`, and starting them takes long.
    monkeypatch.setattr("infinitevl_bench.ablations.run.os.cpu_count", lambda: 1)
    (cell,) = PLAN.only(["window_only"], "tiny").test_cells("tiny", "cpu", RATES)
    prepare_pages(cell, tmp_path, Console(quiet=True))
    # One for each split.
    assert len(list((tmp_path / "cache").glob("moments-*.safetensors"))) == 3
