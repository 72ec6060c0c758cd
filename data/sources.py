"""Where instruction samples come from: JSON files, tables of Hugging Face datasets on disk, and our own pages.

A source is counted and read by place, so that the order of training is a matter of numbers alone.
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ..errors import UserError
from .conversations import BrokenSampleError, Conversation, Message, parse_conversation
from .families import FAMILIES, generate_page
from .samples import page_turns

PAGES = "pages:"
MOST_DIGITS = 9
PAGES_OF_A_SOURCE = 4096
TABLE_MARKS = ("state.json", "dataset_info.json")
JSON_SUFFIXES, TABLE_SUFFIX = (".json", ".jsonl"), ".parquet"


class Source(Protocol):
    """Samples, by place."""

    name: str

    @property
    def key(self) -> str:
        """Names the content, so that what was found out about it need not be found out again."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, place: int) -> Conversation:
        """Read a sample.

        Raises:
            BrokenSampleError: if it cannot be trained on.
        """
        ...


def open_source(name: str) -> Source:
    """Open a source by name: a ``.json``, ``.jsonl`` or ``.parquet`` file, a data set's folder, or ``pages:FAMILY``.

    Raises:
        UserError: if there is nothing of that name, or nothing in it.
    """
    if name.startswith(PAGES):
        return PageSource(name)
    path = Path(name)
    if not path.exists():
        raise UserError(
            f"no data at {name}; give a .json, .jsonl or .parquet file, a data set's folder, or pages:FAMILY"
        )
    source: Source
    if path.suffix in JSON_SUFFIXES:
        source = JsonSource(path)
    elif path.suffix == TABLE_SUFFIX or path.is_dir():
        source = TableSource(path)
    else:
        raise UserError(f"{name} is no .json, .jsonl or .parquet file and no folder; name one of those")
    if not len(source):
        raise UserError(f"{name} holds no samples; name another file")
    return source


def _file_key(*paths: Path) -> str:
    """Names files by path, size and time of change: reading them all would take as long as training on them."""
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


class JsonSource:
    """LLaMA-Factory's ShareGPT samples: a JSON list, or one object a line.

    The file is looked through once for where each sample begins; a sample is parsed when it is read. Paths in it are
    relative to its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self.places: list[tuple[int, int, int]] = []
        """Of each sample: its first line, and where it begins and ends in the file, in bytes."""
        if path.suffix == ".jsonl":
            self._find_lines()
        else:
            self._find_items()

    def _find_lines(self) -> None:
        start = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    self.places.append((number, start, start + len(line)))
                start += len(line)

    def _find_items(self) -> None:
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path} cannot be read ({error}); mend it or name another") from None
        decoder, space = json.JSONDecoder(), " \t\r\n"
        position, line, offset, counted = 0, 1, 0, 0

        def skip(expected: str) -> str:
            nonlocal position
            while position < len(text) and text[position] in space:
                position += 1
            found = text[position : position + 1]
            if not found or found not in expected:
                raise UserError(f"{self.path}, line {1 + text.count(chr(10), 0, position)}: not a JSON list of samples")
            return found

        skip("[")
        position += 1
        while True:
            while position < len(text) and text[position] in space:
                position += 1
            if not self.places and text[position : position + 1] == "]":
                return
            line += text.count("\n", counted, position)
            offset += len(text[counted:position].encode())
            try:
                _, end = decoder.raw_decode(text, position)
            except json.JSONDecodeError as error:
                raise UserError(f"{self.path}, line {error.lineno}: not JSON ({error.msg}); mend the file") from None
            except (ValueError, RecursionError) as error:
                raise UserError(f"{self.path}, line {line}: not JSON ({error}); mend the file") from None
            size = len(text[position:end].encode())
            self.places.append((line, offset, offset + size))
            counted, position = position, end
            if skip(",]") == "]":
                return
            position += 1

    @cached_property
    def key(self) -> str:
        """Of the file."""
        return _file_key(self.path)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: int) -> Conversation:
        """Read and parse a sample."""
        line, start, stop = self.places[place]
        origin = f"{self.path}, line {line}"
        with open(self.path, "rb") as file:
            file.seek(start)
            body = file.read(stop - start)
        try:
            row = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BrokenSampleError(f"{origin}: not JSON ({error})") from None
        return parse_conversation(row, origin, self.path.parent)


class TableSource:
    """A table of Hugging Face datasets on disk: what ``save_to_disk`` wrote, or parquet files.

    Columns are those of the JSON samples; an image may be its bytes. Paths are relative to the table's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self.folder = path if path.is_dir() else path.parent
        self.files = sorted(path.rglob("*")) if path.is_dir() else [path]
        self.files = [file for file in self.files if file.is_file()]
        self.table = self._open()
        columns = set(self.table.column_names)
        if not columns & {"messages", "conversations"}:
            raise UserError(
                f"{path} has the columns {', '.join(sorted(columns))}, and no `messages`; name another table"
            )

    def _open(self) -> Any:
        from datasets import Dataset, DatasetDict, load_from_disk
        from datasets.exceptions import DatasetGenerationError
        from pyarrow import ArrowInvalid

        try:
            if self.path.is_dir() and any((self.path / mark).exists() for mark in (*TABLE_MARKS, "dataset_dict.json")):
                table = load_from_disk(str(self.path))
                if isinstance(table, DatasetDict):
                    if "train" not in table:
                        raise UserError(
                            f"{self.path} has the parts {', '.join(table)}, and no `train`; name one of them"
                        )
                    table = table["train"]
            else:
                files = [str(file) for file in self.files if file.suffix == TABLE_SUFFIX]
                if not files:
                    raise UserError(f"{self.path} holds neither a data set nor .parquet files; name another folder")
                table = Dataset.from_parquet(files)
        except (OSError, ValueError, ArrowInvalid, DatasetGenerationError) as error:
            reason = " ".join(str(error.__cause__ or error).split())[:200]
            raise UserError(f"{self.path} cannot be read ({reason}); mend it or name another") from None
        return _as_stored(table)

    @cached_property
    def key(self) -> str:
        """Of the table's files."""
        return _file_key(*self.files)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, place: int) -> Conversation:
        """Read a row."""
        return parse_conversation(self.table[place], f"{self.path}, row {place + 1}", self.folder)


def _as_stored(table: Any) -> Any:
    """The table with its images as bytes or paths: decoding is ours, where an error can be named."""
    from datasets import Features, Image, List

    def stored(feature: Any) -> Any:
        if isinstance(feature, Image):
            return Image(decode=False)
        return List(Image(decode=False)) if isinstance(getattr(feature, "feature", None), Image) else feature

    features = {name: stored(feature) for name, feature in table.features.items()}
    return table if features == dict(table.features) else table.cast(Features(features))


class PageSource:
    """Our own pages of one family, named ``pages:FAMILY`` or ``pages:FAMILY:COUNT``: all questions about a page."""

    def __init__(self, name: str) -> None:
        self.name = name
        family, _, count = name.removeprefix(PAGES).partition(":")
        if family not in FAMILIES:
            from ..errors import unknown_name

            raise unknown_name("page family", family, FAMILIES)
        if count and not (count.isdecimal() and len(count) <= MOST_DIGITS and int(count)):
            raise UserError(
                f"{name}: {count!r} is no number of pages of up to {MOST_DIGITS} digits; write pages:{family}:1000"
            )
        self.family, self.count = family, int(count or PAGES_OF_A_SOURCE)

    @property
    def key(self) -> str:
        """The name says it all, but for the program that draws them."""
        from .. import __version__

        return f"{self.name}-{__version__}"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> Conversation:
        """Draw a page."""
        page = generate_page(self.family, seed=0, index=place, split="train", level=1)
        messages = []
        for number, question in enumerate(page_turns(page)):
            messages.append(Message("user", ("" if number else "<image>") + question.text))
            messages.append(Message("assistant", question.answers[0]))
        return Conversation(tuple(messages), (page.image,), (), f"{self.name}, page {place}")
