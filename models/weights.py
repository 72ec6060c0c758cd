"""Weight files before they are loaded: what tensors they hold, whether they are whole, and whether they fit a model.

Only the headers of safetensors files are read here, in milliseconds and without the tensors, so that a checkpoint that
cannot be loaded is refused with the names of its tensors before anything is built or overwritten.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LONGEST_HEADER = 100_000_000
"""Bytes of the longest header that safetensors allows."""

SHOWN_NAMES = 4


class TensorHeader(NamedTuple):
    """Where one tensor lies, its shape, and its type as safetensors spells it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


def read_headers(folder: Path) -> dict[str, TensorHeader]:
    """Headers of all tensors of a checkpoint, in one file or in shards with an index, by their names in the files.

    Raises:
        UserError: if there are no safetensors, a shard is missing or no safetensors file, a file is cut off (the
            tensors that it lost are named), or index and shards disagree.
    """
    index = folder / INDEX
    if not index.is_file():
        if (folder / SINGLE).is_file():
            return _file_headers(folder / SINGLE)
        other = next((path.name for path in sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt*"))), None)
        found = f"; {other} is a pickle and is never read" if other else ""
        raise UserError(f"no {SINGLE} in {folder}{found}; save the model as safetensors", 1)
    placed = _read_index(index)
    headers: dict[str, TensorHeader] = {}
    for name in sorted(set(placed.values())):
        path = folder / name
        try:
            missing = not path.is_file()
        except OSError as error:
            raise UserError(
                f"{index} names a file that cannot be read ({error.strerror}); download it again", 1
            ) from None
        if missing:
            lost = [tensor for tensor, file in placed.items() if file == name]
            raise UserError(f"{path} is missing, and with it {listed(lost)}; download it again", 1)
        headers |= _file_headers(path)
    lost = [name for name in placed if name not in headers]
    if lost:
        raise UserError(f"{index} names {listed(lost)}, which no shard holds; download the checkpoint again", 1)
    return headers


def check_fit(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: Path) -> None:
    """Compare a checkpoint's tensors with those of the model that is to take them.

    Args:
        found: name → shape in the checkpoint, by the model's names.
        expected: name → shape in the model.
        where: the checkpoint, for the message.

    Raises:
        UserError: naming tensors that are missing, that the model has no place for, or of another shape.
    """
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected]
    wrong = [
        f"{name} is {list(found[name])} and should be {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    problems = [f"{what} {listed(names)}" for what, names in (("lacks", missing), ("also has", surplus)) if names]
    problems += [f"has other shapes: {listed(wrong)}"] if wrong else []
    if problems:
        raise UserError(
            f"the checkpoint {where} {'; it '.join(problems)}; its config.json does not describe these weights", 1
        )


def listed(names: Iterable[str]) -> str:
    """The first names of a list, and how many more there are."""
    every = list(names)
    shown = ", ".join(every[:SHOWN_NAMES])
    return shown + (f" and {len(every) - SHOWN_NAMES} more" if len(every) > SHOWN_NAMES else "")


def _read_index(index: Path) -> dict[str, str]:
    try:
        placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        whole = all(isinstance(name, str) and Path(file).name == file for name, file in placed.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} is no index of shards ({error}); download it again", 1) from None
    if not whole:
        raise UserError(f"{index} names a file outside of its folder; download it again", 1)
    return dict(placed)


def _file_headers(path: Path) -> dict[str, TensorHeader]:
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(LONGEST_HEADER, size - 8):
                raise UserError(f"{path} is cut off within its header, or no safetensors file; download it again", 1)
            header = json.loads(file.read(length))
        tensors = {
            name: (TensorHeader(path, tuple(entry["shape"]), entry["dtype"], end - start), 8 + length + end)
            for name, entry in header.items()
            if name != "__metadata__"
            for start, end in [entry["data_offsets"]]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is no safetensors file ({error}); download it again", 1) from None
    lost = [name for name, (_, end) in tensors.items() if end > size]
    if lost:
        raise UserError(f"{path} is cut off after {size:,} bytes, which loses {listed(lost)}; download it again", 1)
    return {name: header for name, (header, _) in tensors.items()}
