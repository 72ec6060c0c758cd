"""Records and run folders: every number that the project shows, and where it came from.

A `Record` is one number with its meaning and its provenance. A `RunSpec` says what a run does; the hash of it is the
run's id, so the same request always lands in the same folder `runs/<id>/`:

    spec.yaml       the request
    env.json        git commit and dirtiness, package versions, device, command line
    metrics.jsonl   one line a logged step
    predictions.*   one line a sample
    result.json     the records; written last and atomically, so its presence means that the run is finished
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from .environment import environment, without_paths
from .errors import UserError
from .files import atomic_write, file_digest, locked, package_path, remove_leftovers
from .run_folders import Kind, run_folders

# Whoever reads or writes runs also needs these.
__all__ = [
    "Record", "RunFolder", "RunHeldError", "RunSpec", "Scalar", "atomic_write", "environment", "file_digest",
    "finished_runs", "locked", "measured_records", "package_path", "read_records", "read_result", "read_rows",
    "records_of", "run_folders", "ship_records", "write_records",
]  # fmt: skip

SCHEMA_VERSION = 1
Scalar = str | int | float | bool | None
# Checked to be JSON when a spec is made; whoever reads an argument knows which it is.
if TYPE_CHECKING:
    import pandas as pd

    Arguments = dict[str, Any]
else:
    Arguments = dict[str, JsonValue]

# Larger ones are damage or a slip, and neither a figure nor a column of a table can hold them.
Real = Annotated[float, Field(allow_inf_nan=False, ge=-1e100, le=1e100)]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Record(BaseModel):
    """One number: what it measures, of what, on what, and who says so.

    ``value`` is in ``unit``; ``ci_low`` and ``ci_high`` bound the 95 % interval in the same unit. ``split`` is None for
    figures that use no benchmark data. ``n`` counts the samples (or timed repetitions) behind the value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    artifact: str
    metric: str
    value: Real
    unit: str
    model: str
    source: Literal["published", "measured"]
    mixer: str | None = None
    pattern: str | None = None
    benchmark: str | None = None
    split: Literal["official", "synthetic"] | None = None
    frames: Whole | None = None
    context: Whole | None = None
    seed: Whole | None = None
    n: Whole | None = None
    ci_low: Real | None = None
    ci_high: Real | None = None
    run_id: str | None = None
    scale: str | None = None
    device: str | None = None
    steps: Whole | None = None
    parameters: Whole | None = None
    state_elements: Whole | None = None
    extra: dict[str, Scalar] = Field(default_factory=dict)


class RunSpec(BaseModel):
    """What a run does. Two equal specs are one run; anything that changes the numbers belongs in ``arguments``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    kind: Kind
    arguments: Arguments

    @property
    def id(self) -> str:
        """``<kind>-<12 hex digits>``, the same for the same spec on every machine."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return f"{self.kind}-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"


class RunHeldError(UserError):
    """Another process works on the run."""


class RunFolder:
    """The folder of one run, held by one process at a time.

    Use it as a context manager: entering creates the folder, takes the lock and writes ``spec.yaml``; leaving gives
    the lock back. The operating system drops the lock of a killed process; the temporary files that one left are
    removed by the next to enter.
    """

    def __init__(self, root: Path, spec: RunSpec) -> None:
        self.spec = spec
        self.path = root / spec.id
        self._lock = FileLock(str(self.path / ".lock"), timeout=0)

    def __enter__(self) -> "RunFolder":
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise RunHeldError(
                f"run {self.spec.id} is held by another process; wait for it, or choose another --runs folder", 1
            ) from None
        except OSError as error:
            raise UserError(
                f"cannot write to {self.path}: {error.strerror}; choose another folder with --runs", 1
            ) from error
        try:
            remove_leftovers(self.path)
            self._write_spec()
        except (UserError, OSError):
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _write_spec(self) -> None:
        path = self.path / "spec.yaml"
        content = yaml.safe_dump(self.spec.model_dump(mode="json"), sort_keys=False)
        # The folder's name is the hash of the spec, so a file that says something else is damaged.
        if not path.is_file() or path.read_bytes() != content.encode():
            atomic_write(path, content)

    @property
    def finished(self) -> bool:
        """Whether the run has its result."""
        return (self.path / "result.json").exists()

    @property
    def held(self) -> bool:
        """Whether another process holds the run now."""
        if not self.path.is_dir():
            return False
        try:
            with FileLock(str(self.path / ".lock"), timeout=0):
                return False
        except Timeout:
            return True

    def write_environment(self, device: str) -> None:
        """Write ``env.json``: where and with what this run runs."""
        atomic_write(self.path / "env.json", json.dumps(environment(device), indent=1))

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Append one line to a JSON-lines file of the folder and hand it to the operating system.

        Raises:
            UserError: if the disk is full or the file cannot be written to; what it holds stays.
        """
        path = self.path / name
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror}; free some space, then call the same command again", 1
            ) from error

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Read a JSON-lines file of the folder; a last line cut off by a kill is left out.

        Raises:
            UserError: naming the file and the line that is damaged.
        """
        path = self.path / name
        if not path.exists():
            return []
        rows, whole, cut_off = _rows_of(path)
        if cut_off:
            # What is appended next must not go on in the middle of a line.
            atomic_write(path, whole)
        return rows

    def truncate(self, name: str, keep: int) -> None:
        """Keep the first ``keep`` rows of a JSON-lines file: what a checkpoint knows of."""
        rows = self.rows(name)
        if len(rows) > keep:
            atomic_write(self.path / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[:keep]))

    def finish(self, records: Iterable[Record], **summary: Scalar) -> None:
        """Write ``result.json``, which makes the run finished."""
        body = {
            "run_id": self.spec.id,
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "summary": summary,
            "records": [record.model_dump(mode="json") for record in records],
        }
        atomic_write(self.path / "result.json", json.dumps(body, indent=1, ensure_ascii=False))

    def result(self) -> dict[str, Any]:
        """Its ``result.json``; see `read_result`."""
        return read_result(self.path)

    def records(self) -> list[Record]:
        """The records of a finished run."""
        return _parse_records(self.result()["records"], self.path / "result.json")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file of a run that is nobody's to change; a last line cut off by a kill is left out.

    Raises:
        UserError: naming the file and the line that is damaged.
    """
    return _rows_of(path)[0]


def read_records(path: Path) -> list[Record]:
    """Read a ``.jsonl`` file of records.

    Raises:
        UserError: naming the file and line that is no record, or was written by another version.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", 1) from None
    rows = []
    # Not splitlines: a text in a record may hold a line separator of Unicode's.
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); mend or remove the line", 1) from None
    return _parse_records(rows, path)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records as ``.jsonl``, one a line, without fields that hold their default."""
    lines = (
        json.dumps(record.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False) for record in records
    )
    atomic_write(path, "".join(line + "\n" for line in lines))


def finished_runs(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield ``(folder, result)`` for every finished run below ``root``, by run id.

    Raises:
        UserError: if ``root`` is no folder that can be read, or for a result that cannot be read.
    """
    for folder in run_folders(root, "result.json"):
        yield folder, read_result(folder)


def ship_records(path: Path, records: Iterable[Record], environments: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write records as the package ships them: ``.jsonl``, and beside it the environments of their runs.

    Args:
        path: ends in ``.jsonl``.
        records: as `write_records` takes them.
        environments: run id → `environment`; absolute paths in its command are shortened.

    Returns:
        The file of the environments.
    """
    write_records(path, records)
    told = {
        run: {**found, "command": [without_paths(str(part)) for part in found.get("command") or ()]}
        for run, found in environments.items()
    }
    beside = path.with_suffix(ENVIRONMENTS)
    atomic_write(beside, json.dumps(told, indent=1, sort_keys=True) + "\n")
    return beside


SHIPPED = package_path("reports", "measured")
"""Records that the package brings, as JSON lines."""

ENVIRONMENTS = ".environments.json"
"""Ending of the files beside them: run id → what its ``env.json`` said."""


def measured_records(runs: Path | None) -> list[Record]:
    """All measured records: those shipped in ``reports/measured`` and those of the finished runs below ``runs``."""
    shipped = [record for path in sorted(SHIPPED.glob("*.jsonl")) for record in read_records(path)]
    if runs is None:
        return shipped
    return shipped + [record for folder, result in finished_runs(runs) for record in records_of(folder, result)]


def records_of(folder: Path, result: Mapping[str, Any]) -> list[Record]:
    """The records of a finished run, as `finished_runs` yields it.

    Raises:
        UserError: naming the file and the record that is none.
    """
    return _parse_records(result["records"], folder / "result.json")


def read_result(folder: Path) -> dict[str, Any]:
    """Read a run's ``result.json``.

    Raises:
        UserError: if the file cannot be read, or is no result.
    """
    path = folder / "result.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; make it a readable file, or move the run's folder elsewhere", 1
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove the file to run again", 1) from None
    whole = (
        isinstance(result, dict)
        and isinstance(result.get("summary"), dict)
        and isinstance(result.get("records"), list)
        and all(isinstance(record, dict) for record in result["records"])
    )
    if not whole:
        raise UserError(f"{path} is not a result; remove the file to run again", 1)
    return result


def _rows_of(path: Path) -> tuple[list[dict[str, Any]], bytes, bytes]:
    """The rows of a file, the lines that hold them, and what of another was written when its process died."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; remove it to start over", 1) from None
    end = content.rfind(b"\n") + 1
    rows = []
    for number, line in enumerate(content[:end].split(b"\n"), start=1):
        if not line:
            continue
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: damaged; remove the line, then call the same command again", 1)
        rows.append(row)
    return rows, content[:end], content[end:]


def _parse_records(rows: Iterable[Any], path: Path) -> list[Record]:
    records = []
    for number, row in enumerate(rows, start=1):
        version = row.get("schema_version", SCHEMA_VERSION) if isinstance(row, dict) else SCHEMA_VERSION
        if version != SCHEMA_VERSION:
            raise UserError(
                f"{path}, record {number}: schema {version!r}, and this version reads schema {SCHEMA_VERSION} alone; "
                "use the version of infinitevl-bench that wrote it, or run it again",
                1,
            )
        try:
            records.append(Record.model_validate(row))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole row"
            raise UserError(f"{path}, record {number}: {where}: {first['msg']}; mend or remove it", 1) from None
    return records


class _Callable(ModuleType):
    """This module, which `infinitevl_bench.records()` also calls: a function of that name would hide the module."""

    def __call__(self, runs: str | Path | None = "runs") -> "pd.DataFrame":
        """All measured records as a tidy frame: those of finished runs in ``runs``, and those that the package ships.

        Raises:
            UserError: for records that cannot be read.
        """
        from .tidy import frame

        return frame(record.model_dump() for record in measured_records(None if runs is None else Path(runs)))


sys.modules[__name__].__class__ = _Callable
