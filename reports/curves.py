"""Learning curves of the trained cells, and accuracy against the number of frames."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..records import Record
from .ablation_cells import Arm, arm_of, trained_name
from .arm_lines import arm_lines, key_below, key_height
from .artifacts import Artifact, Missing, describe
from .estimates import estimate, extra_text, group, run_ids, scale_rank, unique
from .figures import Theme, colour_of, end_label, new_figure, spread
from .tables import Column, Row, Table, count_cell, estimate_cell, number_cell, text_cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRAME_BENCHMARKS = ("Video-MME", "LongVideoBench")
FRAME_STUDY = "infinitevl-bench ablate --study frame_scaling --scale small"
FRAME_COUNTS = (32, 64, 128, 256, 512, 1024)


def learning_curves(records: Sequence[Record]) -> Artifact:
    """Training loss against steps, one line an arm, the seeds of an arm as thin lines behind their mean."""
    losses = unique(
        r
        for r in records
        if r.source == "measured" and r.metric == "loss" and r.steps is not None and r.extra.get("role") != "validation"
    )
    scale = max((record.scale or "" for record in losses), key=lambda name: (scale_rank(name), name), default="")
    losses = _longest([record for record in losses if (record.scale or "") == scale])
    arms = group(losses, arm_of)
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
    columns = (
        Column("Token mixer", numeric=False),
        Column("Pattern", numeric=False),
        Column("Steps"),
        Column("First loss"),
        Column("Last loss"),
        Column("Seeds"),
    )
    missing = (
        () if rows else (Missing("Training losses", "infinitevl-bench ablate --mixer gated_deltanet --swa-ratio 1/4"),)
    )
    return Artifact(
        name="learning_curves",
        label="Learning curves",
        title="Learning curves of the trained cells",
        caption=(
            "Mean loss on answer tokens in nats, over each logged interval. Thin: single seeds. Thick: their mean. "
            "First and last: the first and last logged interval; "
            "seeds: those that reached the last. Trainings that only chose a learning rate, and shorter ones, are left "
            "out. " + describe(losses)
        )
        if rows
        else "Nothing has been trained yet.",
        tables=(Table(f"Scale {scale}", columns, tuple(rows)),) if rows else (),
        figure=(lambda theme: _loss_figure(arms, theme)) if rows else None,
        missing=missing,
        runs=run_ids(losses),
    )


def _longest(losses: Sequence[Record]) -> list[Record]:
    """Those of the longest trainings, and of those that diverged: shorter ones are another study."""

    def steps(record: Record) -> int:
        return int(record.extra.get("steps_done") or 0)

    longest = max(map(steps, losses), default=0)
    return [r for r in losses if steps(r) == longest or extra_text(r, "status") == "diverged"]


def _loss_figure(arms: dict[Arm, list[Record]], theme: Theme) -> "Figure":
    patterns = sorted({arm.pattern for arm in arms})
    columns = min(len(patterns), 3)
    rows = -(-len(patterns) // columns)
    lines = arm_lines(arms, theme)
    figure, axes = new_figure(2.4 * rows + key_height(len(lines)), columns, rows, sharey=True)
    top = max(record.value for same in arms.values() for record in same)
    for number, (panel, pattern) in enumerate(zip(axes, patterns, strict=False)):
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
    for panel in axes[len(patterns) :]:
        panel.set_visible(False)
    key_below(figure, lines.values())
    return figure


def frame_scaling(records: Sequence[Record]) -> Artifact:
    """Accuracy against frames, with and without the long-sequence stage (``extra["stage"]``)."""
    points = unique(
        r
        for r in records
        if r.metric == "score"
        and r.frames is not None
        and r.benchmark
        and r.source == "measured"
        # Scores of one depth are a part of the others.
        and "depth" not in r.extra
    )
    series = group(
        points,
        lambda r: (r.benchmark or "", r.split or "", trained_name(r), extra_text(r, "stage") or "", r.scale or ""),
    )
    columns = (
        Column("Benchmark", numeric=False),
        Column("Model", numeric=False),
        Column("Training", numeric=False),
        Column("Frames"),
        Column("Score", "%"),
    )
    rows = []
    for key in sorted(series):
        benchmark, split, model, stage, scale = key
        for frames, same in sorted(group(series[key], lambda r: r.frames or 0).items()):
            cells = (
                text_cell(f"{benchmark} ({split})"),
                text_cell(model),
                text_cell(stage),
                count_cell(frames),
                estimate_cell(estimate(same)),
            )
            device = ", ".join(sorted({record.device or "" for record in same}))
            rows.append(Row(cells, "measured", run_ids(same), (("scale", scale), ("split", split), ("device", device))))
    absent = [frames for frames in FRAME_COUNTS if frames not in {record.frames for record in points}]
    missing = (
        Missing(
            f"{' and '.join(FRAME_BENCHMARKS)}, with and without stage 3, at {', '.join(map(str, absent))} frames",
            FRAME_STUDY,
        ),
    )
    return Artifact(
        name="fig_frames",
        label="Frames",
        title="Accuracy against frames, with and without long-sequence training",
        caption=(
            "Published as a direction only: with stage 3 the score holds or rises past 32 frames, without it it falls. "
            + (describe(points) or "Nothing has been measured yet.")
        ),
        tables=(Table("Measured", columns, tuple(rows)),) if rows else (),
        figure=(lambda theme: _frame_figure(points, theme)) if rows else None,
        missing=missing if absent else (),
        runs=run_ids(points),
    )


def _frame_figure(points: Sequence[Record], theme: Theme) -> "Figure":
    """A panel a benchmark and model, a line a stage: what a stage does to one model is what is asked."""
    panels = group(
        sorted(points, key=lambda r: (r.benchmark or "", r.split or "", trained_name(r))),
        lambda r: (r.benchmark, r.split, trained_name(r)),
    )
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(2.6 * rows + 0.6, columns, rows, sharey=True)
    stages = sorted({extra_text(r, "stage") or "" for r in points})
    for axis, ((benchmark, split, name), here) in zip(axes, panels.items(), strict=False):
        lines = group(here, lambda r: extra_text(r, "stage") or "")
        ends = []
        for stage in sorted(lines):
            colour = colour_of(stage, theme, stages)
            line = sorted(
                (frames, estimate(same)) for frames, same in group(lines[stage], lambda r: r.frames or 0).items()
            )
            axis.plot([x for x, _ in line], [one.value for _, one in line], "o-", color=colour)
            for x, one in line:
                if one.low is not None and one.high is not None:
                    axis.vlines(x, one.low, one.high, color=colour, linewidth=2, alpha=0.45)
            ends.append((line[-1][0], line[-1][1].value, stage or name, colour))
        axis.set_xscale("log", base=2)
        counts = sorted({record.frames or 0 for record in here})
        axis.set_xticks(counts, [str(count) for count in counts])
        axis.minorticks_off()
        axis.set_xlim(counts[0] * 0.8, counts[-1] * 3)
        low, high = axis.get_ylim()
        heights = spread([y for _, y, _, _ in ends], (high - low) * 0.07)
        for (x, _, label, colour), height in zip(ends, heights, strict=True):
            end_label(axis, x, height, label, colour)
        axis.set_title(f"{benchmark} ({split}), %\n{name}")
        axis.set_xlabel("frames")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    return figure
