"""How far every measured speed is from its floor: what its bytes and operations would take on the same device.

The floor is the larger of bytes over the copy bandwidth and operations over the matrix rate, both measured in the same
run; 1 is as fast as physics allows, whatever the device, so that this one chart compares what times do not.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..records import Record
from .artifacts import Artifact, Missing, describe
from .efficiency import COMMANDS, SeriesKey, canonical_model, is_full_size, series_key, series_label
from .estimates import extra_text, group, run_ids, scale_rank, unique
from .figures import Theme, colour_of, logarithmic_ticks, panel_grid, wide
from .tables import Cell, Column, Row, Table, number_cell, text_cell, thousands

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASKS = {
    "latency_ms": ("Decode", "context"),
    "prefill_tokens_per_second": ("Prefill", "context"),
    "streaming_fps": ("Stream", "frames"),
    "training_tokens_per_day": ("Training", "context"),
}
"""Metric → what it is of, and what it is measured against."""


def floors(records: Sequence[Record]) -> Artifact:
    """The ratio of measured time to its floor, for every speed that carries one."""
    measured = _once(
        unique(
            r
            for r in records
            if r.source == "measured" and r.metric in TASKS and "ratio_to_floor" in r.extra
            # Bars of figure 1 repeat points of curves; training has no curve of its own.
            and (r.artifact != "fig1" or r.metric == "training_tokens_per_day")
        )
    )  # fmt: skip
    absent = [metric for metric in ("latency_ms", "streaming_fps", "training_tokens_per_day")
              if metric not in {record.metric for record in measured}]  # fmt: skip
    return Artifact(
        name="floors",
        label="Floors",
        title="Distance from the floor",
        caption=(
            "Measured time over the time that its bytes at copy bandwidth or its operations at the matrix rate would "
            "take, both measured in the same run. 1 is the floor. Nothing of this is published. " + describe(measured)
        ).strip(),
        tables=(_table(measured),) if measured else (),
        figure=(lambda theme: _figure(measured, theme)) if measured else None,
        missing=tuple(Missing(f"{TASKS[metric][0]} over its floor", COMMANDS[metric]) for metric in absent),
        runs=run_ids(measured),
    )


def _once(records: Sequence[Record]) -> list[Record]:
    """One record a measurement: a captured hybrid stands under both protocols, and is shown under the matched one."""
    ordered = sorted(records, key=lambda r: (extra_text(r, "protocol") != "matched", extra_text(r, "protocol") or ""))
    return list(
        {
            (r.run_id, r.metric, r.model, r.pattern, _position(r), r.extra.get("path")): r for r in reversed(ordered)
        }.values()
    )


def _ratio(record: Record) -> float:
    return float(str(record.extra["ratio_to_floor"]))


def _position(record: Record) -> int:
    return int(getattr(record, TASKS[record.metric][1]) or 0)


def _sorted(records: Sequence[Record]) -> list[Record]:
    order = list(TASKS)
    return sorted(records, key=lambda r: (order.index(r.metric), series_key(r), _position(r), r.run_id or ""))


def _table(records: Sequence[Record]) -> Table:
    columns = (
        Column("Task", numeric=False), Column("Model", numeric=False), Column("Tokens or frames"),
        Column("Time", "ms"), Column("Floor", "ms"), Column("Over floor", "times"),
        Column("Bandwidth used", "share"), Column("Matrix rate used", "share"),
    )  # fmt: skip
    rows = []
    for record in _sorted(records):
        extra = record.extra
        values = [extra.get(name) for name in ("median_ms", "floor_ms", "ratio_to_floor", "mbu", "mfu")]
        cells = (
            text_cell(TASKS[record.metric][0]), text_cell(series_label(series_key(record))),
            Cell(f"{_position(record):,}", _position(record)),
            *(number_cell(None if value is None else float(str(value)), 2) for value in values),
        )  # fmt: skip
        rows.append(
            Row(cells, "measured", run_ids([record]), (("scale", record.scale or ""), ("device", record.device or "")))
        )
    return Table("Time over floor", columns, tuple(rows))


def _short_label(key: SeriesKey) -> str:
    from .efficiency_figures import short_device

    return ", ".join(part for part in (key[1], key[2], short_device(key[3])) if part)


def _figure(records: Sequence[Record], theme: Theme) -> "Figure":
    """A panel a task, of the largest models that were measured; the table holds the others as well."""
    largest = max(scale_rank(record.scale) for record in records)
    # The two published models are presets of one size each.
    records = [record for record in records if is_full_size(record) or scale_rank(record.scale) == largest]
    if any(is_full_size(record) for record in records):
        records = [record for record in records if is_full_size(record)]
    tasks = [metric for metric in TASKS if any(record.metric == metric for record in records)]
    figure, axes = panel_grid(len(tasks), 2.7, columns=2)
    for panel, metric in zip(axes, tasks, strict=True):
        here = [record for record in records if record.metric == metric]
        series: dict[SeriesKey, list[Record]] = group(_sorted(here), series_key)
        top = max(_ratio(record) for record in here)
        for key, same in series.items():
            colour = colour_of(canonical_model(key[1]), theme, [k[1] for k in series])
            eager = same[0].extra.get("path") == "eager" and metric != "training_tokens_per_day"
            panel.plot(
                [_position(r) for r in same], [_ratio(r) for r in same], "o--" if eager else "o-", color=colour,
                markersize=3.6, label=_short_label(key),
            )  # fmt: skip
        panel.axhline(1.0, color=theme.ink, linewidth=1)
        panel.set_xscale("log", base=2)
        panel.minorticks_off()
        positions = sorted({_position(record) for record in here})
        shown = [positions[0], positions[-1]] if len(positions) > 1 else positions
        shown += [p for p in positions if 4 * shown[0] < p < shown[-1] / 4][::3]
        panel.set_xticks(shown, [thousands(position) for position in shown])
        # Room above the lines for the legend.
        if wide([1.0, top]):
            panel.set_yscale("log")
            panel.set_ylim(0.8, top ** (1.2 + 0.14 * len(series)))
            ticks = logarithmic_ticks(1.0, 2 * top)
            panel.set_yticks(ticks, [thousands(tick) for tick in ticks])
            panel.minorticks_off()
        else:
            panel.set_ylim(0, top * 1.15 + 0.2 * top * len(series))
        panel.set_title(f"{TASKS[metric][0]}: time over floor")
        panel.set_xlabel("tokens" if TASKS[metric][1] == "context" else "frames")
        panel.legend(fontsize=6.5, loc="upper left")
    return figure
