"""How far the cells of a grid have come: one live table, whoever runs them."""

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from ..records import RunFolder, RunSpec

POLL_SECONDS = 0.5


def grid_table(specs: list[RunSpec], runs: Path) -> Table:
    """The cells of a grid and how far each has come, read off their folders."""
    table = Table(title=f"{len(specs)} cell{'s' * (len(specs) != 1)} in {runs}", title_justify="left")
    for heading in ("mixer", "pattern", "seed", "state", "step", "loss", "tokens/s", "left"):
        left = heading in ("mixer", "pattern", "state")
        table.add_column(heading, justify="left" if left else "right", no_wrap=left)
    for spec in specs:
        arguments = spec.arguments
        steps = arguments["training"]["steps"]
        folder = RunFolder(runs, spec)
        row = _last_row(folder.path / "metrics.jsonl")
        state = "training" if row else "waiting"
        if folder.finished:
            status = str(folder.result()["summary"].get("status"))
            state = "done" if status == "ok" else status
        elif row and row["step"] >= steps:
            state = "scoring"
        table.add_row(
            arguments["mixer"],
            arguments["pattern"],
            str(arguments["seed"]),
            state,
            f"{row['step']}/{steps}" if row else "",
            f"{row['loss']:.3f}" if row else "",
            f"{row['tokens_per_second']:,.0f}" if row else "",
            f"{row['seconds_left']:.0f} s" if row and state == "training" else "",
        )
    return table


def _last_row(path: Path) -> dict[str, Any] | None:
    """The last whole row of a metrics file that another process is writing; None for a damaged one, which it names."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        return json.loads(lines[-1]) if lines else None
    except (OSError, ValueError):
        return None
