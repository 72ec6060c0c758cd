"""How arms learnt: which share of seeds and how soon, as a table beside the scores, and the curves of exact answers.

Recall comes suddenly, so the mean of final scores over seeds hides whether some seeds learnt all and others nothing.
The curves are drawn from the exact answers that were asked for now and then on pages of the validation split.
"""

from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING

from ..records import Record
from .ablation_cells import Arm, Block, ablation_records, arm_of, blocks_of
from .arm_lines import arm_lines, key_below, key_height
from .artifacts import Artifact, Missing, describe
from .estimates import group, run_ids, unique
from .figures import Theme, panel_grid
from .learnt import seeds_that_learnt, share_that_learnt, steps_to_threshold, was_recorded
from .tables import NOTHING, Cell, Column, Row, Table, count_cell, number_cell, text_cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEARNT_CAPTION = (
    "Seeds that learnt: half way from naming any value of the page to always right, at any time of the training, asked "
    "on validation pages of all levels that were trained on, where scores are of level 1, the easiest; in brackets the "
    "median of their steps to there."
)

Place = Callable[[Arm], tuple[object, ...]]


def learnt_table(heading: str, block: Block, place: Place, label: Callable[[Arm], str]) -> Table | None:
    """Of each arm and benchmark, how many seeds learnt it and in how many steps; None where that was not recorded."""
    arms = block.arms()
    said = [arm for arm in sorted(arms, key=place) if was_recorded(block, arm, block.benchmarks)]
    if not said:
        return None
    rows = []
    for arm in said:
        cells = [text_cell(label(arm)), *(_learnt_cell(block, arm, name) for name in block.benchmarks)]
        devices = ", ".join(sorted({record.device for record in arms[arm] if record.device}))
        facets = (("scale", block.scale), ("split", block.split), ("device", devices))
        rows.append(Row(tuple(cells), "measured", run_ids(arms[arm]), facets))
    columns = (Column(heading, numeric=False), *(Column(f"{name} {block.split}", "seeds") for name in block.benchmarks))
    return Table(f"Seeds that learnt, {block.title[0].lower()}{block.title[1:]}", columns, tuple(rows))


def _learnt_cell(block: Block, arm: Arm, benchmark: str) -> Cell:
    seeds = seeds_that_learnt(block, arm, benchmark)
    if not seeds:
        return Cell(NOTHING)
    steps = steps_to_threshold(block, arm, benchmark)
    text = f"{sum(seeds.values())}/{len(seeds)}"
    return Cell(text + (f" ({steps:,.0f})" if steps is not None else ""), share_that_learnt(block, arm, benchmark))


def probe_curves(records: Sequence[Record]) -> Artifact:
    """Exact answers on validation pages against steps: a panel a benchmark, all seeds thin, their median thick."""
    probes = unique(r for r in records if r.source == "measured" and r.metric == "probe" and _counts(r))
    # A point of a curve has the step of the curve; what its run was to have, the run's scores say.
    block = next((one for one in blocks_of(ablation_records(records)) if _of_block(probes, one)), None)
    found = _of_block(probes, block) if block else []
    lines = {
        key: _line(same) for key, same in group(sorted(found, key=_key), lambda r: (r.benchmark, arm_of(r))).items()
    }
    rows = [_row(block, arm, name, line, found) for (name, arm), line in sorted(lines.items())] if block else []
    columns = (
        Column("Benchmark", numeric=False),
        Column("Token mixer", numeric=False),
        Column("Pattern", numeric=False),
        Column("Half of the best", "steps"),
        Column("Best median", "%"),
        Column("Last median", "%"),
        Column("Seeds that learnt"),
    )
    return Artifact(
        name="probe_curves",
        label="Exact answers while training",
        title="Exact answers while training, by benchmark and arm",
        caption=(
            "Share of exact answers on pages of the validation split. Thin: single seeds. Thick: their median. Half of "
            "the best: the first step at which the median is at half of its best. " + describe(found)
        )
        if rows
        else "No study has been run yet.",
        tables=(Table(block.title, columns, tuple(rows)),) if rows and block else (),
        figure=(lambda theme: _curves_figure(found, theme)) if rows else None,
        missing=() if rows else (Missing("Curves of a study", "infinitevl-bench ablate --study mixer_choice"),),
        runs=run_ids(found),
    )


def _counts(record: Record) -> bool:
    return record.extra.get("role") != "validation" and record.steps is not None and record.benchmark is not None


def _key(record: Record) -> tuple[object, ...]:
    return record.benchmark or "", arm_of(record), record.seed or 0, record.steps or 0, record.run_id or ""


def _of_block(probes: Sequence[Record], block: Block) -> list[Record]:
    runs = set(run_ids(record for record in block.records if record.metric == "score"))
    return [record for record in probes if record.run_id in runs]


def _line(rows: Sequence[Record]) -> list[tuple[int, float]]:
    """Step and median over the seeds, for the steps that all of them have."""
    seeds = {record.seed for record in rows}
    by_step = group(rows, lambda r: r.steps or 0)
    return [
        (step, float(median(record.value for record in same)))
        for step, same in sorted(by_step.items())
        if {record.seed for record in same} == seeds
    ]


def _row(
    block: Block, arm: Arm, benchmark: str | None, line: Sequence[tuple[int, float]], found: Sequence[Record]
) -> Row:
    name = benchmark or ""
    own = [record for record in found if record.benchmark == benchmark and arm_of(record) == arm]
    best = max((value for _, value in line), default=None)
    half = next((step for step, value in line if best and value >= best / 2), None)
    cells = (
        text_cell(f"{name} ({block.split})"),
        text_cell(arm.label),
        text_cell(arm.pattern),
        count_cell(half) if half is not None else Cell(NOTHING),
        number_cell(best, 1) if best is not None else Cell(NOTHING),
        number_cell(line[-1][1], 1) if line else Cell(NOTHING),
        _learnt_cell(block, arm, name),
    )
    devices = ", ".join(sorted({record.device for record in own if record.device}))
    facets = (("scale", block.scale), ("split", block.split), ("device", devices))
    return Row(cells, "measured", run_ids(own), facets)


def _curves_figure(found: Sequence[Record], theme: Theme) -> "Figure":
    benchmarks = sorted({record.benchmark or "" for record in found})
    lines = arm_lines(map(arm_of, found), theme)
    columns = 2
    figure, axes = panel_grid(len(benchmarks), 2.5, key_height(len(lines)), columns=columns, sharex=True, sharey=True)
    for panel, benchmark in zip(axes, benchmarks, strict=True):
        of_arm = group((r for r in found if r.benchmark == benchmark), arm_of)
        for arm, own in sorted(of_arm.items()):
            label, colour, stroke, marker = lines[arm]
            for same in group(own, lambda r: (r.seed, r.run_id)).values():
                points = sorted((record.steps or 0, record.value) for record in same)
                panel.plot(*zip(*points, strict=True), color=colour, linewidth=0.6, alpha=0.4)
            if line := _line(own):
                panel.plot(*zip(*line, strict=True), stroke, color=colour, label=label, marker=marker, markersize=3)
        panel.set_title(f"{benchmark} (synthetic), % exact")
        panel.set_ylim(-3, 104)
    for panel in axes[-columns:]:
        panel.set_xlabel("step")
    key_below(figure, lines.values())
    return figure
