"""Tables 1 and 2: nine published models on VLMEvalKit's benchmarks, and whatever was measured, never mixed.

A measured score stands in a published column only if it was taken on that very data set (`DocVQA_VAL` is not
`DocVQA_TEST`), on official data, and in the same unit. Everything else has a block of its own, under columns that say
what it is.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..records import Record
from .ablation_cells import BASELINES
from .artifacts import Artifact, Missing, describe
from .estimates import Estimate, estimate, extra_text, group, run_ids, scale_rank, unique
from .published import average_score, benchmark_columns
from .tables import NOTHING, Cell, Column, Kind, Row, Table, count_cell, estimate_cell, number_cell, text_cell

ModelKey = tuple[str, str, str, str, int, str]
ColumnKey = tuple[str, str, str]
OFFICIAL_TITLE = "Published, and measured on the same official data"
SPLITS_TITLE = "Measured on other official splits and benchmarks"
TABLES = ("table1", "table2")
# The paper's columns whose answers are not public, and the public split of the same benchmark that `eval` scores.
HELD_BACK = {"DocVQA_TEST": "DocVQA_VAL", "MMBench_TEST_EN": "MMBench_DEV_EN"}
STAND_IN_MARK = "†"
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


def evaluation_records(records: Sequence[Record], metrics: Collection[str] = ("score",)) -> list[Record]:
    """Measured scores of evaluated models; the cells of the ablations have tables of their own."""
    return unique(
        r
        for r in records
        if r.source == "measured"
        and r.metric in metrics
        and r.benchmark
        and r.frames is None
        and r.artifact not in ("ablation", "table3", "table4")
    )


def _benchmark_artifact(name: str, title: str, records: Sequence[Record], note: str) -> Artifact:
    columns = benchmark_columns(name)
    families = {family_of(column) for column in columns}
    published = [r for r in records if r.source == "published" and r.artifact == name]
    units = {r.benchmark: r.unit for r in published if r.metric == "score"}
    measured = _under(name, families, evaluation_records(records))
    same = [r for r in measured if r.split == "official" and r.unit == units.get(dataset_of(r))]
    other = [r for r in measured if r.split == "official" and r.unit != units.get(dataset_of(r))]
    synthetic = [r for r in measured if r.split == "synthetic"]
    floors = _under(name, families, evaluation_records(records, BASELINES))
    stand_ins = [r for r in other if dataset_of(r) in HELD_BACK.values()]
    tables = [_official_table(columns, published, same, stand_ins)]
    if other:
        tables.append(_measured_table(SPLITS_TITLE, other, [r for r in floors if r.split == "official"]))
    if synthetic:
        tables.append(_measured_table(SYNTHETIC_TITLE, synthetic, [r for r in floors if r.split == "synthetic"]))
    caption = (
        f"Published: as printed; the average is that of the paper. {note}"
        "Measured: 95 % interval in brackets, over seeds where there are several, else over samples."
    )
    if any(cell.mark for row in tables[0].rows for cell in row.cells):
        held_back = ", ".join(f"{HELD_BACK[name]} in the place of {name}" for name in columns if name in HELD_BACK)
        caption += f" {STAND_IN_MARK} This average takes {held_back}, whose answers are not public."
    absent = [name for name in columns if name not in {dataset_of(record) for record in same}]
    missing = [
        Missing(f"Measured on official data: {name}", f"infinitevl-bench eval {name} --data official --model PATH")
        for name in absent
        if name not in HELD_BACK
    ]
    missing += [
        Missing(
            f"{name}, whose answers are not public ({HELD_BACK[name]} has a block of its own): a file for its server",
            f"infinitevl-bench eval {name} --data official --model PATH",
        )
        for name in absent
        if name in HELD_BACK
    ]
    return Artifact(
        name=name,
        label=title.partition(" · ")[0],
        title=title,
        caption=" ".join(part for part in (caption, describe(measured)) if part),
        tables=tuple(tables),
        missing=tuple(missing),
        runs=run_ids(measured),
    )


def _under(name: str, families: Collection[str], rows: Sequence[Record]) -> list[Record]:
    """The records of a table: of its benchmarks, and of those that no table of the paper prints and that name it."""
    printed = {family_of(column) for table in TABLES for column in benchmark_columns(table)}
    return [
        row
        for row in rows
        if (family := family_of(dataset_of(row))) in families or (row.artifact == name and family not in printed)
    ]


def _official_table(
    columns: Sequence[str], published: Sequence[Record], measured: Sequence[Record], stand_ins: Sequence[Record]
) -> Table:
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
    instead = group(stand_ins, _model_key)
    for key, same in sorted(group(measured, _model_key).items(), key=_order):
        found = {name: estimate(part) for name, part in group(same, dataset_of).items()}
        public = {name: estimate(part) for name, part in group(instead.get(key, []), dataset_of).items()}
        cells = [estimate_cell(found.get(name), 0 if name == "MME" else 1) for name in columns]
        row = (text_cell(_label(key)), *cells, _average_cell(columns, found, public), text_cell("official"))
        rows.append(Row((*row, _samples(found)), "measured", run_ids(same), _facets(key, "official", same)))
    return Table(OFFICIAL_TITLE, headings, tuple(rows))


def _average_cell(columns: Sequence[str], found: Mapping[str, Estimate], public: Mapping[str, Estimate]) -> Cell:
    """The average over all columns; marked where a public split stands for one whose answers are not public."""
    scores = {name: found.get(name) or public.get(HELD_BACK.get(name, "")) for name in columns}
    values = {name: one.value for name, one in scores.items() if one is not None}
    if len(values) < len(columns):
        return Cell(NOTHING)
    average = average_score(values)
    return Cell(f"{average:.1f}", average, mark="" if set(columns) <= set(found) else STAND_IN_MARK)


def _measured_table(title: str, measured: Sequence[Record], baselines: Sequence[Record]) -> Table:
    columns = sorted(group(measured, _column_key))
    headings = (
        Column("Model", numeric=False),
        *(Column(f"{name} ({note})" if note else name, unit) for name, note, unit in columns),
        Column("Data", numeric=False),
        Column("n"),
    )
    floors = group(baselines, _model_key)
    rows = []
    for key, same in sorted(group(measured, _model_key).items(), key=_order):
        rows.append(_measured_row(_label(key), key, same, columns, "measured"))
        for metric, floor in sorted(group(floors.get(key, []), lambda r: r.metric).items()):
            label = f"Baseline of {key[0]}: {BASELINES[metric]}"
            rows.append(_measured_row(label, key, floor, columns, "baseline"))
    return Table(title, headings, tuple(rows))


def _measured_row(label: str, key: ModelKey, same: Sequence[Record], columns: Sequence[ColumnKey], kind: Kind) -> Row:
    found = {column: estimate(part) for column, part in group(same, _column_key).items()}
    split = same[0].split or ""
    cells = [estimate_cell(found.get(column)) for column in columns]
    row = (text_cell(label), *cells, text_cell(split), _samples(found))
    return Row(row, kind, run_ids(same), _facets(key, split, same))


def _column_key(record: Record) -> ColumnKey:
    """Data set, what is to be said about it, and unit: pages of different difficulty are different data."""
    level = extra_text(record, "level")
    words = ("synthetic", f"level {level}" if level else "") if record.split == "synthetic" else ()
    return dataset_of(record), ", ".join(word for word in words if word), record.unit


def _model_key(record: Record) -> ModelKey:
    weights = "random weights" if extra_text(record, "weights") == "random" else ""
    return record.model, record.mixer or "", record.pattern or "", record.scale or "", record.steps or 0, weights


def _order(item: tuple[ModelKey, list[Record]]) -> tuple[object, ...]:
    key = item[0]
    return -scale_rank(key[3]), key


def _label(key: ModelKey) -> str:
    model, mixer, pattern, scale, steps, weights = key
    notes = (mixer, pattern, scale if scale != model else "", f"{steps:,} steps" if steps else "", weights)
    told = ", ".join(note for note in notes if note)
    return f"{model} ({told})" if told else model


def _samples(found: Mapping[Any, Estimate]) -> Cell:
    counts = sorted({one.samples for one in found.values() if one.samples is not None})
    if not counts:
        return Cell(NOTHING)
    return count_cell(counts[0]) if len(counts) == 1 else Cell(f"{counts[0]:,}–{counts[-1]:,}", counts[0])


def _facets(key: ModelKey, split: str, rows: Sequence[Record]) -> tuple[tuple[str, str], ...]:
    devices = sorted({record.device for record in rows if record.device})
    return ("scale", key[3]), ("split", split), ("device", ", ".join(devices))
