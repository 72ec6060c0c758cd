"""Cells of a study that were killed or only partly asked for: they go on, and what is finished stays."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from infinitevl_bench.ablations import command, exact
from infinitevl_bench.ablations import plan as plans
from infinitevl_bench.ablations.command import study_command
from infinitevl_bench.ablations.plan import SIZES
from infinitevl_bench.ablations.studies import get_plan
from infinitevl_bench.ablations.worker import work
from infinitevl_bench.records import Record, RunFolder, RunSpec
from infinitevl_bench.training import fixed

SMALLEST = plans.Size((1,), 2, 1, (100,), probe_pages=8, probes=2, steps=4, pages=12, questions=4)

WORKER = """
import json, sys
from pathlib import Path
from infinitevl_bench.ablations.worker import work
from infinitevl_bench.records import RunSpec
sys.exit(work([RunSpec.model_validate(row) for row in json.loads(sys.argv[1])], Path(sys.argv[2])))
"""


@pytest.fixture
def smallest(monkeypatch: pytest.MonkeyPatch, no_pages: None) -> None:
    monkeypatch.setitem(SIZES, "tiny", SMALLEST)


def cells(**training: Any) -> list[RunSpec]:
    """Two seeds of an arm, each with a row and a checkpoint at every step."""
    plan = get_plan("mixer_choice").only(["gated_deltanet"], "tiny")
    found = plan.test_cells("tiny", "cpu", {"gated_deltanet": 2e-3})
    changes = {"log_every": 1, "checkpoint_every_seconds": 1e-9, "batch_size": 4} | training
    return [
        RunSpec(kind=one.kind, arguments=one.arguments | {"training": one.arguments["training"] | changes})
        for one in found
    ]


def numbers(folders: list[RunFolder]) -> list[dict[str, Any]]:
    """Their records, without what differs from one time to the next."""
    rows = [record.model_dump() for folder in folders for record in folder.records()]
    for row in rows:
        row["extra"].pop("train_seconds")
    return rows


def test_killed_cells_go_on_from_their_checkpoints_to_the_same_records(
    tmp_path: Path, smallest: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = cells()
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert work(specs, whole) == 0
    broken.mkdir()
    (broken / "cache").symlink_to(whole / "cache")
    folders = [RunFolder(broken, spec) for spec in specs]
    rows = folders[0].path / "metrics.jsonl"
    asked = json.dumps([spec.model_dump(mode="json") for spec in specs])
    process = subprocess.Popen([sys.executable, "-c", WORKER, asked, str(broken)])
    deadline = time.monotonic() + 120
    while not rows.exists() or len(rows.read_text().splitlines()) < 3:
        assert time.monotonic() < deadline, "training never began"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not folders[0].finished
    begun: list[int] = []
    load = fixed.load_checkpoint

    def spied(*arguments: Any) -> int:
        begun.append(load(*arguments))
        return begun[-1]

    monkeypatch.setattr(fixed, "load_checkpoint", spied)
    assert work(specs, broken) == 0
    # The first cell went on; the second, which had not begun, had nothing to go on from.
    assert len(begun) == 1
    assert begun[0] >= 2
    assert numbers(folders) == numbers([RunFolder(whole, spec) for spec in specs])


def test_several_cells_of_a_worker_are_those_that_are_free(
    tmp_path: Path, smallest: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is finished or held is passed over, and the next ones fill the places."""
    plan = get_plan("mixer_choice").only(["gated_deltanet", "linear_attention"], "tiny")
    specs = plan.validation_cells("tiny", "cpu")
    taken: list[list[str]] = []

    class Stand:
        def __init__(self, spec: RunSpec, folder: RunFolder, runs: Path) -> None:
            self.folder, self.training = folder, self
            taken[-1].append(spec.id)

        def run(self) -> Any:
            return iter(())

        def finish(self, result: Any) -> None:
            self.folder.finish([], status="ok")

    monkeypatch.setattr(exact, "_Cell", Stand)
    monkeypatch.setattr(exact, "side_by_side", lambda runs: [None for _ in runs])
    monkeypatch.setattr(exact, "SIDE_BY_SIDE", 3)
    monkeypatch.setattr(exact, "device_name", lambda device: device)
    on_gpu = [RunSpec(kind=one.kind, arguments=one.arguments | {"device": "cuda"}) for one in specs]
    with RunFolder(tmp_path, on_gpu[0]) as folder:
        folder.finish([], status="ok")
    names = [spec.id for spec in on_gpu]
    with RunFolder(tmp_path, on_gpu[2]):
        taken.append([])
        exact.run_together(on_gpu[1:], tmp_path)
        taken.append([])
        exact.run_together(on_gpu[1:], tmp_path, most=2)
    assert taken == [[names[1], names[3], names[4]], [names[5]]]


def test_a_cell_that_diverges_is_a_row_like_the_others_and_the_study_goes_on(tmp_path: Path, smallest: None) -> None:
    specs = [cells(diverged_at=1e-3)[0], cells()[1]]
    assert work(specs, tmp_path) == 0
    ended, whole = (RunFolder(tmp_path, spec) for spec in specs)
    assert [folder.result()["summary"]["status"] for folder in (ended, whole)] == ["diverged", "ok"]
    scores = [record for folder in (ended, whole) for record in folder.records() if record.metric == "score"]
    assert {record.steps for record in scores} == {SMALLEST.steps}
    assert {(record.seed, record.extra["status"]) for record in scores} == {(0, "diverged"), (1, "ok")}
    assert {record.extra["steps_done"] for record in scores if record.seed == 0} == {1}
    assert {record.value for record in ended.records() if record.metric == "learnt"} == {0.0}


@pytest.mark.usefixtures("no_worker_processes")
def test_a_study_can_be_run_in_parts(tmp_path: Path, smallest: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One arm first, then two: the first one's cells are read, not trained again."""
    short = replace(get_plan("mixer_choice"), learning_rates=(2e-3,))
    monkeypatch.setattr(command, "get_plan", lambda name: short)

    def results() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}

    def run(arms: list[str]) -> list[Record]:
        return study_command(
            study="mixer_choice", arms=arms, scale="tiny", steps=2, jobs=1, device="cpu", runs=tmp_path
        )

    first = run(["window_only"])
    before = results()
    both = run(["window_only", "linear_attention"])
    after = results()
    assert before.items() < after.items()
    assert {record.run_id for record in first} < {record.run_id for record in both}
    assert [record for record in both if record.run_id in before] == first
