"""Look through a source before it is trained on: how long its samples are, which are broken, and why.

What is found is kept in a file beside the other caches, named by all that it depends on.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import atomic_write, locked, remove_leftovers
from .conversations import BrokenSampleError
from .encode import Limits, encoding_key, outline
from .sources import Source

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Inspection:
    """What was found in a source.

    Attributes:
        name: the source's.
        lengths: ``[samples]`` tokens; 0 for a broken sample.
        cut: samples that are longer than the context and lose their end.
        broken: place → why it cannot be trained on, with its file and line.
    """

    name: str
    lengths: np.ndarray
    cut: int
    broken: dict[int, str]

    @property
    def whole(self) -> np.ndarray:
        """Places of the samples that can be trained on."""
        return np.flatnonzero(self.lengths)

    def summary(self) -> dict[str, Any]:
        """The token-length report of the source, as numbers."""
        found = self.lengths[self.lengths > 0]
        at = {name: int(np.percentile(found, share)) for name, share in (("median", 50), ("p95", 95), ("longest", 100))}
        return {
            "source": self.name, "samples": len(found), "broken": len(self.broken), "cut": self.cut,
            "tokens": int(found.sum()), "mean": round(float(found.mean()), 1), **at,
        }  # fmt: skip


def inspect(
    source: Source, processor: Any, limits: Limits, cache: Path, most_broken: int, progress: Progress | None = None
) -> Inspection:
    """Look through a source, or read what an earlier look found.

    Args:
        source: any.
        processor: what will encode it.
        limits: what a sample may be.
        cache: folder for what is found.
        most_broken: broken samples that are passed over; one more ends it.
        progress: called with (done, all).

    Raises:
        UserError: with more broken samples than that, naming the first; or without a sample that can be used.
    """
    path = cache / f"lengths-{source.key}-{encoding_key(processor, limits)}.json"
    with locked(Path(f"{path}.lock")):
        found = _read(path, source)
        if found is None:
            remove_leftovers(cache, path.name)
            found = _look(source, processor, limits, most_broken, progress)
            kept = {"lengths": found.lengths.tolist(), "cut": found.cut, "broken": found.broken}
            atomic_write(path, json.dumps(kept))
    _refuse(found.broken, most_broken, source)
    if not len(found.whole):
        raise UserError(f"{source.name} holds no sample that can be trained on: {next(iter(found.broken.values()))}")
    return found


def _look(source: Source, processor: Any, limits: Limits, most_broken: int, progress: Progress | None) -> Inspection:
    lengths, cut, broken = np.zeros(len(source), dtype=np.int64), 0, {}
    for place in range(len(source)):
        try:
            found = outline(source[place], processor, limits)
            lengths[place] = len(found.ids)
            cut += found.cut
        except BrokenSampleError as error:
            broken[place] = str(error)
            _refuse(broken, most_broken, source)
        if progress is not None and place % 64 == 0:
            progress(place, len(source))
    return Inspection(source.name, lengths, cut, broken)


def _refuse(broken: dict[int, str], most: int, source: Source) -> None:
    if len(broken) > most:
        raise UserError(
            f"{source.name} has more than {most} broken samples, the first: {next(iter(broken.values()))}; mend them, "
            "or pass over more with --set max_broken=NUMBER"
        )


def _read(path: Path, source: Source) -> Inspection | None:
    """What an earlier look found; None if there was none, or its file is damaged."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        lengths = np.array(kept["lengths"], dtype=np.int64)
        broken = {int(place): str(why) for place, why in kept["broken"].items()}
        return Inspection(source.name, lengths, int(kept["cut"]), broken) if len(lengths) == len(source) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
