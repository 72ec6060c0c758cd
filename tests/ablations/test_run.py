"""A grid end to end: trained, scored, skipped when finished, continued when killed; what stops it is one line."""

import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pytest
from infinitevl_bench import scratch
from infinitevl_bench.ablations import run
from infinitevl_bench.ablations.command import ablate_command
from infinitevl_bench.ablations.run import run_grid
from infinitevl_bench.ablations.scales import SCALES
from infinitevl_bench.ablations.worker import work
from infinitevl_bench.environment import command_line
from infinitevl_bench.errors import UserError
from infinitevl_bench.records import Record, RunFolder, RunHeldError
from rich.console import Console

from .grids import OPTIONS, cells

BENCHMARKS = SCALES["tiny"].benchmarks

INTERRUPTED = 130


def numbers(records: list[Record]) -> list[dict[str, Any]]:
    """The records without what differs from one time to the next."""
    rows = [record.model_dump() for record in records]
    for row in rows:
        row["extra"].pop("train_seconds")
    return rows


def grid_in_a_process(runs: Path, **names: str) -> ForkProcess:
    """`ablate_command` in a process of its own, forked from this one, since that has imported everything.

    It computes nothing by itself, which a forked process could not do everywhere: its workers draw what is missing.
    """

    def call() -> None:
        run.prepare_pages = lambda *_: None  # type: ignore[assignment]
        # A job in the background begins without it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(names)
        tempfile.tempdir = None
        scratch._sweep_once.cache_clear()
        try:
            ablate_command(**OPTIONS, runs=runs)
        except KeyboardInterrupt:
            os._exit(INTERRUPTED)

    process = multiprocessing.get_context("fork").Process(target=call)
    process.start()
    return process


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"{what} never happened"
        time.sleep(0.01)


def is_free(folder: RunFolder) -> bool:
    try:
        with folder:
            return True
    except RunHeldError:
        return False


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """An uninterrupted grid: its folder of runs, whose name a careless console would read as markup; its records."""
    runs = tmp_path_factory.mktemp("whole") / "[/]runs"
    return runs, ablate_command(**OPTIONS, runs=runs)


def test_every_cell_is_trained_scored_and_recorded(whole: tuple[Path, list[Record]]) -> None:
    runs, records = whole
    for spec in cells():
        own = [record for record in records if record.run_id == spec.id]
        assert [record.steps for record in own if record.metric == "loss"] == list(range(1, 7))
        for metric in ("score", "blind", "page_value"):
            found = [record for record in own if record.metric == metric]
            assert [record.benchmark for record in found] == list(BENCHMARKS)
        assert {(record.mixer, record.pattern, record.split) for record in own} == {
            (spec.arguments["mixer"], "SL", "synthetic")
        }
        assert RunFolder(runs, spec).result()["summary"]["status"] == "ok"
        # What was called here, not the process that did it.
        described = json.loads((RunFolder(runs, spec).path / "env.json").read_text())
        assert described["command"] == command_line()
    assert len(records) == 2 * (6 + 3 * len(BENCHMARKS))


def test_finished_cells_are_shown_and_not_run_again(
    whole: tuple[Path, list[Record]], no_training: None, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, records = whole
    assert ablate_command(**OPTIONS, runs=runs) == records
    shown = capsys.readouterr().out
    assert f"runs in {runs};" in shown
    assert all(words in shown for words in ("gla SL seed 0 scratch", "linear_attention SL seed 0 scratch", "baseline:"))


def test_a_killed_grid_ends_its_workers_and_goes_on_to_the_same_records(
    whole: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    folders = [RunFolder(tmp_path, spec) for spec in cells()]
    first = folders[0].path
    common = tmp_path / "temporary"
    common.mkdir()
    parent = grid_in_a_process(tmp_path, TMPDIR=str(common))
    try:
        wait_until(lambda: len(rows_of(first)) >= 2, "training")
    finally:
        parent.kill()
        parent.join()
    wait_until(lambda: all(is_free(folder) for folder in folders), "the end of the workers")
    # What it kept for its workers is known as its own, and nobody's any more.
    assert any(folder.name.startswith(scratch.PREFIX) for folder in common.iterdir())
    scratch._sweep_once.__wrapped__(common)
    assert not [folder for folder in common.iterdir() if folder.name.startswith(scratch.PREFIX)]
    assert (first / "checkpoint.safetensors").is_file()
    assert not folders[1].finished
    again = ablate_command(**OPTIONS, runs=tmp_path)
    assert numbers(again) == numbers(whole[1])


def rows_of(folder: Path) -> list[str]:
    path = folder / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def test_an_interrupted_grid_ends_its_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "worker"
    worker.write_text(
        f"#!/bin/sh\necho $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 100\n"
    )
    worker.chmod(0o755)
    monkeypatch.setattr(run.sys, "executable", str(worker))
    parent = grid_in_a_process(tmp_path / "runs")
    try:
        wait_until((tmp_path / "pid").exists, "the start of a worker")
        assert parent.pid
        os.kill(parent.pid, signal.SIGINT)
        parent.join(60)
        assert parent.exitcode == INTERRUPTED
    finally:
        parent.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.fixture
def cell(tmp_path: Path, whole: tuple[Path, list[Record]]) -> Iterator[RunFolder]:
    """A cell that was not begun, its pages at hand."""
    (tmp_path / "cache").symlink_to(whole[0] / "cache")
    folder = RunFolder(tmp_path, cells()[0])
    with folder:
        pass
    return folder


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metrics.jsonl", b'{"step": 1}\nnot JSON\n', "metrics.jsonl, line 2: damaged; remove the line"),
        ("metrics.jsonl", b"\xff\xfe\n", "metrics.jsonl, line 1: damaged; remove the line"),
        ("checkpoint.safetensors", b"too short", "checkpoint.safetensors cannot be read"),
    ],
    ids=["a broken row", "bytes that are no text", "a broken checkpoint"],
)
def test_damage_ends_a_cell_in_one_line_that_names_the_file(
    name: str, content: bytes, words: str, cell: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    (cell.path / name).write_bytes(content)
    assert work([cell.spec], cell.path.parent) == 1
    said = capsys.readouterr().out
    assert words in said
    assert len(said.strip().splitlines()) == 1
    assert (cell.path / name).read_bytes() == content
    assert not cell.finished


def test_a_full_disk_ends_a_cell_in_one_line_and_keeps_what_is_written(
    cell: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with cell:
        cell.append("metrics.jsonl", {"step": 1, "seconds": 1.0})
    monkeypatch.setattr("infinitevl_bench.files.os.fsync", full)
    assert work([cell.spec], cell.path.parent) == 1
    said = capsys.readouterr().out
    assert "No space left on device; free some space" in said
    assert len(said.strip().splitlines()) == 1
    assert cell.rows("metrics.jsonl") == [{"step": 1, "seconds": 1.0}]
    # No half-written temporary file is left to fill the disk further.
    assert {path.name for path in cell.path.iterdir()} == {".lock", "spec.yaml", "metrics.jsonl"}


def test_a_damaged_result_is_said_before_anything_is_trained(tmp_path: Path, no_training: None, quiet: Console) -> None:
    _, last = cells()
    with RunFolder(tmp_path, last) as folder:
        (folder.path / "result.json").write_text('{"records": [{')
    with pytest.raises(UserError, match=r"result.json cannot be read.*remove the file to run again"):
        run_grid(cells(), tmp_path, 1, quiet)


def test_a_file_in_the_place_of_the_runs_is_named(tmp_path: Path, no_training: None, quiet: Console) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*runs.*choose another folder with --runs"):
        run_grid(cells(), tmp_path / "runs", 1, quiet)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pages": 3}, "3 pages make no batch of 4; give --pages 4 or more"),
        ({"questions": 10_001}, "at most 10,000 questions"),
    ],
    ids=["too few pages", "too many questions"],
)
def test_sizes_that_cannot_be_are_refused_before_anything_is_trained(
    changes: dict[str, Any], words: str, tmp_path: Path, no_training: None
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        ablate_command(**OPTIONS | changes, runs=tmp_path)
    assert caught.value.exit_code == 2
