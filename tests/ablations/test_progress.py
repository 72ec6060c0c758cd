"""How a grid's progress is told, and how its workers are spread over accelerators."""

from pathlib import Path
from typing import Any

import pytest
from infinitevl_bench.ablations import progress, run
from infinitevl_bench.ablations.progress import MOST_ROWS, GridProgress
from infinitevl_bench.models import device
from infinitevl_bench.records import RunFolder, RunSpec
from rich.console import Console

STEPS = 10


def cells(count: int, where: str = "cpu") -> list[RunSpec]:
    return [
        RunSpec(
            kind="ablate",
            arguments={
                "mixer": "gla", "pattern": "SLLL", "seed": seed, "device": where, "training": {"steps": STEPS}
            },
        )
        for seed in range(count)
    ]  # fmt: skip


def train(spec: RunSpec, runs: Path, step: int) -> None:
    with RunFolder(runs, spec) as folder:
        folder.append("metrics.jsonl", {"step": step, "loss": 1.0, "tokens_per_second": 9.0, "seconds_left": 3.0})


def finish(spec: RunSpec, runs: Path, status: str = "ok") -> None:
    with RunFolder(runs, spec) as folder:
        folder.finish([], status=status)


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(progress.time, "monotonic", one.monotonic)
    return one


def test_the_time_left_follows_from_the_pace_of_this_call(tmp_path: Path, clock: Clock) -> None:
    specs = cells(5)
    finish(specs[0], tmp_path)
    train(specs[1], tmp_path, 5)
    found = GridProgress(specs, tmp_path)
    assert found.line() == "1 of 5 cells done"
    clock.now += 60
    # 15 of 50 steps were there before; ten more in a minute leave 25 for two and a half.
    finish(specs[1], tmp_path, "diverged")
    train(specs[2], tmp_path, 5)
    assert found.line() == "2 of 5 cells done; about 2 min left"
    clock.now += 30
    train(specs[2], tmp_path, 10)
    train(specs[3], tmp_path, 10)
    assert found.line() == "2 of 5 cells done; about 36 s left"
    for spec in specs[2:]:
        finish(spec, tmp_path)
    assert found.line() == "5 of 5 cells done"


def test_news_is_told_once_and_not_too_often(tmp_path: Path, clock: Clock) -> None:
    specs = cells(3)
    found = GridProgress(specs, tmp_path)
    clock.now += 100
    assert found.news() is None
    finish(specs[0], tmp_path)
    assert found.news() == "1 of 3 cells done; about 3 min left"
    finish(specs[1], tmp_path)
    assert found.news() is None
    clock.now += progress.LINE_SECONDS
    assert str(found.news()).startswith("2 of 3 cells done")
    assert found.news() is None


def test_news_is_told_of_a_single_cell_under_way(tmp_path: Path, clock: Clock) -> None:
    found = GridProgress(cells(1), tmp_path)
    clock.now += progress.LINE_SECONDS
    train(cells(1)[0], tmp_path, 5)
    assert found.news() == "0 of 1 cells done; about 30 s left"
    train(cells(1)[0], tmp_path, 6)
    assert found.news() is None


def text(found: GridProgress) -> list[str]:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(found.table())
    return captured.get().splitlines()


def test_a_long_grid_shows_what_is_under_way(tmp_path: Path) -> None:
    specs = cells(MOST_ROWS + 1)
    finish(specs[0], tmp_path, "diverged")
    train(specs[1], tmp_path, 5)
    train(specs[2], tmp_path, STEPS)
    lines = text(GridProgress(specs, tmp_path))
    assert lines[0].startswith(f"1 of {MOST_ROWS + 1} cells done")
    shown = [line for line in lines if "SLLL" in line]
    assert len(shown) == 2
    assert "5/10" in shown[0]
    assert "scoring" in shown[1]
    assert len([line for line in text(GridProgress(specs[:3], tmp_path)) if "SLLL" in line]) == 3
    assert any("diverged" in line for line in text(GridProgress(specs[:3], tmp_path)))


@pytest.mark.parametrize(
    ("count", "chosen", "expected"),
    [
        (0, None, []),
        (2, None, ["0", "1"]),
        (2, "5,GPU-7a", ["5", "GPU-7a"]),
        (1, "3", ["3"]),
        (0, "", []),
    ],
)
def test_accelerators_have_the_names_that_the_environment_gave_them(
    count: int, chosen: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device.torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert device.visible_accelerators() == expected


@pytest.mark.parametrize(
    ("where", "accelerators", "expected"),
    [
        ("cuda", ["0", "5", "7"], ["0", "5", "7", "0", "5"]),
        ("cuda", ["0"], [None] * 5),
        ("cpu", ["0", "1"], [None] * 5),
    ],
    ids=["three", "one", "cpu"],
)
def test_workers_are_spread_over_the_accelerators(
    where: str,
    accelerators: list[str],
    expected: list[str | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What each worker is started with, seen by a stand-in that writes it down."""
    script = tmp_path / "worker"
    script.write_text(f'#!/bin/sh\necho "${{CUDA_VISIBLE_DEVICES-none}} $6" > {tmp_path}/said-$5\n')
    script.chmod(0o755)
    monkeypatch.setattr(run.sys, "executable", str(script))
    monkeypatch.setattr(run, "prepare_pages", lambda *_: None)
    monkeypatch.setattr(run, "visible_accelerators", lambda: accelerators)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    specs = cells(13, where)
    assert run._run_workers(specs, specs, tmp_path / "runs", 5, Console(quiet=True)) is None
    said = [(tmp_path / f"said-{number}").read_text().split() for number in range(5)]
    # Thirteen cells for five workers: no worker takes more than three at a time.
    assert said == [[one or "none", "3"] for one in expected]


def test_default_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "visible_accelerators", lambda: ["0", "1"])
    monkeypatch.setattr(run.os, "cpu_count", lambda: 3)
    found: dict[tuple[Any, ...], int] = {}
    for arguments in (("cpu", 9), ("cpu", 2), ("cuda", 9), ("cuda", 9, 4), ("cuda", 5, 4)):
        found[arguments] = run.default_jobs(*arguments)
    assert list(found.values()) == [3, 2, 2, 8, 5]
