"""Records as one tidy table: a row a number, a column a field, what records note beside it as ``extra_…``."""

from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .files import atomic_write

if TYPE_CHECKING:
    import pandas as pd

LARGEST, MOST = 2**63, 2**1023
"""Whole numbers from here on are none that 64 bits hold, and none that a float holds."""
FORMATS = (".parquet", ".csv")


def frame(rows: Iterable[Mapping[str, Any]]) -> "pd.DataFrame":
    """Make the table of records that are given as dicts.

    Returns:
        A frame with one dtype a column: ``Int64``, ``Float64``, ``boolean`` or ``string``, each of which knows missing
        values. A column whose values are of several kinds is ``string``.
    """
    import pandas as pd

    flat = [
        {name: value for name, value in row.items() if name != "extra"}
        | {f"extra_{name}": value for name, value in row.get("extra", {}).items()}
        for row in rows
    ]
    names = dict.fromkeys(name for row in flat for name in row if not name.startswith("extra_"))
    names |= dict.fromkeys(sorted({name for row in flat for name in row if name.startswith("extra_")}))
    return pd.DataFrame({name: _column([row.get(name) for row in flat]) for name in names})


def _column(values: list[Any]) -> Any:
    import pandas as pd

    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pd.array(values, dtype="boolean")
    if kinds == {int} and all(value is None or -LARGEST <= value < LARGEST for value in values):
        return pd.array(values, dtype="Int64")
    if kinds and kinds <= {int, float} and all(type(value) is not int or abs(value) < MOST for value in values):
        return pd.array([None if value is None else float(value) for value in values], dtype="Float64")
    return pd.array([None if value is None else str(value) for value in values], dtype="string")


def check_ending(path: Path) -> None:
    """Refuse a file that `write` would refuse, before the work.

    Raises:
        UserError: for an unknown ending, or a folder.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"{path} ends in none of {', '.join(FORMATS)}; name a file that does")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file")


def write(path: Path, table: "pd.DataFrame") -> None:
    """Write a table as Parquet or CSV, by the name's ending, whole or not at all.

    Raises:
        UserError: for another ending (exit code 2), or a file that cannot be written (1).
    """
    check_ending(path)
    content = BytesIO()
    if path.suffix == ".parquet":
        table.to_parquet(content, index=False)
    else:
        table.to_csv(content, index=False)
    atomic_write(path, content.getvalue())
