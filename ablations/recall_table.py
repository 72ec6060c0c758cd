"""The table that the study of multi-query recall ends with."""

from collections.abc import Sequence
from statistics import fmean

from rich.table import Table

from ..records import Record


def recall_table(records: Sequence[Record]) -> Table:
    """Accuracy in % by arm and width against the task, mean over seeds, above naming any value of the sequence."""
    scores = [record for record in records if record.metric == "score"]
    tasks = sorted({(record.context or 0, int(record.extra["pairs"] or 0)) for record in scores})
    table = Table(title="queries answered in %, mean over seeds", title_justify="left")
    table.add_column("arm", overflow="fold")
    table.add_column("width", justify="right")
    for length, pairs in tasks:
        table.add_column(f"{pairs} pairs in {length}", justify="right")
    found: dict[tuple[str, int], dict[tuple[int, int], list[float]]] = {}
    for record in scores:
        name = f"{record.mixer} {record.pattern} {record.extra['variant']}".strip().removeprefix("none ")
        row = found.setdefault((name, int(record.extra["width"] or 0)), {})
        row.setdefault((record.context or 0, int(record.extra["pairs"] or 0)), []).append(record.value)
    for (name, width), row in found.items():
        table.add_row(name, str(width), *(f"{fmean(row[task]):.1f}" if task in row else "–" for task in tasks))
    table.add_section()
    table.add_row("baseline: any value of the sequence", "", *(f"{100 / pairs:.1f}" for _, pairs in tasks))
    return table
