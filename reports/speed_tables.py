"""Speeds that the paper does not show: mixers and attention alone, and training, loading and answering at full size."""

from collections.abc import Sequence

from ..records import Record
from .artifacts import Artifact, Missing, describe
from .estimates import extra_text, run_ids, unique
from .tables import NOTHING, Cell, Column, Row, Table, count_cell, number_cell, text_cell

OPS_COMMAND = "infinitevl-bench bench ops --geometry infinitevl-4b --out reports/measured/bench_ops.jsonl"
FULL_SIZE_COMMANDS = {
    "Training at full size": "python -m infinitevl_bench.training.full_size --out reports/measured/full_size.jsonl",
    "Loading and answering at full size": (
        "python -m infinitevl_bench.profiling.loading --out reports/measured/loading.jsonl"
    ),
}
NAMES = {
    "tokens_per_second": "tokens/s", "mfu": "share of the nominal rate (MFU)", "training_peak_gb": "peak memory",
    "load_s": "load time", "load_peak_over_weights": "peak memory of loading over the weights",
    "samples_per_s": "answers", "eval_peak_bytes": "peak memory of answering",
}  # fmt: skip


def ops(records: Sequence[Record]) -> Artifact:
    """``bench ops``: every form of every recurrence, each layer, and attention, beside the machine's floor."""
    found = _of(records, "bench_ops")
    timed = [record for record in found if record.extra.get("median_ms") is not None]
    by_fla = {
        _place(record): record.value
        for record in found
        if record.metric == "speed_ratio" and str(record.extra.get("over", "")).startswith("fla")
    }
    rows = []
    for record in sorted(timed, key=_place):
        ratio = by_fla.get(_place(record))
        cells = (
            text_cell(record.mixer or record.model),
            *(text_cell(extra_text(record, name) or "") for name in ("scope", "pass", "backend")),
            count_cell(record.context) if record.context is not None else Cell(NOTHING),
            *(number_cell(float(record.extra[name] or 0), 3) for name in ("median_ms", "ratio_to_floor")),
            number_cell(ratio, 2) if ratio is not None else Cell(NOTHING),
        )
        rows.append(Row(cells, "measured", run_ids([record]), (("device", record.device or ""),)))
    names = ("Mixer or attention", "What", "Pass", "Form")
    columns = (
        *(Column(name, numeric=False) for name in names), Column("Tokens"), Column("Median", "ms"),
        Column("Over floor", "×"), Column("Speed over fla's", "×"),
    )  # fmt: skip
    return _artifact(
        "ops", "Mixers alone", "Speed of mixers and attention alone",
        "Floor: what the bytes and operations take at this machine's measured copy and matrix rates. Only forms that "
        "agreed with their definition in the same run are there.",
        (Table("Measured", columns, tuple(rows)),) if rows else (), timed,
        () if rows else (Missing("Speeds of mixers at the published geometry", OPS_COMMAND),),
    )  # fmt: skip


def full_size(records: Sequence[Record]) -> Artifact:
    """Stages of training, loading and answering of models of full size with random weights."""
    found = dict(zip(FULL_SIZE_COMMANDS, (_of(records, "full_size"), _of(records, "loading")), strict=True))
    rows = []
    for record in (record for some in found.values() for record in some):
        said = (extra_text(record, name) for name in ("stage", "precision"))
        notes = [note for note in said if note]
        if "batch_size" in record.extra:
            notes.append(f"batch {record.extra['batch_size']}")
            notes.append("captured steps" if record.extra.get("graph") else "eager")
        if record.context is not None:
            notes.append(f"{record.context:,} tokens")
        cells = (
            text_cell(record.model),
            text_cell(NAMES.get(record.metric, record.metric)),
            text_cell(", ".join(notes)),
            number_cell(record.value / (1e9 if record.unit == "B" else 1), 3),
            text_cell("GB" if record.unit == "B" else record.unit),
        )
        rows.append(Row(cells, "measured", run_ids([record]), (("device", record.device or ""),)))
    columns = (
        *(Column(name, numeric=False) for name in ("Model", "What", "Conditions")), Column("Value"),
        Column("Unit", numeric=False),
    )  # fmt: skip
    return _artifact(
        "full_size", "Full size", "Training, loading and answering at full size",
        "Random weights and generated data: speed and memory do not depend on them, scores would.",
        (Table("Measured", columns, tuple(rows)),) if rows else (), [one for some in found.values() for one in some],
        tuple(Missing(what, FULL_SIZE_COMMANDS[what]) for what, some in found.items() if not some),
    )  # fmt: skip


def _of(records: Sequence[Record], artifact: str) -> list[Record]:
    return [record for record in records if record.source == "measured" and record.artifact == artifact]


def _place(record: Record) -> tuple[str, ...]:
    what = (extra_text(record, name) or "" for name in ("scope", "pass", "backend"))
    return record.mixer or record.model, *what, f"{record.context or 0:012}", record.device or "", record.run_id or ""


def _artifact(
    name: str, label: str, title: str, words: str, tables: tuple[Table, ...], used: Sequence[Record],
    missing: tuple[Missing, ...],
) -> Artifact:  # fmt: skip
    caption = f"{words} Nothing of this is published. {describe(unique(used)) or 'Nothing has been measured yet.'}"
    return Artifact(name, label, title, caption, tables, None, missing, run_ids(used))
