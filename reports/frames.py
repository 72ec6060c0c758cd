"""Accuracy against the number of frames, with and without long-sequence training, and by the depth of the answer."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..records import Record
from .ablation_cells import trained_name
from .artifacts import Artifact, Missing, describe
from .estimates import Estimate, estimate, extra_text, group, run_ids, unique
from .figures import Theme, colour_of, end_label, new_figure, panel_grid, spread
from .tables import NOTHING, Cell, Column, Row, Table, count_cell, estimate_cell, text_cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRAME_BENCHMARKS = ("Video-MME", "LongVideoBench")
FRAME_STUDY = "infinitevl-bench ablate --study frame_scaling --scale small"
FRAME_COUNTS = (32, 64, 128, 256, 512, 1024)
BASELINES = {"blind": "sees nothing", "page_value": "names any value at hand"}
STAGES = ("short", "long", "control")
"""Order of the stages; others come after them."""


class Series(NamedTuple):
    """What one line, or one map, is of; sorted as it is shown."""

    benchmark: str
    split: str
    model: str
    place: int
    stage: str
    scale: str


class Floor(NamedTuple):
    """What a baseline is of."""

    benchmark: str
    split: str
    scale: str
    name: str
    frames: int


def frame_scaling(records: Sequence[Record]) -> Artifact:
    """Accuracy against frames, with and without the long-sequence stage (``extra["stage"]``)."""
    # Scores of one depth are a part of the others.
    points = [record for record in _framed(records, "score") if _depth(record) is None]
    floors = _floors(records)
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
            "Training: short videos (at scale small of 16 to 32 frames); long ones after them (of 16 to 256); or, as "
            "the control, short ones for as many steps more, which are fewer frames. Means over seeds; bars and "
            "brackets: 95 % t interval over seeds. "
            + ("Dotted: the higher of seeing nothing and naming any value at hand. " if floors else "")
            + (describe(points) or "Nothing has been measured yet.")
        ),
        tables=_table(points, (), lambda record: (), floors),
        figure=(lambda theme: _frame_figure(points, theme, floors)) if points else None,
        missing=missing if absent else (),
        runs=run_ids(points),
    )


def depth_frames(records: Sequence[Record]) -> Artifact:
    """Score by the number of frames and by where in the video the answer stands (``extra["depth"]``, 0 to 1)."""
    found = [record for record in _framed(records, "score") if _depth(record) is not None]
    return Artifact(
        name="depth_frames",
        label="Depth and frames",
        title="Score by number of frames and depth of the answer",
        caption=(
            "Depth is where in the video the answer stands: 0 % is its start. Nothing of this is published. "
            + (describe(found) or "Nothing has been measured yet.")
        ),
        tables=_table(found, (Column("Depth"),), lambda record: (_depth(record) or 0.0,)),
        figure=(lambda theme: _heat_maps(found)) if found else None,
        missing=() if found else (Missing("Scores by depth of the answer", FRAME_STUDY),),
        runs=run_ids(found),
    )


def _framed(records: Sequence[Record], metric: str) -> list[Record]:
    return unique(
        r for r in records if r.source == "measured" and r.metric == metric and r.frames is not None and r.benchmark
    )


def _floors(records: Sequence[Record]) -> dict[Floor, Estimate]:
    """The highest mean over the seeds of an arm, the hardest to beat, of each baseline."""
    floors: dict[Floor, Estimate] = {}
    for metric, name in BASELINES.items():
        found = _framed(records, metric)
        grouped = group(
            found, lambda r: (r.benchmark or "", r.split or "", r.scale or "", r.frames or 0, trained_name(r))
        )
        for (benchmark, split, scale, frames, _), same in sorted(grouped.items()):
            floor, one = Floor(benchmark, split, scale, name, frames), estimate(same)
            if floor not in floors or floors[floor].value < one.value:
                floors[floor] = one
    return floors


def _depth(record: Record) -> float | None:
    value = record.extra.get("depth")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _series(record: Record) -> Series:
    stage = extra_text(record, "stage") or ""
    place = STAGES.index(stage) if stage in STAGES else len(STAGES)
    return Series(
        record.benchmark or "", record.split or "", trained_name(record), place, stage, record.scale or ""
    )  # fmt: skip


def _table(
    points: Sequence[Record],
    further: tuple[Column, ...],
    place: Callable[[Record], tuple[float, ...]],
    floors: Mapping[Floor, Estimate] = MappingProxyType({}),
) -> tuple[Table, ...]:
    """A row a series (and what ``place`` says of a record, a share), a column a number of frames; baselines last."""
    counts = sorted({record.frames or 0 for record in points})
    columns = (
        *(Column(title, numeric=False) for title in ("Benchmark", "Model", "Training")),
        *further,
        *(Column(f"{count:,} frames", "%") for count in counts),
        Column("Seeds"),
    )
    rows = []
    for (series, shares), same in sorted(group(points, lambda r: (_series(r), place(r))).items()):
        found = group(same, lambda r: r.frames or 0)
        cells = (
            *map(text_cell, (f"{series.benchmark} ({series.split})", series.model, series.stage)),
            *(Cell(f"{share:.0%}", share) for share in shares),
            *(estimate_cell(estimate(found[count])) if count in found else Cell(NOTHING) for count in counts),
            count_cell(len({record.seed for record in same})),
        )
        device = ", ".join(sorted({record.device or "" for record in same}))
        facets = (("scale", series.scale), ("split", series.split), ("device", device))
        rows.append(Row(cells, "measured", run_ids(same), facets))
    for floor, one in floors.items() if rows else ():
        names = (f"{floor.benchmark} ({floor.split})", f"Baseline: {floor.name}", NOTHING)
        own = (estimate_cell(one) if count == floor.frames else Cell(NOTHING) for count in counts)
        facets = (("scale", floor.scale), ("split", floor.split), ("device", ""))
        rows.append(Row((*map(text_cell, names), *own, Cell(NOTHING)), "baseline", one.runs, facets))
    return (Table("Measured", columns, tuple(rows)),) if rows else ()


def _frame_figure(points: Sequence[Record], theme: Theme, floors: Mapping[Floor, Estimate]) -> "Figure":
    """A row of panels a benchmark, a column a model, a line a stage: what a stage does to a model is what is asked."""
    by_series = group(points, _series)
    tasks = sorted({(series.benchmark, series.split) for series in by_series})
    models = sorted({series.model for series in by_series})
    stages = sorted({(series.place, series.stage) for series in by_series})
    figure, axes = new_figure(1.9 * len(tasks) + 0.5, len(models), len(tasks), sharex=True, sharey=True)
    for axis, (task, model) in zip(axes, ((task, model) for task in tasks for model in models), strict=True):
        chance = max((one.value for key, one in floors.items() if key[:2] == task), default=None)
        if chance is not None:
            axis.axhline(chance, color=theme.muted, linewidth=1, linestyle=":", zorder=1)
        ends = []
        for series in sorted(one for one in by_series if (one[:2], one.model) == (task, model)):
            colour = colour_of(series.stage, theme, [stage for _, stage in stages])
            found = group(by_series[series], lambda r: r.frames or 0)
            line = [(frames, estimate(same)) for frames, same in sorted(found.items())]
            axis.plot([x for x, _ in line], [one.value for _, one in line], "o-", color=colour, markersize=3)
            for x, one in line:
                if one.low is not None and one.high is not None:
                    axis.vlines(x, one.low, one.high, color=colour, linewidth=2, alpha=0.45)
            ends.append((line[-1][0], line[-1][1].value, series.stage or model, colour))
        if ends:
            _name_ends(axis, ends)
        axis.set_xscale("log", base=2)
        counts = sorted({record.frames or 0 for record in points})
        axis.set_xticks(counts, [str(count) for count in counts], fontsize=5.5)
        axis.minorticks_off()
        axis.set_xlim(counts[0] * 0.8, counts[-1] * 5)
        if task == tasks[0]:
            axis.set_title(model.replace(", ", "\n"), fontsize=7)
        if task == tasks[-1]:
            axis.set_xlabel("frames")
        if model == models[0]:
            axis.set_ylabel(f"{task[0]} ({task[1]}), %", fontsize=7)
    return figure


def _name_ends(axis: "Axes", ends: list[tuple[int, float, str, str]]) -> None:
    axis.set_ylim(-4, 104)
    heights = spread([max(y, 9.0) for _, y, _, _ in ends], 9)
    for (x, _, label, colour), height in zip(ends, heights, strict=True):
        end_label(axis, x, height, label, colour, fontsize=6)


def _heat_maps(found: Sequence[Record]) -> "Figure":
    """Three stages of an arm stand side by side."""
    panels = dict(sorted(group(found, _series).items()))
    figure, axes = panel_grid(len(panels), 2.0)
    for axis, (series, here) in zip(axes, panels.items(), strict=True):
        frames = sorted({r.frames or 0 for r in here})
        depths = sorted({_depth(r) or 0.0 for r in here})
        values = np.full((len(depths), len(frames)), np.nan)
        for (count, depth), same in group(here, lambda r: (r.frames or 0, _depth(r) or 0.0)).items():
            values[depths.index(depth), frames.index(count)] = estimate(same).value
        # cividis is read alike by all eyes, and stays in order when printed in grey.
        axis.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                ink = "#FFFFFF" if value < 55 else "#1B1F24"
                axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6, color=ink)
        axis.set_xticks(range(len(frames)), [str(count) for count in frames], fontsize=6)
        axis.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths], fontsize=6)
        axis.grid(visible=False)
        axis.set_xlabel("frames", fontsize=7)
        axis.set_ylabel("depth of the answer", fontsize=7)
        stage = f", {series.stage}" * bool(series.stage)
        axis.set_title(f"{series.benchmark} ({series.split}), %{stage}\n{series.model}", fontsize=6.5)
    return figure
