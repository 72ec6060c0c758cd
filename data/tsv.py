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
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from ..errors import UserError
from ..records import atomic_write

if TYPE_CHECKING:
    import pandas as pd

MAX_PIXELS = 64_000_000
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


def read_tsv(path: Path, columns: Sequence[str] = ("index", "image", "question", "answer")) -> "pd.DataFrame":
    """Read a benchmark file and check every row.

    Args:
        path: The file.
        columns: Columns that must be there; others are kept.

    Returns:
        One row a question, every cell a string, images as they stand in the file.

    Raises:
        UserError: Naming the file and row (counted from 1, without the heading): missing columns or
            empty cells in them, an index
            used twice, an image that cannot be decoded, that refers to no row, or of more than `MAX_PIXELS`.
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
    _check_cells(path, frame, columns)
    if "index" in frame.columns:
        _check_index(path, frame["index"].tolist())
    if "image" in frame.columns:
        _check_images(path, frame)
    return frame


def _check_cells(path: Path, frame: "pd.DataFrame", columns: Sequence[str]) -> None:
    for name in columns:
        empty = (frame[name] == "").to_numpy().nonzero()[0]
        if len(empty):
            raise UserError(f"{path}, row {empty[0] + 1}: column {name} is empty; mend or remove the row")


def _check_index(path: Path, indices: list[str]) -> None:
    seen: dict[str, int] = {}
    for number, index in enumerate(indices, start=1):
        if index in seen:
            raise UserError(
                f"{path}, row {number}: index {index} is used in row {seen[index]} too; give each row its own"
            )
        seen[index] = number


def _check_images(path: Path, frame: "pd.DataFrame") -> None:
    cells = frame["image"].tolist()
    whole = (
        {index for index, cell in zip(frame["index"], cells, strict=True) if len(cell) > REFERENCE_LENGTH}
        if "index" in frame.columns
        else set()
    )
    for number, cell in enumerate(cells, start=1):
        if len(cell) <= REFERENCE_LENGTH:
            if cell not in whole:
                raise UserError(
                    f"{path}, row {number}: the image {cell!r} is neither base64 nor the index of a row with one"
                )
            continue
        try:
            for text in _images_of(cell):
                _verify(text)
        except ValueError as error:
            raise UserError(f"{path}, row {number}: the image is {error}; mend or remove the row") from None


def _images_of(cell: str) -> list[str]:
    """The base64 images of a cell: one, or a Python list of several."""
    if not cell.startswith("["):
        return [cell]
    try:
        images = ast.literal_eval(cell)
    except (SyntaxError, ValueError):
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
            image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise ValueError("in no known format") from None
    except Image.DecompressionBombError:
        raise ValueError(f"of more than {MAX_PIXELS:,} pixels") from None
    except (OSError, SyntaxError, ValueError) as error:
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
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"damaged ({error})") from None
