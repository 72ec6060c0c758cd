"""How far the cells of a grid have come: one live table and one line, whoever runs them."""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from ..records import RunFolder, RunSpec

POLL_SECONDS = 0.5
LINE_SECONDS = 30.0
"""Least time between two lines where there is no terminal to redraw a table on."""

MOST_ROWS = 24
"""A grid of more cells shows those that are under way only: a table longer than a screen cannot be redrawn."""


class Lines:
    """What is said of long work where there is no terminal: not too often, and not the same twice.

    Args:
        first: what need not be said.
    """

    def __init__(self, first: str = "") -> None:
        self._at, self._last = time.monotonic(), first

    def news(self, line: str) -> str | None:
        """The line, where it is to be said now."""
        now = time.monotonic()
        if line == self._last or now - self._at < LINE_SECONDS:
            return None
        self._at, self._last = now, line
        return line


class _Cell(NamedTuple):
    state: str
    row: dict[str, Any] | None
    share: float


class GridProgress:
    """The cells of a grid and how far each has come, read off their folders.

    Args:
        specs: all cells, finished ones too.
        runs: folder of all runs.
    """

    def __init__(self, specs: list[RunSpec], runs: Path) -> None:
        self.specs, self.runs = specs, runs
        self.ended: dict[str, _Cell] = {}
        self.began = time.monotonic()
        self.before = self._work()
        self._lines = Lines(self.line())

    @property
    def done(self) -> int:
        """How many cells have a result."""
        return len(self.ended)

    def line(self) -> str:
        """Cells that are done and, once some of this call's work is, the time that the others will take at its pace."""
        found = self._work()
        text = f"{self.done} of {len(self.specs)} cells done"
        made, left = found - self.before, sum(self._steps(spec) for spec in self.specs) - found
        if left > 0 and made > 0:
            text += f"; about {_duration((time.monotonic() - self.began) * left / made)} left"
        return text

    def news(self) -> str | None:
        """The line, where it is another than the last and some time has passed; else None."""
        return self._lines.news(self.line())

    def table(self) -> Table:
        """One row a cell, or a cell under way, below the line."""
        cells = [(spec, self._look(spec)) for spec in self.specs]
        table = Table(title=f"{self.line()}, in {self.runs}", title_justify="left")
        for heading in ("mixer", "pattern", "seed", "state", "step", "loss", "tokens/s", "left"):
            left = heading in ("mixer", "pattern", "state")
            table.add_column(heading, justify="left" if left else "right", no_wrap=left)
        if len(cells) > MOST_ROWS:
            cells = [(spec, cell) for spec, cell in cells if cell.state in ("training", "scoring")][:MOST_ROWS]
        for spec, (state, row, _) in cells:
            arguments = spec.arguments
            table.add_row(
                arguments["mixer"],
                arguments["pattern"],
                str(arguments["seed"]),
                state,
                f"{row['step']}/{self._steps(spec)}" if row else "",
                f"{row['loss']:.3f}" if row else "",
                f"{row['tokens_per_second']:,.0f}" if row else "",
                f"{row['seconds_left']:.0f} s" if row and state == "training" else "",
            )
        return table

    def _work(self) -> float:
        """Steps that are behind all cells together; those of a finished cell count whole, diverged or not."""
        return sum(self._look(spec).share * self._steps(spec) for spec in self.specs)

    def _look(self, spec: RunSpec) -> _Cell:
        if spec.id in self.ended:
            return self.ended[spec.id]
        folder = RunFolder(self.runs, spec)
        row = _last_row(folder.path / "metrics.jsonl")
        if folder.finished:
            status = str(folder.result()["summary"].get("status"))
            self.ended[spec.id] = _Cell("done" if status == "ok" else status, row, 1.0)
            return self.ended[spec.id]
        if row is None:
            return _Cell("waiting", None, 0.0)
        share = row["step"] / max(1, self._steps(spec))
        return _Cell("scoring" if share >= 1 else "training", row, min(share, 1.0))

    @staticmethod
    def _steps(spec: RunSpec) -> int:
        return int(spec.arguments["training"]["steps"])


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _last_row(path: Path) -> dict[str, Any] | None:
    """The last whole row of a metrics file that another process is writing; None for a damaged one, which it names."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        return json.loads(lines[-1]) if lines else None
    except (OSError, ValueError):
        return None
