"""What a grid says of workers that fail, and does about cells that another process holds, finishes or gives up."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from infinitevl_bench.ablations import run
from infinitevl_bench.ablations.run import run_grid
from infinitevl_bench.ablations.worker import work
from infinitevl_bench.errors import UserError
from infinitevl_bench.records import RunFolder, RunSpec
from rich.console import Console

from .grids import cells


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pages: None) -> Callable[[str], None]:
    """Puts a shell script in the place of the workers."""

    def put(script: str) -> None:
        path = tmp_path / "worker"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(run.sys, "executable", str(path))

    return put


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo Traceback; echo the disk is full; exit 1", "a worker ended early: the disk is full"),
        ("exit 3", "a worker ended early: it left no message"),
        ("kill -KILL $$", "a worker was ended from outside by SIGKILL.*call the same command again"),
        ("exit 143", "a worker was ended from outside by SIGTERM; call the same command again"),
    ],
    ids=["with a message", "without one", "killed", "ended in order"],
)
def test_a_workers_failure_is_one_line(
    script: str, words: str, stand_in: Callable[[str], None], tmp_path: Path, quiet: Console
) -> None:
    stand_in(script)
    with pytest.raises(UserError, match=words) as caught:
        run_grid(cells(), tmp_path / "runs", 2, quiet)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


def test_debug_shows_all_that_a_failed_worker_said(
    stand_in: Callable[[str], None],
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("INFINITEVL_BENCH_DEBUG", "1")
    stand_in("echo first line; echo last line; exit 1")
    with pytest.raises(UserError, match="last line"):
        run_grid(cells(), tmp_path / "runs", 1, quiet)
    assert capsys.readouterr().err == "first line\nlast line\n"


@contextmanager
def held_until_waited_for(
    spec: RunSpec, runs: Path, console: Console, monkeypatch: pytest.MonkeyPatch, *, finishing: bool
) -> Iterator[None]:
    """Another holder of a run, which finishes it, or gives it up, when the console says that someone waits."""
    has_it, waited_for = threading.Event(), threading.Event()

    def hold() -> None:
        with RunFolder(runs, spec) as folder:
            has_it.set()
            assert waited_for.wait(60)
            if finishing:
                folder.finish([], status="ok")

    said: list[str] = []

    def hear(*shown: object) -> None:
        said.extend(map(str, shown))
        if any("waiting for 1 of the cells, which another process holds" in text for text in said):
            waited_for.set()

    monkeypatch.setattr(console, "print", hear)
    holder = threading.Thread(target=hold)
    holder.start()
    assert has_it.wait(60)
    try:
        yield
    finally:
        assert waited_for.is_set(), said
        holder.join()


def test_a_held_cell_is_passed_over_and_waited_for(
    stand_in: Callable[[str], None], tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, free = cells()
    ran = []

    def run_cell(spec: RunSpec, runs: Path) -> None:
        with RunFolder(runs, spec) as folder:
            ran.append(spec.id)
            folder.finish([], status="ok")

    monkeypatch.setattr("infinitevl_bench.ablations.cell.run_cell", run_cell)
    stand_in("exit 0")
    with held_until_waited_for(held, tmp_path, quiet, monkeypatch, finishing=True):
        assert work([held, free], tmp_path) == 0
        assert ran == [free.id]
        assert run_grid([held, free], tmp_path, 1, quiet) == []
    assert RunFolder(tmp_path, held).finished


def test_what_another_process_gives_up_is_run_here(
    stand_in: Callable[[str], None], tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = cells()[0]
    stand_in(f"echo once more >> {tmp_path}/rounds")
    # The second round's worker, a stand-in, does nothing either: that is said, and not tried for ever.
    with (
        held_until_waited_for(held, tmp_path, quiet, monkeypatch, finishing=False),
        pytest.raises(UserError, match=f"{held.id} did not finish; call the same command again"),
    ):
        run_grid([held], tmp_path, 1, quiet)
    assert (tmp_path / "rounds").read_text().count("once more") == 2


@pytest.mark.parametrize("finishing", [True, False], ids=["finished", "given up"])
def test_what_is_let_go_before_anyone_waits_is_no_failure(
    finishing: bool, no_pages: None, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder ends after the workers have passed its cell over, or between two questions about it."""
    spec = cells()[0]
    rounds = []

    def finish() -> None:
        with RunFolder(tmp_path, spec) as folder:
            folder.finish([], status="ok")

    def workers(*_: Any) -> None:
        rounds.append(1)
        if len(rounds) == 2:
            finish()

    def let_go(folder: RunFolder) -> bool:
        if finishing and not folder.finished:
            finish()
        return False

    monkeypatch.setattr(run, "_run_workers", workers)
    monkeypatch.setattr(RunFolder, "held", property(let_go))
    assert run_grid([spec], tmp_path, 1, quiet) == []
    assert len(rounds) == (1 if finishing else 2)


def test_what_is_given_up_is_run_while_others_are_still_held(
    no_pages: None, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, given_up = cells()
    rounds: list[list[str]] = []

    def workers(todo: list[RunSpec], *_: Any) -> None:
        rounds.append([spec.id for spec in todo])
        if len(rounds) > 1:
            for spec in todo:
                with RunFolder(tmp_path, spec) as folder:
                    folder.finish([], status="ok")

    monkeypatch.setattr(run, "_run_workers", workers)
    monkeypatch.setattr(RunFolder, "held", property(lambda folder: folder.spec.id == long.id and not folder.finished))
    assert run_grid([long, given_up], tmp_path, 1, quiet) == []
    assert rounds == [[long.id, given_up.id]] * 2
