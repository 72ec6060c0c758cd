"""The runs of a folder, finished or not: what each was asked for, how far it is, and whether someone works on it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from ..errors import UserError, unknown_name
from ..files import parse_yaml
from ..records import Record, RunSpec, read_result, records_of, run_folders

MARKS = ("spec.yaml", "result.json")
"""Files of which any makes a folder a run."""

State = Literal["finished", "held", "unfinished", "damaged"]


@dataclass(frozen=True)
class Run:
    """One run; ``problem`` says what is damaged, ``finished_at`` is empty before the end."""

    path: Path
    state: State
    arguments: Mapping[str, Any] = field(default_factory=dict)
    finished_at: str = ""
    status: str = ""
    records: tuple[Record, ...] = ()
    problem: str = ""

    @property
    def id(self) -> str:
        """The name of the folder."""
        return self.path.name

    @property
    def size_bytes(self) -> int:
        """What its files hold."""
        return size_bytes(self.path)

    def environment(self) -> dict[str, Any]:
        """Its ``env.json``; empty if that is not there or no object."""
        try:
            found = json.loads((self.path / "env.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def size_bytes(path: Path) -> int:
    """What a file holds, or the files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())


def all_runs(root: Path) -> list[Run]:
    """The runs of a folder by id; one that is damaged is listed as such. Empty without the folder.

    Raises:
        UserError: if the folder is none, or cannot be read.
    """
    return [read_run(folder) for folder in run_folders(root, *MARKS)]


def find_run(name: str, root: Path) -> Run:
    """A run by its id, the beginning of its id, or its folder.

    Raises:
        UserError: for a name of none, with the nearest, or of several, and for an empty one.
    """
    if not name.strip():
        raise UserError("the name of a run is empty; give its id, the beginning of it, or its folder")
    folders = {folder.name: folder for folder in run_folders(root, *MARKS)}
    matching = [folders[name]] if name in folders else [path for id_, path in folders.items() if id_.startswith(name)]
    with suppress(OSError):
        if not matching and (Path(name) / "spec.yaml").is_file():
            matching = [Path(name)]
    if not matching:
        raise unknown_name("run", name, folders) if folders else UserError(f"no run {name!r}: {root} holds no runs")
    if len(matching) > 1:
        raise UserError(f"{name!r} begins {len(matching)} runs: {', '.join(path.name for path in matching)}")
    return read_run(matching[0])


def read_run(folder: Path) -> Run:
    """Read one run's folder."""
    try:
        spec = RunSpec.model_validate(parse_yaml((folder / "spec.yaml").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Run(folder, "damaged", problem="it has no spec.yaml")
    except OSError as error:
        return Run(folder, "damaged", problem=f"spec.yaml cannot be read ({error.strerror})")
    except (ValueError, RecursionError):
        return Run(folder, "damaged", problem="spec.yaml is no request")
    if not (folder / "result.json").exists():
        with held(folder) as free:
            return Run(folder, "unfinished" if free else "held", spec.arguments)
    try:
        result = read_result(folder)
        records = tuple(records_of(folder, result))
    except UserError as error:
        return Run(folder, "damaged", spec.arguments, problem=str(error))
    status = str(result["summary"].get("status", "ok"))
    return Run(folder, "finished", spec.arguments, str(result.get("finished_at", "")), status, records)


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold a run for the block; gives False if another process does, or its lock cannot be reached."""
    lock = FileLock(str(folder / ".lock"), timeout=0)
    try:
        lock.acquire()
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
