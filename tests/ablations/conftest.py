"""What the tests of grids put in the place of workers, pages and a terminal."""

from pathlib import Path
from typing import Any

import pytest
from infinitevl_bench.ablations import run
from infinitevl_bench.ablations.worker import work
from infinitevl_bench.errors import UserError
from infinitevl_bench.records import RunSpec
from rich.console import Console


@pytest.fixture
def quiet() -> Console:
    return Console(quiet=True)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would start a worker or draw a page fails."""

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing should be trained")

    monkeypatch.setattr(run, "prepare_pages", refused)
    monkeypatch.setattr(run, "_run_workers", refused)


@pytest.fixture
def no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "prepare_pages", lambda *_: None)


@pytest.fixture
def no_worker_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are run as a worker runs them, but here: a process takes longer to start than to train so little."""

    def work_here(todo: list[RunSpec], specs: list[RunSpec], runs: Path, *_: Any) -> UserError | None:
        code = work(todo, runs)
        return UserError(f"the work ended with {code}", code) if code else None

    monkeypatch.setattr(run, "_run_workers", work_here)
