"""Learning curves of the trained cells."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..records import Record
from .ablation_cells import Arm, arm_of, conditions_of
from .arm_lines import arm_lines, key_below, key_height
from .artifacts import Artifact, Missing, describe
from .estimates import estimate, extra_text, group, run_ids, scale_rank, unique
from .figures import Theme, panel_grid
from .tables import Column, Row, Table, count_cell, estimate_cell, number_cell, text_cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curves(records: Sequence[Record]) -> Artifact:
    """Training loss against steps, one line an arm, the seeds of an arm as thin lines behind their mean."""
    losses = unique(
        r
        for r in records
        if r.source == "measured" and r.metric == "loss" and r.steps is not None and r.extra.get("role") != "validation"
    )
    scale = max((record.scale or "" for record in losses), key=lambda name: (scale_rank(name), name), default="")
    losses = _longest([record for record in losses if (record.scale or "") == scale])
    blocks = {said: group(same, arm_of) for said, same in sorted(group(losses, conditions_of).items())}
    # Comparable in everything but the arm; the block that has most arms says most.
    drawn = max(blocks.values(), key=len, default={})
    columns = (
        Column("Token mixer", numeric=False),
        Column("Pattern", numeric=False),
        Column("Steps"),
        Column("First loss"),
        Column("Last loss"),
        Column("Seeds"),
    )
    missing = (
        ()
        if blocks
        else (Missing("Training losses", "infinitevl-bench ablate --mixer gated_deltanet --swa-ratio 1/4"),)
    )
    return Artifact(
        name="learning_curves",
        label="Learning curves",
        title="Learning curves of the trained cells",
        caption=(
            "Mean loss on answer tokens in nats, over each logged interval. Thin: single seeds. Thick: their mean. "
            "First and last: the first and last logged interval; "
            "seeds: those that reached the last. Trainings that only chose a learning rate, and shorter ones, are left "
            "out. " + ("Drawn: those of the table with most arms. " if len(blocks) > 1 else "") + describe(losses)
        )
        if blocks
        else "Nothing has been trained yet.",
        tables=tuple(
            Table(", ".join(filter(None, (f"Scale {scale}", said))), columns, _rows(arms, scale))
            for said, arms in blocks.items()
        ),
        figure=(lambda theme: _loss_figure(drawn, theme)) if drawn else None,
        missing=missing,
        runs=run_ids(losses),
    )


def _rows(arms: dict[Arm, list[Record]], scale: str) -> tuple[Row, ...]:
    rows = []
    for arm in sorted(arms, key=lambda arm: (arm.pattern, arm.mixer, arm)):
        last_step = max(record.steps or 0 for record in arms[arm])
        finished = [record for record in arms[arm] if record.steps == last_step]
        last = estimate(finished)
        first_step = min(record.steps or 0 for record in arms[arm])
        first = estimate([record for record in arms[arm] if record.steps == first_step])
        cells = (
            text_cell(arm.label),
            text_cell(arm.pattern),
            count_cell(last_step),
            number_cell(first.value, 3),
            estimate_cell(last, 3),
            count_cell(len({record.seed for record in finished})),
        )
        facets = (("scale", scale), ("split", ""), ("device", ", ".join(sorted({r.device or "" for r in arms[arm]}))))
        rows.append(Row(cells, "measured", run_ids(arms[arm]), facets))
    return tuple(rows)


def _longest(losses: Sequence[Record]) -> list[Record]:
    """Those of the longest trainings, and of those that diverged: shorter ones are another study."""

    def steps(record: Record) -> int:
        return int(record.extra.get("steps_done") or 0)

    longest = max(map(steps, losses), default=0)
    return [r for r in losses if steps(r) == longest or extra_text(r, "status") == "diverged"]


def _loss_figure(arms: dict[Arm, list[Record]], theme: Theme) -> "Figure":
    patterns = sorted({arm.pattern for arm in arms})
    lines = arm_lines(arms, theme)
    columns = 3
    figure, axes = panel_grid(len(patterns), 2.4, key_height(len(lines)), columns=columns, sharey=True)
    top = max(record.value for same in arms.values() for record in same)
    for number, (panel, pattern) in enumerate(zip(axes, patterns, strict=True)):
        for arm in sorted(arm for arm in arms if arm.pattern == pattern):
            line = lines[arm]
            seeds = group(arms[arm], lambda r: (r.seed, r.run_id))
            for same in seeds.values() if len(seeds) > 1 else ():
                points = sorted((record.steps or 0, record.value) for record in same)
                panel.plot(*zip(*points, strict=True), color=line.colour, linewidth=0.6, alpha=0.4)
            by_step = group(arms[arm], lambda r: r.steps or 0)
            whole = sorted(step for step, same in by_step.items() if len(same) == len(seeds))
            mean = [float(np.mean([record.value for record in by_step[step]])) for step in whole]
            often = max(1, len(whole) // 6)
            panel.plot(
                whole, mean, line.stroke, color=line.colour, marker=line.marker, markersize=3, markevery=often,
                label=line.label,
            )  # fmt: skip
        panel.set_title(f"Pattern {pattern}")
        panel.set_xlabel("step")
        panel.set_ylim(0, top * 1.05)
        if number % columns == 0:
            panel.set_ylabel("loss, nats")
    key_below(figure, lines.values())
    return figure
