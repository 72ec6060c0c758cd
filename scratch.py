"""Folders for what need not be kept: gone with their owner, and after a kill -9 with the next one to be made.

A folder holds a lock of its own as long as its owner lives, which the operating system drops if that is killed; so a
folder whose lock can be had is nobody's. It gets the name by which it is found only once it is locked.
"""

import glob
import os
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "infinitevl-bench-"
LOCK = ".lock"
MOMENT_SECONDS = 3600
OWN_PART = 8 * "[a-z0-9_]"
"""What Python's tempfile puts behind a prefix, as a pattern."""


class ScratchFolder:
    """A new folder, removed when it is left as a context manager, given up, or the program ends.

    Args:
        beside: the file or folder that is to become of it; it is made next to that, hidden and named after it, so that
            what it holds can be moved there whole. Without it, it is made in the system's folder for such.

    Attributes:
        path: the folder, empty at first.

    Raises:
        OSError: if it cannot be made there.
    """

    def __init__(self, beside: Path | None = None) -> None:
        if beside is None:
            common, unlocked, locked = Path(tempfile.gettempdir()), f".{PREFIX}", PREFIX
            _sweep_once(common)
        else:
            common, unlocked, locked = beside.parent, f".new.{beside.name}.", f".{beside.name}."
            _sweep(common, unlocked, locked)
        unnamed = Path(tempfile.mkdtemp(prefix=unlocked, dir=common))
        # Whoever gives the folder up may be another thread than its maker.
        lock = FileLock(str(unnamed / LOCK), thread_local=False)
        held = unnamed.with_name(locked + unnamed.name.removeprefix(unlocked))
        try:
            lock.acquire()
            unnamed.rename(held)
            self.path = held / "files"
            self.path.mkdir()
        except BaseException:
            _remove(unnamed, lock)
            _remove(held, lock)
            raise
        self._finalizer = weakref.finalize(self, _remove, held, lock)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the folder and what it holds."""
        self._finalizer()


def _remove(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release(force=True)


@cache
def _sweep_once(common: Path) -> None:
    """Once a process is enough, in a folder where many are made."""
    _sweep(common, f".{PREFIX}", PREFIX)


def _sweep(common: Path, unlocked: str, locked: str) -> None:
    """Remove the folders of killed processes whose names are one of these and a part of their own."""
    for unnamed in _named(common, unlocked):
        # Killed before the folder was locked, or about to lock it: that takes a moment.
        with suppress(OSError):
            if _is_own(unnamed) and time.time() - unnamed.stat().st_mtime > MOMENT_SECONDS:
                shutil.rmtree(unnamed)
    for folder in _named(common, locked):
        # In a folder that all users share: nothing is opened that another made, or by way of a link.
        if not _is_own(folder) or not _is_own(folder / LOCK):
            continue
        lock = FileLock(str(folder / LOCK), timeout=0)
        try:
            lock.acquire()
        except (Timeout, OSError):
            continue
        _remove(folder, lock)


def _named(common: Path, prefix: str) -> list[Path]:
    return list(common.glob(glob.escape(prefix) + OWN_PART))


def _is_own(path: Path) -> bool:
    try:
        return not path.is_symlink() and path.stat().st_uid == os.geteuid()
    except OSError:
        return False
