"""Figures 1 and 4: speed, memory and throughput, published beside measured.

The published baseline ran eagerly and the hybrid from a captured graph. Ours carries its protocol in every record
(``extra["protocol"]``: ``as-published`` or ``matched``), and rows of different protocols or devices never merge.
"""

from collections.abc import Iterable, Sequence

from ..records import Record
from .artifacts import Artifact, Missing, describe
from .estimates import estimate, extra_text, group, run_ids, unique
from .published import BAR_METRICS, BAR_UNITS, HYBRID, TRANSFORMER
from .tables import NOTHING, Cell, Column, Row, Table, estimate_cell, text_cell, thousands

BAR_TITLES = {metric: title for title, metric in BAR_METRICS.items()}
CAVEAT = (
    "Published: one RTX 4090, the hybrid replayed from a CUDA graph, the Transformer eager. "
    "Times on different devices do not compare; ratios within one run do."
)
SeriesKey = tuple[str, str, str, str, str]
ESTIMATE, OUT_OF_MEMORY = "estimate", "out_of_memory"
COMMANDS = {
    "training_tokens_per_day": "infinitevl-bench profile training",
    "streaming_fps": "infinitevl-bench profile stream",
    "cache_elements": "infinitevl-bench profile memory",
    "latency_ms": "infinitevl-bench profile decode",
}
"""What measures each metric."""


def series_key(record: Record) -> SeriesKey:
    """What one line or one row of an efficiency figure holds: source, model, conditions, device, scale."""
    return record.source, _arm(record), conditions(record), record.device or "", record.scale or ""


def conditions(record: Record) -> str:
    """Under what a number was measured: the protocol, and what is not as usual: a batch, a type, an estimate."""
    batch, dtype = record.extra.get("batch"), record.extra.get("dtype")
    usual = "float32" if record.device == "cpu" else "bfloat16"
    notes = (
        extra_text(record, "protocol") or "",
        f"batch {batch}" if batch not in (None, 1) else "",
        str(dtype) if dtype not in (None, usual) else "",
        ESTIMATE if is_estimate(record) else "",
    )
    return ", ".join(note for note in notes if note)


def joined(records: Sequence[Record]) -> list[Record]:
    """Records with one measurement once: a captured hybrid stands under both protocols, and is one line."""

    def measurement(record: Record) -> tuple[object, ...]:
        place = (record.artifact, record.metric, record.context, record.frames)
        return record.run_id, record.model, record.pattern, *place, record.value

    together = group(records, lambda r: measurement(r) if r.run_id is not None else (id(r),))
    found = []
    for same in together.values():
        protocols = sorted({extra_text(record, "protocol") or "" for record in same}, reverse=True)
        notes = {"protocol": " and ".join(protocols)} if len(protocols) > 1 else {}
        found.append(same[0].model_copy(update={"extra": same[0].extra | notes}))
    return found


def is_full_size(record: Record) -> bool:
    """Whether a number may stand on one axis with the published ones: of a model of that size, on an accelerator."""
    return record.source == "published" or (
        canonical_model(record.model) in (HYBRID, TRANSFORMER) and record.device != "cpu"
    )


def in_order(series: Iterable[SeriesKey]) -> list[SeriesKey]:
    """Series as tables and figures show them: the published ones first."""
    return sorted(series, key=lambda key: (key[0] != "published", key))


def is_estimate(record: Record) -> bool:
    """Whether a number was counted, not measured: what memory does not hold."""
    return record.extra.get("status") == ESTIMATE


def is_point(record: Record) -> bool:
    """Whether a record is a value to draw: one that ran out of memory has none."""
    return record.extra.get("status") != OUT_OF_MEMORY


def is_plain(record: Record) -> bool:
    """Whether a record may decide a claim: measured, one sequence, in the usual type."""
    protocol = extra_text(record, "protocol") or ""
    return conditions(record) == protocol


def is_published_architecture(record: Record) -> bool:
    """Whether a record is of the published hybrid or Transformer, not of another mixer or pattern in its size."""
    name = canonical_model(record.model)
    usual = {HYBRID: ("gated_deltanet", "SLLL"), TRANSFORMER: (None, "F")}.get(name)
    if usual is None:
        return False
    mixer, pattern = usual
    # The Transformer's records may name whatever mixer its configuration holds: it has no layer of it.
    return record.pattern in (None, pattern) and (name == TRANSFORMER or record.mixer in (None, mixer))


def _arm(record: Record) -> str:
    """The model; with mixer and pattern where they are not the published ones."""
    if record.source == "published" or is_published_architecture(record):
        return record.model
    return " ".join(part for part in (record.model, record.mixer, record.pattern) if part)


def series_label(key: SeriesKey) -> str:
    """The name of a line."""
    source, model, protocol, device, scale = key
    notes = [part for part in (protocol, device, scale if scale and scale != model.lower() else "", source) if part]
    return f"{model} ({', '.join(notes)})"


def overview(records: Sequence[Record]) -> Artifact:
    """Figure 1: efficiency bars, and speed against performance."""
    from .efficiency_figures import overview_figure

    published = [r for r in records if r.artifact == "fig1" and r.source == "published"]
    measured = joined(
        unique(r for r in records if r.source == "measured" and r.metric in BAR_UNITS and _headline(r) and is_point(r))
    )
    bars = [r for r in published if r.metric in BAR_UNITS]
    scatter = [r for r in published if r.metric.startswith("scatter_")]
    absent = [metric for metric in BAR_UNITS if metric not in {record.metric for record in measured}]
    return Artifact(
        name="fig1",
        label="Efficiency",
        title="Figure 1 · Efficiency, and speed against performance",
        caption=(
            f"{CAVEAT} The unit of the published throughput is not printed on its bar; its caption says per GPU-day. "
            "The scatter's scores are the figure's own and differ from the means of tables 1 and 2. "
            "Measured bars: training at 8,192 tokens, streaming after 800 frames, latency at 65,536 tokens. "
            "Dashed and hollow: published. Solid: measured. " + describe(measured)
        ).strip(),
        tables=(_bar_table([*bars, *measured]), _scatter_table(scatter)),
        figure=lambda theme: overview_figure(bars, measured, scatter, theme),
        missing=tuple(Missing(f"Measured {BAR_TITLES[metric]}", COMMANDS.get(metric)) for metric in absent),
        runs=run_ids(measured),
    )


def latency(records: Sequence[Record]) -> Artifact:
    """Figure 4, left: milliseconds per token against context."""
    return _curve_artifact(
        records,
        "fig4_latency",
        "latency_ms",
        "context",
        "Latency",
        "Figure 4 · Latency per token against context",
        "Context (tokens)",
        "ms per token",
    )


def streaming(records: Sequence[Record]) -> Artifact:
    """Figure 4, right: frames per second against frames already processed."""
    return _curve_artifact(
        records,
        "fig4_streaming",
        "streaming_fps",
        "frames",
        "Streaming",
        "Figure 4 · Streaming speed against processed frames",
        "Processed frames",
        "frames/s",
    )


def _curve_artifact(
    records: Sequence[Record],
    name: str,
    metric: str,
    axis: str,
    label: str,
    title: str,
    axis_title: str,
    unit: str,
) -> Artifact:
    from .efficiency_figures import curve_figure
    from .efficiency_ratios import ratio_tables

    # Bars of figure 1 repeat points of the curves.
    found = unique(
        r
        for r in records
        if r.metric == metric
        and getattr(r, axis) is not None
        and (r.artifact == name or (r.source == "measured" and r.artifact != "fig1"))
    )
    points = [record for record in found if is_point(record)]
    measured = [record for record in points if record.source == "measured"]
    lines = joined(points)
    wanted = [
        Missing(f"Measured {unit} of {model}", COMMANDS[metric])
        for model in (HYBRID, TRANSFORMER)
        if not any(is_published_architecture(record) and canonical_model(record.model) == model for record in measured)
    ]
    return Artifact(
        name=name,
        label=label,
        title=title,
        caption=f"{CAVEAT} Published points were digitised from the plot, about ±1 %. Dashed and hollow: published. "
        f"Solid: measured; dotted: estimated from bytes and operations. {_exhausted(found, axis)}"
        f"{describe(measured)}".strip(),
        tables=(_curve_table(lines, axis, axis_title, unit), *ratio_tables(points, axis, metric)),
        figure=lambda theme: curve_figure(lines, axis, axis_title, unit, theme),
        missing=tuple(wanted),
        runs=run_ids(measured),
    )


def _exhausted(records: Sequence[Record], axis: str) -> str:
    """Where a series ended for lack of memory, as a sentence."""
    ends = sorted(
        f"{series_label(series_key(record))} at {getattr(record, axis):,}" for record in records if not is_point(record)
    )
    return f"Out of memory: {'; '.join(ends)}. " if ends else ""


_CANONICAL = {
    "infinitevl-4b": HYBRID, "infinitevl": HYBRID,
    "qwen2.5-vl-3b": TRANSFORMER, "qwen2.5vl-3b": TRANSFORMER, "qwen2.5-vl-3b-instruct": TRANSFORMER,
}  # fmt: skip


def canonical_model(model: str) -> str:
    """The paper's name of a model that our presets, or a hub, name in their own way."""
    return _CANONICAL.get(model.rpartition("/")[2].lower(), model)


def _headline(record: Record) -> bool:
    """Whether a measured record is one of figure 1's bars rather than a point of a curve."""
    return record.artifact == "fig1"


def _bar_table(rows: Sequence[Record]) -> Table:
    keys = sorted(group(rows, series_key), key=lambda key: (key[0] != "published", key[1] == HYBRID, key))
    columns = (
        Column("Metric", numeric=False),
        Column("Model", numeric=False),
        Column("Value"),
        Column("Unit", numeric=False),
    )
    body = []
    for metric in BAR_UNITS:
        for key in keys:
            same = [record for record in rows if record.metric == metric and series_key(record) == key]
            if same:
                found = estimate(same)
                value = Cell(_short(found.value), found.value, found.low, found.high)
                cells = (text_cell(BAR_TITLES[metric]), text_cell(series_label(key)), value, text_cell(found.unit))
                body.append(Row(cells, same[0].source, found.runs, _facets(key)))
    return Table("Efficiency", columns, tuple(body))


def _scatter_table(rows: Sequence[Record]) -> Table:
    columns = (Column("Model", numeric=False), Column("Speed", "frames/s"), Column("Average score", "points"))
    body = []
    for model, same in group(rows, lambda r: r.model).items():
        values = {record.metric: record for record in same}
        cells = [_plain(values.get(metric)) for metric in ("scatter_fps", "scatter_score")]
        body.append(Row((text_cell(model), *cells), "published"))
    return Table("Speed and performance", columns, tuple(body))


def _curve_table(points: Sequence[Record], axis: str, axis_title: str, unit: str) -> Table:
    series = in_order(group(points, series_key))
    columns = (Column(axis_title), *(Column(series_label(key), unit) for key in series))
    cells = group(points, lambda r: (getattr(r, axis), series_key(r)))
    rows = []
    for position in sorted({getattr(record, axis) for record in points}):
        here = {key: cells.get((position, key)) for key in series}
        values = [estimate_cell(estimate(same), 2) if same else Cell(NOTHING) for same in here.values()]
        runs = run_ids(record for same in here.values() if same for record in same)
        row = (Cell(f"{position:,}", position), *values)
        rows.append(
            Row(
                row,
                "measured" if any(same and key[0] == "measured" for key, same in here.items()) else "published",
                runs,
            )
        )
    return Table("Points", columns, tuple(rows))


def _plain(record: Record | None) -> Cell:
    return Cell(NOTHING) if record is None else Cell(f"{record.value:.1f}", record.value)


def _short(value: float) -> str:
    return thousands(value) if abs(value) >= 1e4 else f"{value:.1f}"


def _facets(key: SeriesKey) -> tuple[tuple[str, str], ...]:
    return ("scale", key[4]), ("split", ""), ("device", key[3])
