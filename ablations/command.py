"""The `ablate` command: from options to cells to a table of scores."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from ..errors import UserError
from ..eval.sources import check_questions
from ..models.config import pattern_of_ratio
from ..models.device import resolve_device
from ..printing import PlainConsole
from ..records import Record, RunSpec
from .frame_command import frame_study, frames_table
from .frame_scaling import FramePlan
from .mqar import RecallPlan
from .plan import get_size
from .ray_grid import Cluster, check_cluster
from .recall_table import recall_table
from .run import default_jobs, run_grid
from .stages_table import STAGE_SCORE, stages_table
from .studies import get_plan
from .study import SHIPPED, Study

STUDY_JOBS = 4
"""Processes of a study on one accelerator, each of which trains several cells."""


def ablate_command(
    *,
    mixers: list[str] | None,
    ratios: list[str] | None,
    patterns: list[str] | None,
    scale: str,
    seeds: int,
    recipes: list[str] | None,
    match: str | None,
    overrides: dict[str, Any],
    questions: int | None,
    pages: int | None,
    jobs: int | None,
    device: str,
    runs: Path,
    ray: str | None = None,
    gpus_per_cell: float | None = None,
    teacher: str | None = None,
) -> list[Record]:
    """Run a grid given by options, and print what came out.

    Raises:
        UserError: for options that name nothing known, before anything is trained.
    """
    if ratios and patterns:
        raise UserError("give --swa-ratio or --pattern, not both")
    changes: dict[str, list[Any]] = {
        "mixer": mixers or ["gated_deltanet"],
        "pattern": patterns or [pattern_of_ratio(ratio) for ratio in ratios or ["1/4"]],
        "seed": list(range(seeds)),
    }
    if recipes:
        changes["recipe"] = recipes
    study = Study(
        baseline={"mixer": "gated_deltanet", "pattern": "SLLL"},
        changes=changes,
        scale=scale,
        overrides=overrides,
        match=match,
        teacher=teacher or SHIPPED,
        questions=questions,
        pages=pages,
    )
    cluster = _cluster(ray, gpus_per_cell, device)
    # The GPUs of a cluster need not be here.
    device = device if ray and device == "cuda" else resolve_device(device)
    cells = study.cells(device)
    _check_sizes(cells)
    console = PlainConsole()
    teachers = run_grid(study.teachers(device), runs, 1, console, cluster)
    records = run_grid(cells, runs, jobs or default_jobs(device, len(cells)), console, cluster)
    console.print(scores_table(records))
    if any(record.metric == STAGE_SCORE for record in records):
        console.print(stages_table(teachers, records))
    console.print(
        f"scale {scale}, synthetic split; runs in {runs}; next: infinitevl-bench report --runs {runs}", soft_wrap=True
    )
    return records


def check_study_options(
    study: str | None, arms: list[str] | None, frames: list[int] | None, options: Mapping[str, object]
) -> None:
    """Refuse options of a grid beside a study, and arms or frames without one.

    Raises:
        UserError: naming the option.
    """
    if arms and not study:
        raise UserError("--arm names an arm of a study; give --study with it, or --mixer")
    if frames and not study:
        raise UserError("--frames are those of a study; give --study frame_scaling with it")
    given = [name for name, value in options.items() if value is not None]
    if study and given:
        raise UserError(f"{given[0]} is part of what the study {study} has registered; leave one of them out")


def study_command(
    *,
    study: str,
    arms: list[str] | None,
    scale: str,
    steps: int | None,
    jobs: int | None,
    device: str,
    runs: Path,
    frames: list[int] | None = None,
) -> list[Record]:
    """Run a registered study: choose every arm's learning rate, then test it; print what came out.

    Raises:
        UserError: for an unknown study, arm or scale, or frames where none are tested, before anything is trained.
    """
    get_size(scale)
    plan = get_plan(study).only(arms, scale)
    device = resolve_device(device)
    if isinstance(plan, FramePlan):
        return _frames(plan, scale, steps, jobs, device, runs, frames)
    if frames:
        raise UserError(f"--frames belongs to the study frame_scaling; {study} has no videos")
    cells = plan.validation_cells(scale, device, steps)
    console = PlainConsole()
    count = jobs or default_jobs(device, len(cells), STUDY_JOBS)
    choosing = run_grid(cells, runs, count, console)
    rates = plan.best_rates(cells, choosing)
    console.print(rates_table(rates, plan.rates(scale)))
    records = run_grid(plan.test_cells(scale, device, rates, steps), runs, count, console)
    if isinstance(plan, RecallPlan):
        console.print(recall_table(records))
    else:
        console.print(scores_table(records))
        console.print(learning_table(records))
    console.print(f"study {study}, scale {scale}, synthetic split, exact answers; runs in {runs}", soft_wrap=True)
    return [*choosing, *records]


def _frames(
    plan: FramePlan, scale: str, steps: int | None, jobs: int | None, device: str, runs: Path, frames: list[int] | None
) -> list[Record]:
    console = PlainConsole()
    usual = default_jobs(device, os.cpu_count() or 1, STUDY_JOBS)
    choosing, rates, records = frame_study(
        plan, scale, device, jobs, usual, runs, console, steps=steps, frames=frames
    )  # fmt: skip
    console.print(rates_table(rates, plan.rates(scale)))
    console.print(frames_table(records))
    console.print(f"study {plan.name}, scale {scale}, synthetic split, exact answers; runs in {runs}", soft_wrap=True)
    return [*choosing, *records]


def rates_table(rates: dict[str, float], tried: Sequence[float]) -> Table:
    """The learning rate of every arm, and whether it is the lowest or highest that was tried."""
    table = Table(title="learning rate, chosen on validation data and seeds", title_justify="left")
    for heading in ("arm", "rate", ""):
        table.add_column(heading)
    for name, rate in rates.items():
        table.add_row(name, f"{rate:g}", "at the end of those tried" if rate in (tried[0], tried[-1]) else "")
    return table


def learning_table(records: list[Record]) -> Table:
    """By arm and benchmark, the share of seeds that learnt it and the median of the steps that they took."""
    learnt = [record for record in records if record.metric == "learnt"]
    taken = {(r.run_id, r.benchmark): r.value for r in records if r.metric == "steps_to_threshold"}
    benchmarks = list(dict.fromkeys(record.benchmark for record in learnt))
    table = Table(title="seeds that learnt (median steps to threshold)", title_justify="left")
    table.add_column("arm", overflow="fold")
    for benchmark in benchmarks:
        table.add_column(str(benchmark), justify="right", overflow="fold", min_width=5)
    arms: dict[str, list[Record]] = {}
    for record in learnt:
        arms.setdefault(f"{record.mixer} {record.pattern} {record.extra['variant']}".rstrip(), []).append(record)
    for name, own in arms.items():
        texts = []
        for benchmark in benchmarks:
            seeds = [record for record in own if record.benchmark == benchmark]
            steps = [taken[key] for record in seeds if (key := (record.run_id, benchmark)) in taken]
            texts.append(f"{len(steps)}/{len(seeds)}" + (f" ({median(steps):.0f})" if steps else ""))
        table.add_row(name, *texts)
    return table


def _cluster(ray: str | None, gpus_per_cell: float | None, device: str) -> Cluster | None:
    if ray is None:
        if gpus_per_cell is not None:
            raise UserError("--gpus-per-cell is Ray's; give --ray local or a cluster's address with it")
        return None
    share = gpus_per_cell if gpus_per_cell is not None else float(device == "cuda" or resolve_device(device) == "cuda")
    cluster = Cluster(address=ray, gpus=share)
    check_cluster(cluster)
    return cluster


def _check_sizes(cells: list[RunSpec]) -> None:
    """Refuse sizes that would be found wrong only after the pages are drawn, or after the training."""
    for cell in cells:
        pages, batch_size = cell.arguments["pages"]["pages"], cell.arguments["training"]["batch_size"]
        if pages < batch_size:
            raise UserError(f"{pages} pages make no batch of {batch_size}; give --pages {batch_size} or more")
        check_questions(cell.arguments["questions"])


BASELINES = {"blind": "baseline: sees no picture", "page_value": "baseline: any value on the page"}


def scores_table(records: list[Record]) -> Table:
    """Scores by cell and benchmark, above the two baselines that need no mixer at all."""
    scores = [record for record in records if record.metric == "score"]
    benchmarks = list(dict.fromkeys(record.benchmark for record in scores))
    table = Table(title="score in % on synthetic data (95 % interval over questions)", title_justify="left")
    table.add_column("cell", overflow="fold")
    for benchmark in benchmarks:
        # A narrow terminal breaks a name; cut off, it could not be told from another.
        table.add_column(str(benchmark), justify="right", overflow="fold", min_width=5)
    cells: dict[str, dict[str | None, Record]] = {}
    for record in scores:
        cells.setdefault(cell_name(record), {})[record.benchmark] = record
    for name, cell in cells.items():
        table.add_row(name, *(_score_text(cell.get(benchmark)) for benchmark in benchmarks))
    table.add_section()
    for metric, name in BASELINES.items():
        # The highest over the cells: the hardest to beat.
        found = [
            max((r.value for r in records if (r.metric, r.benchmark) == (metric, benchmark)), default=None)
            for benchmark in benchmarks
        ]
        table.add_row(name, *("–" if value is None else f"{value:.1f}" for value in found))
    return table


def cell_name(record: Record) -> str:
    """What a reader calls the cell of a record."""
    seed = f"seed {record.seed}"
    parts = (record.mixer, record.pattern, seed, record.extra.get("recipe"), record.extra.get("variant"))
    return " ".join(str(part) for part in parts if part)


def _score_text(score: Record | None) -> str:
    if score is None:
        return "–"
    if score.ci_low is None or score.ci_high is None:
        return f"{score.value:.1f}"
    return f"{score.value:.1f} ({score.ci_low:.0f}–{score.ci_high:.0f})"
