"""The study of frames from the command line: rates are chosen, short stages trained, long stages and controls after."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from rich.table import Table

from ..printing import PlainConsole
from ..records import Record, RunSpec
from .frame_scaling import BENCHMARKS, STAGES, FramePlan
from .run import run_grid


def frame_study(
    plan: FramePlan,
    scale: str,
    device: str,
    jobs: int | None,
    default_jobs: int,
    runs: Path,
    console: PlainConsole,
    *,
    steps: int | None = None,
    frames: Sequence[int] | None = None,
) -> tuple[list[Record], dict[str, float], list[Record]]:
    """Run the study's cells; a cell that diverges is recorded as such, and the others go on.

    Args:
        plan: with the arms that are wanted.
        scale, device: where and how large.
        jobs: processes; ``default_jobs`` if None.
        default_jobs: what suits the device.
        runs: folder of all runs.
        console: where the live tables go.
        steps: of the short stage, instead of the scale's.
        frames: that are tested, instead of the scale's.

    Returns:
        Records of the choice of rates, each arm's rate, and the records that count.

    Raises:
        UserError: for frames that make no video, or that memory does not hold, before anything is trained.
    """
    plan = replace(plan, tested=tuple(frames or ()))
    cells = plan.validation_cells(scale, device, steps)
    lowest = dict.fromkeys(plan.arms, plan.rates(scale)[0])
    plan.check_memory(plan.test_cells(scale, device, lowest, steps))
    count = jobs or default_jobs
    choosing = run_grid(cells, runs, count, console)
    rates = plan.best_rates(cells, choosing)
    short = plan.test_cells(scale, device, rates, steps)
    records = run_grid(short, runs, count, console)
    later: list[RunSpec] = plan.later_cells(short)
    return choosing, rates, records + run_grid(later, runs, count, console)


def frames_table(records: Sequence[Record]) -> Table:
    """Exact answers in % by arm, stage and kind of question, against the number of frames."""
    scores = [record for record in records if record.metric == "score" and "depth" not in record.extra]
    counts = sorted({record.frames or 0 for record in scores})
    table = Table(
        title="exact answers in % by number of frames of synthetic videos, mean over seeds", title_justify="left"
    )
    for heading in ("arm", "stage", "question"):
        table.add_column(heading, overflow="fold")
    for frames in counts:
        table.add_column(str(frames), justify="right")
    arms = list(dict.fromkeys((record.mixer, record.pattern) for record in scores))
    for arm in arms:
        for stage in STAGES:
            own = [r for r in scores if (r.mixer, r.pattern) == arm and r.extra["stage"] == stage]
            for benchmark in BENCHMARKS.values():
                cells = [
                    [r.value for r in own if (r.benchmark, r.frames) == (benchmark, frames)] for frames in counts
                ]  # fmt: skip
                if any(cells):
                    shown = (f"{fmean(values):.1f}" if values else "–" for values in cells)
                    table.add_row(" ".join(part for part in arm if part and part != "none"), stage, benchmark, *shown)
    table.add_section()
    for metric, name in (("blind", "sees nothing"), ("page_value", "any value at hand")):
        for benchmark in BENCHMARKS.values():
            found = [r.value for r in records if (r.metric, r.benchmark) == (metric, benchmark)]
            if found:
                table.add_row("baseline", name, benchmark, f"{max(found):.1f}")
    return table
