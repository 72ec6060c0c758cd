"""Files for the servers that score splits without public answers: DocVQA's test split and MMBench's."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..records import atomic_write
from .benchmarks import Benchmark


def write_submission(
    benchmark: Benchmark, rows: Sequence[dict[str, Any]], predictions: Sequence[dict[str, Any]], folder: Path
) -> Path:
    """Write what the benchmark's server takes.

    DocVQA's wants a JSON list of ``questionId`` and ``answer``; MMBench's a spreadsheet of the questions with a column
    ``prediction``, as VLMEvalKit writes it.

    Args:
        benchmark: One without public answers.
        rows: Its questions.
        predictions: Their predictions, in the same order.
        folder: Where the file goes.

    Returns:
        The file.
    """
    if benchmark.reading == "vqa":
        path = folder / f"submission-{benchmark.name}.json"
        answers = [
            {"questionId": int(row.get("questionId", row["index"])), "answer": said["prediction"]}
            for row, said in zip(rows, predictions, strict=True)
        ]
        atomic_write(path, json.dumps(answers, ensure_ascii=False))
        return path
    path = folder / f"submission-{benchmark.name}.xlsx"
    atomic_write(path, _spreadsheet(rows, predictions))
    return path


def _spreadsheet(rows: Sequence[dict[str, Any]], predictions: Sequence[dict[str, Any]]) -> bytes:
    from openpyxl import Workbook
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    columns = [name for name in rows[0] if name not in ("image", "image_path")]
    book = Workbook()
    sheet = book.active
    sheet.append([*columns, "prediction"])
    for number, (row, said) in enumerate(zip(rows, predictions, strict=True), start=2):
        for place, value in enumerate([*(row[name] for name in columns), said["prediction"]], start=1):
            cell = sheet.cell(row=number, column=place)
            if isinstance(value, str):
                # As text, always: a prediction "=1" is no formula.
                cell.value, cell.data_type = ILLEGAL_CHARACTERS_RE.sub("", value), "s"
            elif value == value:  # NaN, an option that a question does not have, stays empty
                cell.value = value
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()
