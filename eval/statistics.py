"""How sure a score is, and how sure a difference: bootstrap intervals by a fixed seed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 9999
SEED = 0


def interval(samples: Sequence[float]) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of a mean; None for fewer than two samples."""
    if len(samples) < 2:
        return None
    return _bootstrap([np.asarray(samples, dtype=float)])


def stratified_interval(strata: Sequence[Sequence[float]], weight: float) -> tuple[float, float] | None:
    """95 % interval of ``weight`` times the sum of the strata's means; each stratum is resampled by itself.

    A stratum of one sample stays as it is; None where all are so.
    """
    single = sum(float(one[0]) for one in strata if len(one) == 1)
    several = [np.asarray(one, dtype=float) for one in strata if len(one) > 1]
    if not several:
        return None
    low, high = _bootstrap(several)
    return weight * (single + low), weight * (single + high)


class Difference(NamedTuple):
    """A paired comparison of two runs on the same samples.

    Attributes:
        n: Samples.
        first: Mean score of the first run, from 0 to 1.
        second: Mean score of the second run.
        difference: Second less first.
        low: Lower end of its 95 % interval.
        high: Upper end.
        better: Samples on which the second run scored higher.
        worse: Samples on which it scored lower.
        p_value: Of the exact sign test on those.
    """

    n: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    better: int
    worse: int
    p_value: float


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare the scores of two runs sample by sample; both lists in one order, of two samples at least."""
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape or len(a) < 2:
        raise ValueError(f"{len(a)} and {len(b)} samples cannot be compared in pairs")
    change = b - a
    low, high = _bootstrap([change])
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    p_value = float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return Difference(len(a), float(a.mean()), float(b.mean()), float(change.mean()), low, high, better, worse, p_value)


def _bootstrap(strata: list[np.ndarray]) -> tuple[float, float]:
    def total(*samples: np.ndarray, axis: int) -> np.ndarray:
        means = [sample.mean(axis=axis) for sample in samples]
        return np.sum(np.broadcast_arrays(*means), axis=0)

    found = stats.bootstrap(
        tuple(strata),
        total,
        n_resamples=RESAMPLES,
        batch=500,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)
