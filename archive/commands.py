"""What `infinitevl-bench runs` prints and does."""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from ..errors import UserError
from ..files import leftovers
from ..printing import PlainConsole
from ..records import Record, measured_records, ship_records
from ..tidy import check_ending, frame, write
from .folders import Run, all_runs, find_run, held, size_bytes

WHOLE = ("finished", "damaged")
"""States in which nobody writes and nothing will be gone on with, so that what is half-written is of no use."""


LONGEST_IN_A_COLUMN = 18
"""Characters of a value that stands beside another; 80 columns hold two of them and the name of a setting."""


def list_runs(root: Path) -> None:
    """Print all runs, one a line, finished or not."""
    found = all_runs(root)
    console = PlainConsole()
    if not found:
        console.print(f"no runs yet in {root}", soft_wrap=True)
        return
    table = _table("run", "state", "what", "score in %", "finished", "size", wrapping=2)
    several = False
    for run in found:
        scores = [record for record in run.records if record.metric == "score"]
        shown = " ".join(f"{record.benchmark} {_number(record.value)}" for record in scores)
        if len(scores) > 1:
            shown, several = f"{_number(fmean(record.value for record in scores))} (of {len(scores)})", True
        table.add_row(run.id, _state(run), run.problem or _what(run), shown, _day(run), _size(run.size_bytes))
    console.print(table)
    if several:
        console.print("(of N): the mean of N scores; `infinitevl-bench runs show RUN` has each", soft_wrap=True)


def show_run(name: str, root: Path) -> None:
    """Print what one run was asked for, where it ran, and what it found."""
    run = find_run(name, root)
    console = PlainConsole()
    console.print(f"{run.id}: {_state(run)}{', ' + run.problem if run.problem else ''}", soft_wrap=True)
    facts = _flat(run.arguments) | _environment(run)
    for key, value in facts.items():
        console.print(f"  {key}: {value}", highlight=False, soft_wrap=True)
    records = _told(run)
    if records:
        table = _table("metric", "of", "value", "unit", "95 % interval", "n")
        for record in records:
            bounds = "" if record.ci_low is None else f"{record.ci_low:.4g} to {record.ci_high:.4g}"
            count = "" if record.n is None else str(record.n)
            table.add_row(record.metric, _place(record), f"{record.value:.6g}", record.unit, bounds, count)
        console.print(table)
    with suppress(PermissionError):
        for file in sorted(path for path in run.path.iterdir() if not path.name.startswith(".")):
            console.print(f"  {file.name}", highlight=False, soft_wrap=True)


def diff_runs(first: str, second: str, root: Path) -> None:
    """Print in what two runs differ: the request, the environment, and the numbers that both have.

    The runs are A and B, named once above: their ids as headings would leave no room for what stands below.
    """
    left, right = find_run(first, root), find_run(second, root)
    console = PlainConsole()
    facts, long_facts, numbers = _table("", "A", "B", wrapping=0), [], _table("", "A", "B", "B − A", wrapping=0)
    told = [_flat(run.arguments) | _environment(run) for run in (left, right)]
    for key in sorted(told[0].keys() | told[1].keys()):
        before, after = (one.get(key, "—") for one in told)
        if before == after:
            continue
        if max(len(before), len(after)) > LONGEST_IN_A_COLUMN:
            long_facts.append((key, before, after))
        else:
            facts.add_row(key, before, after)
    measured = [{_identity(record): record.value for record in _told(run)} for run in (left, right)]
    for identity in sorted(measured[0].keys() | measured[1].keys()):
        values = [one.get(identity) for one in measured]
        if values[0] != values[1]:
            change = f"{values[1] - values[0]:+.4g}" if values[0] is not None and values[1] is not None else ""
            numbers.add_row(identity, *("—" if value is None else f"{value:.6g}" for value in values), change)
    if not (facts.row_count or long_facts or numbers.row_count):
        console.print("no difference", soft_wrap=True)
        return
    console.print(f"A: {left.id}\nB: {right.id}", highlight=False, soft_wrap=True)
    for table in (facts, numbers):
        if table.row_count:
            console.print()
            console.print(table)
    for key, before, after in long_facts:
        console.print(f"\n{key}\n  A: {before}\n  B: {after}", highlight=False, soft_wrap=True)


def export_records(out: Path, root: Path) -> None:
    """Write all measured records, those of the runs and those that the package ships, as one tidy table.

    As JSON lines (``.jsonl``) only those of the runs, in the form in which the package ships records, and beside them
    the environments of the runs.
    """
    if out.suffix == ".jsonl":
        _export_to_ship(out, root)
        return
    check_ending(out)
    table = frame(record.model_dump() for record in measured_records(root))
    write(out, table)
    PlainConsole().print(f"{len(table):,} records, {len(table.columns)} columns in {out}", soft_wrap=True)


def _export_to_ship(out: Path, root: Path) -> None:
    found = [run for run in all_runs(root) if run.state == "finished"]
    records = [record for run in found for record in run.records]
    environments = {run.id: run.environment() for run in found if run.records and run.environment()}
    beside = ship_records(out, records, environments)
    PlainConsole().print(
        f"{len(records):,} records in {out}, {len(environments):,} environments in {beside}",
        soft_wrap=True,
    )


def prune_runs(root: Path, yes: bool) -> None:
    """Remove unfinished runs that no process works on, and what killed processes left half-written.

    Without ``yes`` nothing is removed: what would go is listed. Finished, held and damaged runs stay.
    """
    found = all_runs(root)
    unfinished = [run for run in found if run.state == "unfinished"]
    scraps = [(path, run.path) for run in found if run.state in WHOLE for path in leftovers(run.path)]
    console = PlainConsole()
    freed = sum(run.size_bytes for run in unfinished) + sum(size_bytes(path) for path, _ in scraps)
    for what, run in [*((run.path, run.path) for run in unfinished), *scraps]:
        removed = yes and _remove(what, run)
        console.print(f"{'removed' if removed else 'would remove'} {what}", soft_wrap=True)
    count = f"{len(unfinished)} unfinished runs, {len(scraps)} half-written files, {_size(freed)}"
    console.print(count + ("" if yes or not (unfinished or scraps) else "; --yes removes them"), soft_wrap=True)


def _remove(path: Path, run: Path) -> bool:
    """Remove a run's folder, or something in it, unless a process works on the run."""
    try:
        with held(run) as free:
            if not free:
                return False
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove {path}: {error.strerror}; look at its permissions", 1) from None
    return True


def _state(run: Run) -> str:
    return run.status if run.state == "finished" and run.status != "ok" else run.state


def _day(run: Run) -> str:
    """When it was finished, to the minute, without the year of this year."""
    day, _, minute = run.finished_at[:16].partition("T")
    return f"{day} {minute}".removeprefix(f"{date.today().year}-").strip()


def _what(run: Run) -> str:
    names = ("benchmark", "model", "mixer", "pattern", "recipe", "scale", "seed", "data", "stage")
    return " ".join(str(run.arguments[name]) for name in names if run.arguments.get(name) not in (None, ""))


def _flat(arguments: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Arguments by their path, such as ``training.steps``."""
    found: dict[str, str] = {}
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return found


def _environment(run: Run) -> dict[str, str]:
    found = run.environment()
    command = found.pop("command", None)
    facts = {key: value for key, value in _flat(found).items() if key not in ("started_at", "platform")}
    if isinstance(command, list):
        facts["command"] = " ".join(map(str, command))
    return facts


def _told(run: Run) -> list[Record]:
    """Its records without the learning curves."""
    return [record for record in run.records if not record.metric.startswith("loss")]


def _identity(record: Record) -> str:
    return " ".join([record.metric, _place(record)])


def _place(record: Record) -> str:
    named = {"frames": record.frames, "context": record.context}
    parts: Sequence[str | None] = (record.benchmark, record.split, str(record.extra.get("protocol", "")))
    numbers = [f"{value:,} {name}" for name, value in named.items() if value is not None]
    return " ".join([*(part for part in parts if part), *numbers])


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 1e6 else f"{value:.4g}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _table(*headings: str, wrapping: int | None = None) -> Table:
    """A table whose first column is never broken; if one is named, none but that one is."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, no_wrap=number == 0 if wrapping is None else number != wrapping, overflow="fold")
    return table
