"""Tables 1 and 2: nine published models on VLMEvalKit's benchmarks, and whatever was measured, never mixed.

A measured score stands in a published column only if it was taken on that very data set (`DocVQA_VAL` is not
`DocVQA_TEST`), on official data, and in the same unit. Everything else has a block of its own, under columns that say
what it is.
"""

from collections.abc import Sequence

from ..records import Record
from .artifacts import Artifact, Missing, describe
from .estimates import Estimate, estimate, extra_text, group, run_ids, scale_rank, unique
from .published import average_score, benchmark_columns
from .tables import NOTHING, Cell, Column, Row, Table, count_cell, estimate_cell, number_cell, text_cell

ModelKey = tuple[str, str, str, str, int]
OFFICIAL_TITLE = "Published, and measured on the same official data"
SPLITS_TITLE = "Measured on other official splits"
SYNTHETIC_TITLE = "Measured on synthetic data: not comparable with the official benchmarks"


def general_table(records: Sequence[Record]) -> Artifact:
    """Table 1: general benchmarks."""
    return _benchmark_artifact(
        "table1", "Table 1 · General benchmarks", records, "MME counts as its points over 25 in the average. "
    )


def text_rich_table(records: Sequence[Record]) -> Artifact:
    """Table 2: text-rich and reasoning benchmarks."""
    return _benchmark_artifact(
        "table2", "Table 2 · Text-rich and reasoning benchmarks", records, "OCRBench is out of 100. "
    )


def dataset_of(record: Record) -> str:
    """The data set that a score was taken on: VLMEvalKit's name where it was recorded, else the benchmark's."""
    return extra_text(record, "dataset") or record.benchmark or ""


def family_of(dataset: str) -> str:
    """The benchmark behind a data set's name: ``docvqa`` for ``DocVQA_VAL``."""
    return dataset.partition("_")[0].lower()


def evaluation_records(records: Sequence[Record]) -> list[Record]:
    """Measured scores of evaluated models; the cells of the ablations have tables of their own."""
    return unique(
        r
        for r in records
        if r.source == "measured"
        and r.metric == "score"
        and r.benchmark
        and r.frames is None
        and r.artifact not in ("ablation", "table3", "table4")
    )


def _benchmark_artifact(name: str, title: str, records: Sequence[Record], note: str) -> Artifact:
    columns = benchmark_columns(name)
    families = {family_of(column) for column in columns}
    published = [r for r in records if r.source == "published" and r.artifact == name]
    units = {r.benchmark: r.unit for r in published if r.metric == "score"}
    measured = [r for r in evaluation_records(records) if family_of(dataset_of(r)) in families]
    same = [r for r in measured if r.split == "official" and r.unit == units.get(dataset_of(r))]
    other = [r for r in measured if r.split == "official" and r.unit != units.get(dataset_of(r))]
    synthetic = [r for r in measured if r.split == "synthetic"]
    tables = [_official_table(columns, published, same)]
    if other:
        tables.append(_measured_table(SPLITS_TITLE, other, ""))
    if synthetic:
        tables.append(_measured_table(SYNTHETIC_TITLE, synthetic, " (synthetic)"))
    caption = (
        f"Published: as printed; the average is that of the paper. {note}"
        "Measured: 95 % interval in brackets, over seeds where there are several, else over samples."
    )
    absent = sorted(set(columns) - {dataset_of(record) for record in same})
    missing = []
    if absent:
        missing.append(
            Missing(
                f"Measured on official data: {', '.join(absent)}",
                f"infinitevl-bench eval {absent[0].partition('_')[0]} --data official --model PATH",
            )
        )
    return Artifact(
        name=name,
        title=title,
        caption=" ".join(part for part in (caption, describe(measured)) if part),
        tables=tuple(tables),
        missing=tuple(missing),
        runs=run_ids(measured),
    )


def _official_table(columns: Sequence[str], published: Sequence[Record], measured: Sequence[Record]) -> Table:
    units = {r.benchmark: r.unit for r in published if r.metric == "score"}
    headings = (
        Column("Model", numeric=False),
        *(Column(name, "points" if units.get(name) == "points" else "") for name in columns),
        Column("Average"),
        Column("Data", numeric=False),
        Column("n"),
    )
    rows = []
    for model, same in group(published, lambda r: r.model).items():
        scores = {r.benchmark: r.value for r in same if r.metric == "score"}
        average = next((r.value for r in same if r.metric == "average"), None)
        cells = [number_cell(scores.get(name), 0 if name == "MME" else 1) for name in columns]
        rows.append(
            Row((text_cell(model), *cells, number_cell(average), text_cell("official"), Cell(NOTHING)), "published")
        )
    for key, same in sorted(group(measured, _model_key).items(), key=_order):
        found = {name: estimate(part) for name, part in group(same, dataset_of).items()}
        whole = set(found) == set(columns)
        average = average_score({name: one.value for name, one in found.items()}) if whole else None
        cells = [estimate_cell(found.get(name), 0 if name == "MME" else 1) for name in columns]
        row = (text_cell(_label(key)), *cells, number_cell(average), text_cell("official"), _samples(found))
        rows.append(Row(row, "measured", run_ids(same), _facets(key, "official", same)))
    return Table(OFFICIAL_TITLE, headings, tuple(rows))


def _measured_table(title: str, measured: Sequence[Record], suffix: str) -> Table:
    units = group(measured, lambda r: (dataset_of(r), r.unit))
    columns = sorted(units)
    headings = (
        Column("Model", numeric=False),
        *(Column(name + suffix, unit) for name, unit in columns),
        Column("Data", numeric=False),
        Column("n"),
    )
    rows = []
    for key, same in sorted(group(measured, _model_key).items(), key=_order):
        found = {column: estimate(part) for column, part in group(same, lambda r: (dataset_of(r), r.unit)).items()}
        split = same[0].split or ""
        cells = [estimate_cell(found.get(column)) for column in columns]
        row = (text_cell(_label(key)), *cells, text_cell(split), _samples(found))
        rows.append(Row(row, "measured", run_ids(same), _facets(key, split, same)))
    return Table(title, headings, tuple(rows))


def _model_key(record: Record) -> ModelKey:
    return record.model, record.mixer or "", record.pattern or "", record.scale or "", record.steps or 0


def _order(item: tuple[ModelKey, list[Record]]) -> tuple[object, ...]:
    key = item[0]
    return -scale_rank(key[3]), key


def _label(key: ModelKey) -> str:
    model, mixer, pattern, scale, steps = key
    notes = [
        part for part in (mixer, pattern, scale if scale != model else "", f"{steps:,} steps" if steps else "") if part
    ]
    return f"{model} ({', '.join(notes)})" if notes else model


def _samples(found: dict[str, Estimate] | dict[tuple[str, str], Estimate]) -> Cell:
    counts = sorted({one.samples for one in found.values() if one.samples is not None})
    if not counts:
        return Cell(NOTHING)
    return count_cell(counts[0]) if len(counts) == 1 else Cell(f"{counts[0]:,}–{counts[-1]:,}", counts[0])


def _facets(key: ModelKey, split: str, rows: Sequence[Record]) -> tuple[tuple[str, str], ...]:
    devices = sorted({record.device for record in rows if record.device})
    return ("scale", key[3]), ("split", split), ("device", ", ".join(devices))
