"""Multi-query recall: accuracy against the width of the model, by token mixer, and what each keeps between tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..records import Record
from .ablation_cells import Arm, arm_of
from .arm_lines import arm_lines, key_below, key_height
from .artifacts import Artifact, Missing, describe
from .estimates import estimate, extra_text, group, run_ids, scale_rank, unique
from .figures import Theme, panel_grid
from .tables import Cell, Column, Row, Table, count_cell, estimate_cell, number_cell, text_cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDIES = {"MQAR": "mqar", "MQAR-vision": "mqar_vision"}
"""What records call the task, and the study that asks it."""

CAPTION = (
    "Share of queries answered with the value of their key; in MQAR-vision keys and values stand on a page, and "
    "queries are text. Kept: elements that one sequence leaves between tokens, recurrent states and what attention "
    "keeps of keys and values. Seeds that learnt: those more than half way from naming any value of the sequence to "
    "always right. MQAR is zoology's task (Arora et al., arXiv 2312.04927), whose authors sum its curves up so: with "
    "longer sequences gated convolutions need ever wider models, and attention does not "
    "(hazyresearch.stanford.edu/blog/2023-12-11-zoology1-analysis). How these cells differ from theirs, "
    "ablations/mqar.py and models/recall.py say. None of the paper's claims rests on it."
)


@dataclass(frozen=True, order=True)
class _Block:
    """What cells must have in common to be compared."""

    benchmark: str
    scale: str
    steps: int
    vocabulary: str

    @property
    def title(self) -> str:
        return f"{self.benchmark} (synthetic), scale {self.scale}, {self.steps:,} steps, vocabulary {self.vocabulary}"


def multi_query_recall(records: Sequence[Record]) -> Artifact:
    """Accuracy by arm, width and task, in blocks of comparable cells; the figure is of the largest scale."""
    found = unique(
        r
        for r in records
        if r.source == "measured" and r.artifact == "mqar" and r.metric == "score" and r.extra.get("role") == "test"
    )
    blocks = sorted(group(found, _block_of).items(), key=lambda item: (-scale_rank(item[0].scale), item[0]))
    columns = (
        Column("Token mixer", numeric=False),
        Column("Pattern", numeric=False),
        Column("Pairs in tokens", numeric=False),
        Column("Batch", "sequences"),
        Column("Width"),
        Column("Parameters"),
        Column("Kept", "elements"),
        Column("Any value", "%"),
        Column("Accuracy", "%"),
        Column("Seeds that learnt"),
    )
    there = {block.benchmark for block, _ in blocks if block.scale == "small"}
    return Artifact(
        name="mqar",
        label="Multi-query recall",
        title="Multi-query recall by token mixer and width of the model",
        caption=f"{CAPTION} {describe(found)}" if found else "The study of multi-query recall has not been run yet.",
        tables=tuple(Table(block.title, columns, _rows(same)) for block, same in blocks),
        figure=(lambda theme: _figure(*blocks[0], theme)) if blocks else None,
        missing=tuple(
            Missing(f"{name} at the published lengths", f"infinitevl-bench ablate --study {study} --scale small")
            for name, study in STUDIES.items()
            if name not in there
        ),
        runs=run_ids(found),
    )


def _block_of(record: Record) -> _Block:
    vocabulary = extra_text(record, "vocabulary") or ""
    return _Block(record.benchmark or "", record.scale or "", record.steps or 0, vocabulary)


def _arm(record: Record) -> Arm:
    """The arm, whose learning rate is another at every point."""
    return replace(arm_of(record), learning_rate="")


def _number(record: Record, key: str) -> int:
    return int(float(extra_text(record, key) or 0))


def _task(record: Record) -> tuple[int, int]:
    """Tokens of a sequence, and pairs in it."""
    return record.context or 0, _number(record, "pairs")


def _rows(records: Sequence[Record]) -> tuple[Row, ...]:
    rows = []
    points = group(records, lambda r: (_task(r), _number(r, "batch_size"), _arm(r), _number(r, "width")))
    for ((length, pairs), batch_size, arm, width), same in sorted(points.items()):
        threshold = (100 + 100 / pairs) / 2
        learnt = [record.value > threshold for record in same]
        cells = (
            text_cell(arm.label),
            text_cell(arm.pattern),
            text_cell(f"{pairs} in {length}"),
            count_cell(batch_size),
            count_cell(width),
            count_cell(max(record.parameters or 0 for record in same)),
            count_cell(max(_number(record, "kept_elements") for record in same)),
            number_cell(100 / pairs, 1),
            estimate_cell(estimate(same)),
            Cell(f"{sum(learnt)}/{len(learnt)}", sum(learnt) / len(learnt)),
        )
        facets = (
            ("scale", same[0].scale or ""),
            ("split", same[0].split or ""),
            ("device", ", ".join(sorted({record.device or "" for record in same}))),
        )
        rows.append(Row(cells, "measured", run_ids(same), facets))
    return tuple(rows)


def _figure(block: _Block, records: Sequence[Record], theme: Theme) -> "Figure":
    """A panel a task, a line an arm, and dotted what naming any value of the sequence gives."""
    tasks = sorted({_task(record) for record in records})
    widths = sorted({_number(record, "width") for record in records})
    lines = arm_lines(map(_arm, records), theme)
    figure, axes = panel_grid(len(tasks), 2.5, key_height(len(lines)) + 0.2, sharey=True)
    for axis, task in zip(axes, tasks, strict=True):
        axis.axhline(100 / task[1], color=theme.muted, linewidth=1.1, linestyle=(0, (1, 1.5)))
        for arm, line in lines.items():
            own = [record for record in records if _task(record) == task and _arm(record) == arm]
            points = sorted((width, estimate(same)) for width, same in group(own, _width).items())
            xs, ys = [x for x, _ in points], [one.value for _, one in points]
            axis.plot(xs, ys, line.stroke, marker=line.marker, color=line.colour)
            for x, one in points:
                if one.low is not None and one.high is not None:
                    axis.vlines(x, one.low, one.high, color=line.colour, linewidth=1.6, alpha=0.35)
        axis.set_xscale("log", base=2)
        axis.set_xticks(widths, [str(width) for width in widths])
        axis.minorticks_off()
        axis.set_xlim(widths[0] / 1.15, widths[-1] * 1.15)
        axis.set_ylim(-3, 104)
        axis.set_title(f"{task[1]} pairs in {task[0]} tokens, %")
        axis.set_xlabel("width of the model")
    key_below(figure, lines.values())
    figure.suptitle(f"{block.title}; grey dots: naming any value of the sequence", fontsize=8, x=0.01, ha="left")
    return figure


def _width(record: Record) -> int:
    return _number(record, "width")
