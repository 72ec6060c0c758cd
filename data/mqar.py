"""Multi-query associative recall (MQAR): pairs of a key and a value, and then every key again, once, to be answered.

    k₁ v₁ k₂ v₂ … k_P v_P  0 0 k₂ 0 k₁ 0 0 0 k_P 0 …
                               v₂  v₁        v_P         what is to be said there

Defined by Arora et al., "Zoology", arXiv 2312.04927, section 4, and sized by the configuration of figure 2 in the
repository HazyResearch/zoology: token 0 fills, keys are drawn from the lower half of the vocabulary and values from the
upper half, both without repetition within a sequence. After the pairs, every second place is one that can hold a query.
The queries take their places in the order of the pairs, one after the other and without repetition, place s of the S
there are with a probability proportional to s^(a−1): at a = 0.01 mostly soon after the pairs, with a long tail.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from ..errors import UserError
from .pages import SPLITS
from .seeds import hash_seed

FILLER = 0
"""What stands where there is neither a pair nor a query."""

ROWS = 2048
"""Sequences that are drawn at a time."""


class RecallSpec(BaseModel):
    """Which sequences a set holds.

    Attributes:
        length: tokens of a sequence, T.
        pairs: keys with their values, P; each key is queried once.
        examples: sequences.
        vocabulary: token numbers, the filler's, keys and values.
        power: a, of the places of the queries; 1 spreads them evenly.
        seed, split: sets that differ in either share no random numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: PositiveInt
    pairs: PositiveInt
    examples: PositiveInt
    vocabulary: PositiveInt = 8192
    power: PositiveFloat = 0.01
    seed: int = 0
    split: str = "train"

    @property
    def places(self) -> int:
        """Places that can hold a query, S."""
        return (self.length - 2 * self.pairs) // 2

    def check(self) -> None:
        """Refuse what makes no sequence.

        Raises:
            UserError: naming what does not fit.
        """
        if self.places < self.pairs:
            raise UserError(
                f"{self.pairs} pairs do not fit a sequence of {self.length} tokens: each takes 4, two as a pair and "
                f"two as a query; take {self.length // 4} pairs or fewer"
            )
        if self.vocabulary // 2 - 1 < self.pairs:
            raise UserError(
                f"a vocabulary of {self.vocabulary} has {max(0, self.vocabulary // 2 - 1)} keys and {self.pairs} pairs "
                f"need as many; take a vocabulary of {2 * self.pairs + 2} or more"
            )


class Sequences(NamedTuple):
    """N sequences of T tokens with P queries each, whose order is that of the pairs.

    Attributes:
        tokens: ``[N, T]``.
        queries: ``[N, P]``, columns of the queries.
        values: ``[N, P]``, what is to be said there.
    """

    tokens: NDArray[np.int32]
    queries: NDArray[np.int32]
    values: NDArray[np.int32]


def draw_sequences(spec: RecallSpec) -> Sequences:
    """Draw all sequences of a set: a function of the specification.

    Raises:
        UserError: for pairs that fit neither the sequence nor the vocabulary.
    """
    spec.check()
    parts = [_draw(spec, start, min(ROWS, spec.examples - start)) for start in range(0, spec.examples, ROWS)]
    return Sequences(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _draw(spec: RecallSpec, start: int, count: int) -> Sequences:
    rng = np.random.default_rng(hash_seed(spec.seed, SPLITS.index(spec.split), start))
    half, pairs = spec.vocabulary // 2, spec.pairs
    keys = 1 + _different(rng, count, pairs, half - 1)
    values = half + _different(rng, count, pairs, spec.vocabulary - half)
    queries = 2 * (pairs + _places(rng, count, spec))
    tokens = np.full((count, spec.length), FILLER, dtype=np.int32)
    tokens[:, 0 : 2 * pairs : 2], tokens[:, 1 : 2 * pairs : 2] = keys, values
    np.put_along_axis(tokens, queries, keys, axis=1)
    return Sequences(tokens, queries, values)


def _different(rng: np.random.Generator, count: int, pairs: int, below: int) -> NDArray[np.int32]:
    """``pairs`` different numbers below a bound in each of ``count`` rows, all sets and orders alike (Floyd, 1987)."""
    chosen = np.full((count, pairs), -1, dtype=np.int32)
    for column, last in enumerate(range(below - pairs, below)):
        drawn = rng.integers(0, last + 1, size=count, dtype=np.int32)
        taken = (chosen[:, :column] == drawn[:, None]).any(axis=1)
        chosen[:, column] = np.where(taken, last, drawn)
    return rng.permuted(chosen, axis=1)


def _places(rng: np.random.Generator, count: int, spec: RecallSpec) -> NDArray[np.int32]:
    """Places of the queries, ``[count, P]`` from 0, each drawn in proportion to the weights of those that are left.

    The largest of log-weights with Gumbel noise is a draw in proportion to the weights, the second largest one from
    those that are left, and so on (Yellott, 1977).
    """
    log_weights = (spec.power - 1) * np.log(np.arange(1, spec.places + 1))
    noisy = log_weights + rng.gumbel(size=(count, spec.places))
    return np.argsort(-noisy, axis=1)[:, : spec.pairs].astype(np.int32)
