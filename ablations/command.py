"""The `ablate` command: from options to cells to a table of scores."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..errors import UserError
from ..models.config import pattern_of_ratio
from ..models.device import resolve_device
from ..records import Record
from .run import default_jobs, run_grid
from .study import Study


def ablate_command(
    *,
    mixers: list[str] | None,
    ratios: list[str] | None,
    patterns: list[str] | None,
    scale: str,
    seeds: int,
    overrides: dict[str, Any],
    questions: int | None,
    pages: int | None,
    jobs: int | None,
    device: str,
    runs: Path,
) -> list[Record]:
    """Run a grid given by options, and print what came out.

    Raises:
        UserError: for options that name nothing known, before anything is trained.
    """
    if ratios and patterns:
        raise UserError("give --swa-ratio or --pattern, not both")
    study = Study(
        baseline={"mixer": "gated_deltanet", "pattern": "SLLL"},
        changes={
            "mixer": mixers or ["gated_deltanet"],
            "pattern": patterns or [pattern_of_ratio(ratio) for ratio in ratios or ["1/4"]],
            "seed": list(range(seeds)),
        },
        scale=scale,
        overrides=overrides,
        questions=questions,
        pages=pages,
    )
    device = resolve_device(device)
    cells = study.cells(device)
    console = Console()
    records = run_grid(cells, runs, jobs or default_jobs(device, len(cells)), console)
    console.print(scores_table(records))
    console.print(f"scale {scale}, synthetic split; runs in {runs}; next: infinitevl-bench report --runs {runs}")
    return records


def scores_table(records: list[Record]) -> Table:
    """Scores by cell and benchmark, beside the two baselines that need no mixer at all."""
    benchmarks = list(dict.fromkeys(record.benchmark for record in records if record.metric == "score"))
    table = Table(title="scores in % (95 % interval); baselines: never sees the picture / names some value on the page")
    table.add_column("mixer")
    table.add_column("pattern")
    table.add_column("seed", justify="right")
    for benchmark in benchmarks:
        table.add_column(str(benchmark), justify="right")
    cells: dict[tuple[str | None, str | None, int | None], dict[tuple[str | None, str], Record]] = {}
    for record in records:
        cell = cells.setdefault((record.mixer, record.pattern, record.seed), {})
        cell[record.benchmark, record.metric] = record
    for (mixer, pattern, seed), cell in cells.items():
        table.add_row(str(mixer), str(pattern), str(seed), *(_cell_text(cell, benchmark) for benchmark in benchmarks))
    return table


def _cell_text(cell: dict[tuple[str | None, str], Record], benchmark: str | None) -> str:
    score = cell.get((benchmark, "score"))
    if score is None:
        return "–"
    text = f"{score.value:.1f}"
    if score.ci_low is not None and score.ci_high is not None:
        text += f" ({score.ci_low:.0f}–{score.ci_high:.0f})"
    baselines = [cell.get((benchmark, metric)) for metric in ("blind", "page_value")]
    return text + "; " + " / ".join(f"{record.value:.1f}" if record else "–" for record in baselines)
