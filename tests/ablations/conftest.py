"""What the tests of grids put in the place of workers, pages and a terminal."""

from typing import Any

import pytest
from infinitevl_bench.ablations import run
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
