"""Which folders are runs: they lie side by side in one folder, each named by its kind and the hash of its request."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from .errors import UserError

Kind = Literal["ablate", "eval", "train", "profile"]
KINDS: tuple[str, ...] = get_args(Kind)


def run_folders(root: Path, *files: str) -> list[Path]:
    """The folders below ``root`` that hold any of these files, by name; none where ``root`` is not there.

    A run that may not be looked into is among them, so that whoever reads it says so and its numbers are not missed.

    Raises:
        UserError: if ``root`` is a file or cannot be read.
    """
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file, not a folder of runs; name another with --runs")
    try:
        return sorted(folder for folder in root.iterdir() if _holds(folder, files))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(
            f"cannot read {root}: {error.strerror}; mend its permissions, or name another folder with --runs", 1
        ) from None


def _holds(folder: Path, files: Iterable[str]) -> bool:
    try:
        return any((folder / file).exists() for file in files)
    except PermissionError:
        # Other folders may lie here too, and be nobody's business.
        return folder.name.startswith(tuple(f"{kind}-" for kind in KINDS))
