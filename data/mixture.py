"""In which order the samples of several sources are trained on: by weight between them, shuffled within each.

The order is endless and a function of the seed: each source is gone through whole, in a new order every time, and the
sources take turns so that after any number of samples each has had its share to within one.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import UserError
from .seeds import hash_seed


def mixed(places: Sequence[np.ndarray], weights: Sequence[float], seed: int) -> Iterator[tuple[int, int]]:
    """Yield ``(source, place)`` without end.

    Args:
        places: of each source, which of its samples are used.
        weights: of each source, its share of the samples.
        seed: of the order.
    """
    shares = np.asarray(weights, dtype=float) / sum(weights)
    drawn = np.zeros(len(places))
    streams = [_shuffled(own, seed, number) for number, own in enumerate(places)]
    for total in range(1, 2**62):
        # Whoever is furthest behind its share.
        source = int(np.argmax(shares * total - drawn))
        drawn[source] += 1
        yield source, next(streams[source])


def _shuffled(places: np.ndarray, seed: int, source: int) -> Iterator[int]:
    for epoch in range(2**62):
        order = np.random.default_rng(hash_seed(seed, source, epoch)).permutation(places)
        yield from order.tolist()


def check_weights(weights: Sequence[float | None], sizes: Sequence[int]) -> list[float]:
    """The weights of sources: as given, or in proportion to their sizes where none is.

    Raises:
        UserError: if some have one and others none, or one is not positive.
    """
    given = [weight for weight in weights if weight is not None]
    if not given:
        return [float(size) for size in sizes]
    if len(given) < len(weights):
        raise UserError("some sources have a weight and some none; give all of them one, or none")
    if any(not 0 < weight < float("inf") for weight in given):
        raise UserError(f"weights are positive numbers, not {min(given):g}; leave out a source that is not wanted")
    return given
