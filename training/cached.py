"""Tensors that are made once and kept in a cache folder; what takes long is kept part by part while it is made."""

import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..files import atomic_write, locked, remove_leftovers

Tensors = dict[str, Tensor]


def cached_tensors(path: Path, make: Callable[[], Mapping[str, Tensor]]) -> Tensors:
    """The tensors of a cache's file, made now if need be (by one process; others wait for it).

    Args:
        path: the file; its name tells all that it depends on.
        make: what makes them.

    Raises:
        UserError: if the file cannot be written. A damaged one is made again.
    """
    with locked(Path(f"{path}.lock")):
        tensors = _read(path)
        if tensors is None:
            remove_leftovers(path.parent, path.name)
            tensors = dict(make())
            atomic_write(path, save(tensors))
            shutil.rmtree(_parts_of(path), ignore_errors=True)
    return tensors


def made_in_parts(
    path: Path,
    ranges: Sequence[range],
    make: Callable[[list[range]], Generator[Tensors, None, None]],
    progress: Callable[[int, int], None] | None = None,
) -> list[Tensors]:
    """Make parts of what a cache's file will hold, and keep each beside it: who is interrupted goes on from there.

    Args:
        path: the file, for `cached_tensors`, which removes the parts once they are in it.
        ranges: of what is made; the parts must not depend on who makes them or what is made with them.
        make: from ranges to their parts, in order.
        progress: called with (done, all), what was kept counted in.

    Returns:
        The parts, in the order of the ranges.
    """
    folder = _parts_of(path)
    kept = {one: part for one in ranges if (part := _read(folder / _name(one))) is not None}
    missing, total = [one for one in ranges if one not in kept], sum(map(len, ranges))
    made = make(missing)
    try:
        for one, part in zip(missing, made, strict=True):
            atomic_write(folder / _name(one), save(part))
            kept[one] = part
            if progress is not None:
                progress(sum(map(len, kept)), total)
    finally:
        # What is made ahead, by other processes, ends with an error and not after it.
        made.close()
    return [kept[one] for one in ranges]


def _parts_of(path: Path) -> Path:
    return Path(f"{path}.parts")


def _name(one: range) -> str:
    return f"{one.start}-{one.stop}.safetensors"


def _read(path: Path) -> Tensors | None:
    """The tensors of a file; None if there is none, or a damaged one."""
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None
