"""Where the runs behind measured numbers ran: what their ``env.json`` says, without paths of the machine."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import records as package
from ..environment import without_paths
from ..errors import UserError
from ..records import ENVIRONMENTS, Record
from .estimates import group


@dataclass(frozen=True)
class Provenance:
    """One run as the report tells it; what its folder does not say, or has no folder to say, is empty.

    ``commit`` carries "with local changes" where the tree was dirty; ``command`` is one line; ``found`` is False for a
    run whose folder is not here and whose environment the package does not bring, so that only its records are known.
    """

    run: str
    found: bool
    device: str = ""
    commit: str = ""
    python: str = ""
    packages: tuple[tuple[str, str], ...] = ()
    command: str = ""
    scale: str = ""
    splits: str = ""


def provenance_of(runs: Path | None, records: Iterable[Record]) -> list[Provenance]:
    """Describe every run behind some measured records, by run id.

    Args:
        runs: folder of all runs; None, or one that is not there, leaves only what the records say.
        records: measured records; those without a run id are left out.

    Raises:
        UserError: for an ``env.json`` that cannot be read.
    """
    # A record's run id is a text from a file, so it is looked up among the folders that are there, never made a path.
    files = {} if runs is None else {path.parent.name: path for path in sorted(runs.glob("*/env.json"))}
    shipped: dict[str, Any] = {}
    for path in sorted(package.SHIPPED.glob(f"*{ENVIRONMENTS}")):
        shipped |= _read(path)
    by_run = group((record for record in records if record.run_id is not None), lambda record: record.run_id or "")
    return [
        _describe(run, by_run[run], _read(files[run]) if run in files else shipped.get(run)) for run in sorted(by_run)
    ]


def _describe(run: str, records: Sequence[Record], environment: Any) -> Provenance:
    scale = ", ".join(sorted({record.scale for record in records if record.scale}))
    splits = ", ".join(sorted({record.split for record in records if record.split}))
    devices = ", ".join(sorted({record.device for record in records if record.device}))
    if not isinstance(environment, dict):
        return Provenance(run, found=False, device=devices, scale=scale, splits=splits)
    git = environment.get("git")
    git = git if isinstance(git, dict) else {}
    commit = str(git.get("commit") or "")
    packages = environment.get("packages")
    command = environment.get("command")
    return Provenance(
        run,
        found=True,
        device=str(environment.get("device") or devices),
        commit=commit + (" with local changes" if commit and git.get("dirty") else ""),
        python=str(environment.get("python") or ""),
        packages=tuple(sorted((str(k), str(v)) for k, v in packages.items())) if isinstance(packages, dict) else (),
        command=" ".join(without_paths(str(part)) for part in command) if isinstance(command, list) else "",
        scale=scale,
        splits=splits,
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); mend or remove it", 1) from None
    if not isinstance(found, dict):
        raise UserError(f"{file} does not describe an environment; mend or remove it", 1)
    return found
