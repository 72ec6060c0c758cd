"""Which samples share a sequence: packs of no more tokens than the context, in the order of the mixture.

First fit over a bounded number of open packs: a sample goes into the oldest pack that has room. When it fits nowhere
and too many are open, the oldest is closed and trained on: so every sample has its turn, and the order stays near the
mixture's.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

Place = tuple[int, int]
"""Source and place in it."""

OPEN_PACKS = 16


def packed(
    stream: Iterator[Place], length_of: Callable[[Place], int], context: int, open_packs: int = OPEN_PACKS
) -> Iterator[list[Place]]:
    """Yield packs without end, as functions of the stream alone.

    Args:
        stream: samples without end, none longer than the context.
        length_of: tokens of a sample.
        context: most tokens of a pack.
        open_packs: packs that are filled at the same time.
    """
    packs: list[tuple[int, list[Place]]] = []
    for place in stream:
        length = length_of(place)
        fit = next((number for number, (used, _) in enumerate(packs) if used + length <= context), None)
        if fit is not None:
            used, members = packs[fit]
            packs[fit] = (used + length, [*members, place])
            continue
        packs.append((length, [place]))
        if len(packs) > open_packs:
            yield packs.pop(0)[1]


class Plan:
    """The packs of every step, worked out as far as they were asked for; the same for the same stream."""

    def __init__(self, packs: Iterator[list[Place]], batch_size: int) -> None:
        self._packs = packs
        self._known: list[list[Place]] = []
        self.batch_size = batch_size

    def of_step(self, step: int) -> Sequence[list[Place]]:
        """The packs of a step."""
        stop = (step + 1) * self.batch_size
        self._known += islice(self._packs, max(0, stop - len(self._known)))
        return self._known[stop - self.batch_size : stop]


def steps_of_pass(packs: Iterator[list[Place]], samples: int, batch_size: int) -> int:
    """Steps that train on about as many samples as there are, at least one."""
    seen = count = 0
    while seen < samples:
        seen += len(next(packs))
        count += 1
    return max(1, round(count / batch_size))
