"""The `compare` command: two evaluations on the same samples, paired."""

from pathlib import Path
from typing import Any

from rich.table import Table

from ..errors import UserError
from ..printing import PlainConsole
from ..records import read_rows
from .statistics import Difference, paired_difference


def compare_command(first: str, second: str, runs: Path) -> dict[str, Difference]:
    """Compare two finished runs on every benchmark that both were asked.

    Args:
        first: Id of a run below ``runs``, or its folder.
        second: Another.
        runs: Folder of all runs.

    Returns:
        By benchmark and split, the second run against the first.

    Raises:
        UserError: if a run is not there or not finished, its predictions are damaged, or the two share no samples.
    """
    folders = [_folder(name, runs) for name in (first, second)]
    left, right = ({path.name: path for path in sorted(folder.glob("predictions-*.jsonl"))} for folder in folders)
    found: dict[str, Difference] = {}
    for name in left.keys() & right.keys():
        pairs = _pairs(_rows(left[name]), _rows(right[name]))
        if len(pairs) >= 2:
            scores = list(zip(*pairs, strict=True))
            found[name.removeprefix("predictions-").removesuffix(".jsonl")] = paired_difference(*scores)
    if not found:
        raise UserError(f"{first} and {second} have no scored samples in common; evaluate both on the same data")
    _show(found, *(folder.name for folder in folders))
    return found


def _folder(name: str, runs: Path) -> Path:
    folder = Path(name) if Path(name).is_dir() else runs / name
    if not (folder / "result.json").is_file():
        raise UserError(f"no finished run {name} in {runs}; `infinitevl-bench list runs` shows them")
    return folder


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = read_rows(path)
    for number, row in enumerate(rows, start=1):
        whole = all(name in row for name in ("index", "question", "answer"))
        if not whole or not isinstance(row.get("score"), int | float | None):
            raise UserError(f"{path}, row {number}: no prediction; remove it, or evaluate again elsewhere", 1)
    return rows


def _pairs(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Scores of the samples that both have: the same index, question and answer, counted in both."""

    def key(row: dict[str, Any]) -> tuple[str, str, str]:
        return str(row["index"]), str(row["question"]), str(row["answer"])

    known = {key(row): row["score"] for row in right if row.get("score") is not None}
    return [
        (float(row["score"]), float(known[key(row)]))
        for row in left
        if row.get("score") is not None and key(row) in known
    ]


def _show(found: dict[str, Difference], first: str, second: str) -> None:
    table = Table(
        box=None, pad_edge=False, header_style="bold", title=f"{second} against {first}, in %", title_justify="left"
    )
    for heading in ("samples of", first, second, "difference", "95 % interval", "better", "worse", "p", "n"):
        table.add_column(heading, justify="left" if heading == "samples of" else "right")
    for name, one in sorted(found.items()):
        numbers = [f"{100 * value:.1f}" for value in (one.first, one.second)]
        bounds = f"{100 * one.low:+.1f} to {100 * one.high:+.1f}"
        counts = [str(one.better), str(one.worse), f"{one.p_value:.3f}", str(one.n)]
        table.add_row(name, *numbers, f"{100 * one.difference:+.1f}", bounds, *counts)
    PlainConsole().print(table)
