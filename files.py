"""Files of one's own: written whole or not at all, held by one process, readable by whom the umask allows."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from .errors import FULL, UserError

TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}|\.tmp[A-Za-z0-9]{6}")
"""Names of temporary files: what Python's tempfile makes of ``.NAME.``, and what safetensors makes of nothing."""


def mode(private: int) -> int:
    """The permissions that the umask leaves of ``private``, such as ``0o666``."""
    umask = os.umask(0)
    os.umask(umask)
    return private & ~umask


def make_readable(folder: Path) -> None:
    """Give a folder, and all below it, the permissions of the umask: temporary files and safetensors' are private."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(mode(0o777 if path.is_dir() else 0o666))


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part, even after a power cut.

    Raises:
        UserError: if the disk is full or the folder cannot be written to; the old file is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # A temporary file is private by default; the result should be readable like any other file.
        temporary.chmod(mode(0o666))
        temporary.replace(path)
    except OSError as error:
        way_out = "free some space or choose another folder" if error.errno in FULL else "choose another folder"
        raise UserError(f"cannot write {path}: {error.strerror}; {way_out}", 1) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def leftovers(folder: Path, name: str = "") -> list[Path]:
    """The temporary files and folders that killed processes left: ours, and those that safetensors writes through.

    Args:
        folder: where to look.
        name: of the files that they were for, or its beginning, in this folder alone; any, and in all folders below,
            without it.
    """
    found = folder.glob(f".{name}*") if name else folder.rglob(".*")
    return sorted(path for path in found if TEMPORARY.fullmatch(path.name))


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove `leftovers`. Whoever calls must hold the lock of what is written there."""
    for path in leftovers(folder, name):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, for which a folder is made, waiting for whoever holds it.

    Raises:
        UserError: if it cannot be made there.
    """
    lock = FileLock(str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"cannot write to {path.parent}: {error.strerror}; choose another folder with --runs or --out", 1
        ) from error
    try:
        yield
    finally:
        lock.release()


def file_digest(path: Path) -> str:
    """The first 12 hex digits of a file's SHA-256.

    Raises:
        UserError: if the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:12]
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); reinstall the package", 1) from None


def check_out(path: Path, example: str) -> None:
    """Refuse a file that could not be written, before the work that is to fill it.

    Raises:
        UserError: for a folder (``example`` is a file that could stand in it), or a place that takes no file.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give --out a file, such as {path / example}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; name another file with --out", 1) from error


def check_folder(path: Path, option: str) -> None:
    """Refuse a folder that could not be made or written to, before the work that is to fill it; it is not made yet.

    Args:
        path: the folder.
        option: what names it on the command line, such as ``--out``.

    Raises:
        UserError: if something else stands there or on the way there, or the nearest folder there is takes no file.
    """
    try:
        # Asked of the file system itself: root may write everywhere by permission, and not into /proc.
        nearest = next(place for place in (path, *path.absolute().parents) if _is_there(place))
        if not nearest.is_dir():
            what = "a file" if nearest.exists() else "a link to nothing"
            raise UserError(f"{nearest} is {what}, not a folder; name another with {option}")
        with tempfile.NamedTemporaryFile(dir=nearest, prefix=".probe-"):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror}; choose another folder with {option}", 1) from error


def _is_there(path: Path) -> bool:
    """Whether something stands there, if only a link; other than pathlib's, it hides no error but that."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def given_path(text: str | Path) -> Path:
    """A path as a command line gives it.

    Raises:
        UserError: for an empty one, as an unset variable of a shell gives it: it would be the current folder.
    """
    if not str(text).strip():
        raise UserError("the name of a file or folder is empty; name one, or leave its option out")
    return Path(text)


def with_home(path: str | Path) -> Path:
    """A path with ``~`` and ``~name`` at its beginning replaced by that home.

    Raises:
        UserError: if nobody of that name has one.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: nobody of that name has a home folder here; give the path in full") from None


class _PlainLoader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        # A few lines of aliases of aliases are a tree that no memory holds once it is walked.
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias stands for something else; write it out")
        return super().compose_node(parent, index)


def parse_yaml(text: str) -> Any:
    """Read plain YAML: no tag makes an object of a class, and nothing stands for something else.

    Raises:
        ValueError: if it is none, or a tag does not fit its value, at which PyYAML's constructors raise what they like.
    """
    try:
        return yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None


def package_path(*parts: str) -> Path:
    """A path inside the installed package."""
    return Path(str(resources.files("infinitevl_bench"))).joinpath(*parts)
