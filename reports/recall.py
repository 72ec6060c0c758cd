"""What the paper does not show: score against difficulty, and against the state's size.

Both are of measured scores on one split and scale at a time; neither has a published side.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..records import Record
from .ablation_cells import Arm, Block, ablation_records, arm_of, blocks_of, conditions_of
from .arm_lines import ArmLine, arm_lines, key_below, key_height
from .artifacts import Artifact, Missing, describe
from .estimates import estimate, extra_text, group, run_ids, unique
from .figures import Theme, panel_grid
from .tables import NOTHING, Cell, Column, Row, Table, count_cell, estimate_cell, text_cell, thousands

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SeriesKey = tuple[str, Arm, str, int, str]
"""Benchmark, arm, scale, steps of the training (0 if not recorded), its recipe and matching."""


def difficulty(records: Sequence[Record]) -> Artifact:
    """Score against the difficulty of synthetic pages (``extra["level"]``), one line a mixer."""
    found = [
        r
        for r in _scores(records, "level_score")
        if r.split == "synthetic" and extra_text(r, "level") is not None and r.mixer is not None and r.frames is None
    ]
    series = {key: by_level for key, same in group(found, _series).items() if len(by_level := _levels(same)) > 1}
    rows: dict[str, list[Row]] = {}
    for key in sorted(series):
        for level, same in sorted(series[key].items()):
            benchmark, arm, _, steps, conditions = key
            names = (f"{benchmark} (synthetic)", arm.label, arm.pattern)
            trained = count_cell(steps) if steps else Cell(NOTHING)
            cells = (*map(text_cell, names), count_cell(level), trained, estimate_cell(estimate(same)))
            rows.setdefault(conditions, []).append(_row(cells, same))
    used = [record for by_level in series.values() for same in by_level.values() for record in same]
    columns = (*_names("Benchmark", "Token mixer", "Pattern"), Column("Level"), Column("Steps"), Column("Score", "%"))
    return Artifact(
        name="difficulty",
        label="Difficulty",
        title="Score against the difficulty of the pages, by token mixer",
        caption=_caption(
            "Level 1 is the easiest. Cells scored at two levels or more; drawn: those trained longest.", used
        ),
        tables=tuple(
            Table(", ".join(filter(None, ("Measured", said))), columns, tuple(same))
            for said, same in sorted(rows.items())
        ),
        figure=(lambda theme: _difficulty_figure(series, theme)) if rows else None,
        missing=() if rows else (Missing("Cells scored at several levels", "infinitevl-bench eval DocVQA --level 2"),),
        runs=run_ids(used),
    )


def state_recall(records: Sequence[Record]) -> Artifact:
    """Score against the elements of the state, one point an arm, in blocks of comparable cells."""
    cells = [r for r in ablation_records(records) if r.metric == "score" and r.state_elements is not None]
    blocks = blocks_of(cells)
    tables = {block.title: _state_rows(block) for block in blocks}
    # Comparable in everything but the arm; the block that has most arms says most.
    drawn = max(blocks, key=lambda one: len(one.arms()), default=None)
    used = [record for block in blocks for record in block.records]
    columns = (*_names("Token mixer", "Pattern", "Benchmark"), Column("State", "elements"), Column("Score", "%"))
    return Artifact(
        name="state_recall",
        label="State and recall",
        title="Score against the size of the state",
        caption=_caption("State: what one sequence keeps at any length, without attention's cache, which grows.", used),
        tables=tuple(Table(title, columns, rows) for title, rows in tables.items()),
        figure=None if drawn is None else (lambda theme: _state_figure(drawn.records, theme)),
        missing=()
        if used
        else (Missing("Cells with states of several sizes", "infinitevl-bench ablate --mixer gla --mixer mamba1"),),
        runs=run_ids(used),
    )


def _state_rows(block: Block) -> tuple[Row, ...]:
    rows = []
    for arm, same in sorted(block.arms().items()):
        for benchmark, scores in sorted(group(same, lambda r: r.benchmark or "").items()):
            size = count_cell(max(r.state_elements or 0 for r in scores))
            cells = (*map(text_cell, (arm.label, arm.pattern, benchmark)), size, estimate_cell(estimate(scores)))
            rows.append(_row(cells, scores))
    return tuple(rows)


def _scores(records: Sequence[Record], *metrics: str) -> list[Record]:
    wanted = {"score", *metrics}
    return unique(r for r in records if r.source == "measured" and r.metric in wanted and r.benchmark)


def _series(record: Record) -> SeriesKey:
    return (
        record.benchmark or "",
        arm_of(record),
        record.scale or record.model,
        record.steps or 0,
        conditions_of(record),
    )


def _levels(records: Sequence[Record]) -> dict[int, list[Record]]:
    return group(records, lambda r: int(float(extra_text(r, "level") or 0)))


def _row(cells: tuple[object, ...], same: Sequence[Record]) -> Row:
    facets = (
        ("scale", ", ".join(sorted({record.scale or "" for record in same}))),
        ("split", ", ".join(sorted({record.split or "" for record in same}))),
        ("device", ", ".join(sorted({record.device or "" for record in same}))),
    )
    return Row(cells, "measured", run_ids(same), facets)  # type: ignore[arg-type]


def _names(*titles: str) -> tuple[Column, ...]:
    return tuple(Column(title, numeric=False) for title in titles)


def _caption(words: str, records: Sequence[Record]) -> str:
    return f"{words} Nothing of this is published. {describe(records) or 'Nothing has been measured yet.'}"


def _difficulty_figure(series: dict[SeriesKey, dict[int, list[Record]]], theme: Theme) -> "Figure":
    # Arms may be compared that were trained for as long at one scale, and alike; most of them where they were not.
    alike = Counter((steps, scale, conditions) for _, _, scale, steps, conditions in series)
    trained = max(alike, key=lambda one: (*one[:2], alike[one], one[2]))
    drawn = {key: by_level for key, by_level in series.items() if (key[3], key[2], key[4]) == trained}
    lines = arm_lines((key[1] for key in drawn), theme)
    benchmarks = sorted({key[0] for key in drawn})
    figure, axes = panel_grid(len(benchmarks), 2.3, key_height(len(lines)), sharey=True)
    for panel, benchmark in zip(axes, benchmarks, strict=True):
        for key in sorted(key for key in drawn if key[0] == benchmark):
            _interval_line(panel, drawn[key], lines[key[1]])
        levels = sorted({level for key in drawn if key[0] == benchmark for level in drawn[key]})
        panel.set_xticks(levels)
        panel.set_xlim(levels[0] - 0.3, levels[-1] + 0.3)
        panel.set_ylim(-3, 104)
        panel.set_title(f"{benchmark} (synthetic), %")
        panel.set_xlabel("level of difficulty")
    key_below(figure, lines.values())
    return figure


def _interval_line(axis: "Axes", points: dict[int, list[Record]], line: ArmLine) -> None:
    """Estimates joined in rising order, with their intervals."""
    found = [(x, estimate(same)) for x, same in sorted(points.items())]
    axis.plot(
        [x for x, _ in found], [one.value for _, one in found], line.stroke, color=line.colour, marker=line.marker
    )
    for x, one in found:
        if one.low is not None and one.high is not None:
            axis.vlines(x, one.low, one.high, color=line.colour, linewidth=2, alpha=0.35)


def _state_figure(records: Sequence[Record], theme: Theme) -> "Figure":
    scores = [r for r in records if r.metric == "score" and r.state_elements is not None]
    lines = arm_lines(map(arm_of, scores), theme)
    benchmarks = sorted({r.benchmark or "" for r in scores})
    figure, axes = panel_grid(len(benchmarks), 2.3, key_height(len(lines)), sharey=True)
    sizes = sorted({r.state_elements or 0 for r in scores})
    ticks = sizes[:: max(1, len(sizes) // 2)]
    for panel, benchmark in zip(axes, benchmarks, strict=True):
        of_arm = group((r for r in scores if r.benchmark == benchmark), arm_of)
        for arm, same in sorted(of_arm.items()):
            _interval_line(panel, {max(r.state_elements or 0 for r in same): same}, lines[arm])
        panel.set_xticks(ticks, [thousands(size) for size in ticks])
        panel.set_title(f"{benchmark}, %")
        panel.set_xlabel("elements of the state")
    key_below(figure, lines.values())
    return figure
