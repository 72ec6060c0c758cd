"""VLMEvalKit's benchmark files: tab-separated, one question a row, its image in base64.

Columns are ``index``, ``image``, ``question``, ``answer`` (a Python list as text where several answers count),
``category``, and ``A``, ``B``, … for the options of a multiple choice. An image cell of at most 64 characters is the
index of the row whose image it shares. All cells are text: an answer ``007`` or ``NA`` stays what it is.
"""

import ast
import base64
import binascii
import csv
import io
import struct
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

from ..errors import UserError
from ..records import atomic_write

if TYPE_CHECKING:
    import pandas as pd

MAX_PIXELS = 64_000_000
LONGEST_NAME = 200
# What Pillow raises on damaged files, by format.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error)
# What benchmarks hold. Pillow knows many more, some of which call other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Largest image read, in pixels: more is a mistake or an attack on the memory."""

REFERENCE_LENGTH = 64
_ORDER = ("index", "image", "question", "answer", "category", "A", "B", "C", "D")


def encode_image(image: Image.Image) -> str:
    """Encode an image as base64 PNG, without loss."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode_image(text: str) -> Image.Image:
    """Decode a base64 image to RGB.

    Raises:
        ValueError: If it is no base64, no image, damaged or larger than `MAX_PIXELS`.
    """
    image = _open(text)
    try:
        return image.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"a damaged image ({error})") from None


def write_tsv(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows with the same columns each, at once and whole.

    Args:
        path: The file.
        rows: Column → value; images as `encode_image` gives them or as PIL images, tuples and lists as Python lists.

    Raises:
        UserError: If there are no rows, or a row's columns differ from the first one's.
    """
    listed = list(rows)
    if not listed:
        raise UserError(f"no rows to write to {path}; a benchmark has one at least")
    columns = [name for name in _ORDER if name in listed[0]]
    columns += [name for name in listed[0] if name not in _ORDER]
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    for number, row in enumerate(listed, start=1):
        if set(row) != set(columns):
            raise UserError(
                f"row {number} for {path} has columns {sorted(row)}, the first {sorted(columns)}; make them agree"
            )
        writer.writerow([_cell(row[name]) for name in columns])
    atomic_write(path, buffer.getvalue())


def _cell(value: object) -> str:
    if isinstance(value, Image.Image):
        return encode_image(value)
    if isinstance(value, list | tuple):
        return repr([str(part) for part in value])
    return str(value)


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be asked.

    Attributes:
        number: Its place in the file, from 1, without the heading.
        reason: What is wrong with it, in words.
    """

    number: int
    reason: str


def read_tsv(
    path: Path,
    columns: Sequence[str] = ("index", "image", "question", "answer"),
    *,
    bad: list[BadRow] | None = None,
    root: Path | None = None,
    answers: bool = True,
) -> "pd.DataFrame":
    """Read a benchmark file and check every row.

    Args:
        path: The file.
        columns: Columns that must be there; others are kept.
        bad: Where bad rows are listed, which are then left out; without it the first one is an error.
        root: Folder that files named by ``image_path`` and ``video_path`` must be in; they are not looked at if None.
        answers: Whether the rows may have answers.

    Returns:
        One row a question, every cell a string, images as they stand in the file.

    Raises:
        UserError: Naming the file and what is wrong with it: missing columns, or, with its number, a bad row
            (`bad_rows`).
    """
    import pandas as pd

    try:
        with warnings.catch_warnings():
            # A line with more cells than the heading: pandas would drop the last ones with a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8", index_col=False)
    except FileNotFoundError:
        raise UserError(f"no benchmark file {path}; give the path of a VLMEvalKit TSV") from None
    except (
        UnicodeDecodeError,
        pd.errors.ParserError,
        pd.errors.ParserWarning,
        pd.errors.EmptyDataError,
        OSError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is no tab-separated UTF-8 table ({reason}); download it again") from None
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")
    if frame.empty:
        raise UserError(f"{path} has a heading but no rows; download it again")
    found = bad_rows(frame, columns, root, answers=answers)
    if found and bad is None:
        raise UserError(f"{path}, row {found[0].number}: {found[0].reason}; mend or remove the row")
    if bad is not None:
        bad += found
    return frame.drop(index=[one.number - 1 for one in found])


def bad_rows(frame: "pd.DataFrame", columns: Sequence[str], root: Path | None, *, answers: bool = True) -> list[BadRow]:
    """Find the rows of a benchmark file that cannot be asked, with the first reason of each.

    Bad is a row with an empty cell where there must be something, an index used before, an image that cannot be
    decoded, refers to no row or has more than `MAX_PIXELS`, a file outside ``root`` or not there, or an answer where
    none may be.

    Args:
        frame: The rows.
        columns: Columns in which no cell may be empty.
        root: Folder that files named by the rows must be in; None leaves them unchecked.
        answers: Whether the rows may have answers.
    """
    table = {str(name): frame[name].tolist() for name in frame.columns}
    whole = {
        str(index)
        for index, cell in zip(table.get("index", ()), table.get("image", ()), strict=False)
        if isinstance(cell, list) or len(str(cell)) > REFERENCE_LENGTH
    }
    seen: dict[str, int] = {}
    found = []
    for position in range(len(frame)):
        row = {name: cells[position] for name, cells in table.items()}
        reason = (
            _empty_cell(row, columns)
            or _repeated_index(row, seen, position + 1)
            or _unwanted_answer(row, answers)
            or _unreadable_image(row, whole)
            or (_misplaced_file(row, root) if root is not None else None)
        )
        if reason:
            found.append(BadRow(position + 1, reason))
    return found


def _empty_cell(row: Mapping[str, Any], columns: Sequence[str]) -> str | None:
    empty = next((name for name in columns if name in row and not _filled(row[name])), None)
    return None if empty is None else f"column {empty} is empty"


def _filled(cell: Any) -> bool:
    # A table that pandas has read with its defaults says NaN, which is unequal to itself, for an empty cell.
    return bool(cell != "" and cell is not None and cell == cell)


def _repeated_index(row: Mapping[str, Any], seen: dict[str, int], number: int) -> str | None:
    if "index" not in row:
        return None
    first = seen.setdefault(str(row["index"]), number)
    return None if first == number else f"index {row['index']} is used in row {first} too"


def _unwanted_answer(row: Mapping[str, Any], answers: bool) -> str | None:
    if answers or not _filled(row.get("answer", "")):
        return None
    return "it has an answer, and this split has none; the file is not what its name says"


def _unreadable_image(row: Mapping[str, Any], whole: set[str]) -> str | None:
    cell = row.get("image", "")
    if not _filled(cell):
        return None
    if isinstance(cell, str) and len(cell) <= REFERENCE_LENGTH:
        return None if cell in whole else f"the image {cell!r} is neither base64 nor the index of a row with one"
    try:
        for text in cell if isinstance(cell, list) else _images_of(cell):
            _verify(text)
    except ValueError as error:
        return f"the image is {error}"
    return None


def _misplaced_file(row: Mapping[str, Any], root: Path) -> str | None:
    """Say that a file of a row lies outside the root, or, where the row needs it, is not there."""
    inside = root.resolve()
    for column, needed in (("image_path", not _filled(row.get("image", ""))), ("video_path", True)):
        cell = row.get(column, "")
        if not _filled(cell):
            continue
        for name in cell if isinstance(cell, list) else _paths_of(str(cell)):
            if not name.isprintable() or len(name) > LONGEST_NAME:
                return f"{column} {name[:40]!r}… is no name of a file"
            path = (inside / name).resolve()
            if not path.is_relative_to(inside):
                return f"{column} {name!r} is outside of the data's folder {root}"
            if needed and not (path.is_file() or (inside / "images" / name).is_file()):
                return f"{column} {name!r} is not in {root}"
    return None


def _paths_of(cell: str) -> list[str]:
    try:
        return _images_of(cell)
    except ValueError:
        return [cell]


def _images_of(cell: str) -> list[str]:
    """The base64 images of a cell: one, or a Python list of several."""
    if not cell.startswith("["):
        return [cell]
    try:
        images = ast.literal_eval(cell)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("a list that is not complete") from None
    if not all(isinstance(image, str) for image in images):
        raise ValueError("a list of something else than base64")
    return list(images)


def _open(text: str) -> Image.Image:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("no valid base64") from None
    try:
        with warnings.catch_warnings():
            # Our own bound is lower than Pillow's, which only warns at first.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError("in no known format") from None
    except Image.DecompressionBombError:
        raise ValueError(f"of more than {MAX_PIXELS:,} pixels") from None
    except DAMAGED as error:
        raise ValueError(f"damaged ({error})") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} × {height} and of more than {MAX_PIXELS:,} pixels")
    return image


def _verify(text: str) -> None:
    """Check that an image can be decoded, without decoding all of it where the format allows."""
    image = _open(text)
    try:
        if image.format == "PNG":
            image.verify()
        else:
            # JPEG at an eighth of the size reads all of the data in a tenth of the time.
            image.draft("L", (1, 1))
            image.load()
    except DAMAGED as error:
        raise ValueError(f"damaged ({error})") from None
