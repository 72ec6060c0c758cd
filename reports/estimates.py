"""From records to estimates: one cell of a table, with its 95 % interval and the runs behind it.

Several seeds give the mean over seeds with a t interval over seeds. One seed keeps the interval that its record
carries, which is over samples. Both say how sure we are, of different things, so an estimate names its kind.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeVar

import numpy as np

from ..errors import UserError
from ..records import Record, Scalar

SCALES = ("tiny", "small", "qwen2.5-vl-3b", "infinitevl-4b")
IntervalKind = Literal["seeds", "samples", "none"]
Key = TypeVar("Key")

# What tells two measurements of one run apart; a later record with the same key replaces the earlier.
_EXTRA_KEYS = ("protocol", "stage", "variant", "level", "depth", "category", "repetition")


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, in the unit of its records."""

    value: float
    low: float | None
    high: float | None
    interval: IntervalKind
    seeds: tuple[int, ...]
    samples: int | None
    unit: str
    runs: tuple[str, ...]
    diverged: int


def interval_of_mean(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % t interval of the mean of at least two values; a point where all are equal."""
    from scipy import stats

    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    mean = float(np.mean(values))
    return mean - reach, mean + reach


def estimate(records: Sequence[Record]) -> Estimate:
    """Summarise records of one quantity: mean over seeds, several runs of one seed first averaged among themselves.

    Raises:
        ValueError: without records.
        UserError: where units differ.
    """
    if not records:
        raise ValueError("nothing to summarise")
    units = {record.unit for record in records}
    if len(units) > 1:
        where = ", ".join(run_ids(records)) or "unnamed runs"
        raise UserError(
            f"one quantity ({records[0].metric} {records[0].benchmark or ''}) is recorded in several units "
            f"({', '.join(sorted(units))}) by {where}; remove the run that is wrong",
            1,
        )
    by_seed = group(records, lambda record: record.seed)
    # Sorted, because the last digit of a sum depends on its order, and the order of records says nothing.
    means = sorted(float(np.mean(sorted(record.value for record in same))) for same in by_seed.values())
    value = float(np.mean(means))
    unit = records[0].unit
    low: float | None = None
    high: float | None = None
    kind: IntervalKind = "none"
    # Seeds that agree to the last digit were scored on something that does not depend on the seed (a baseline, say):
    # what is unsure about such a number is the sample, not the seed.
    first = records[0]
    if len(set(means)) > 1:
        low, high = interval_of_mean(means)
        kind = "seeds"
        if unit == "%":  # a score cannot leave its range, though a t interval can
            low, high = max(low, 0.0), min(high, 100.0)
    elif len({record.value for record in records}) == 1 and first.ci_low is not None and first.ci_high is not None:
        low, high, kind = first.ci_low, first.ci_high, "samples"
    return Estimate(
        value=value,
        low=low,
        high=high,
        interval=kind,
        seeds=tuple(sorted(seed for seed in by_seed if seed is not None)),
        samples=min((record.n for record in records if record.n is not None), default=None),
        unit=unit,
        runs=run_ids(records),
        diverged=len({record.seed for record in records if record.extra.get("status") == "diverged"}),
    )


def unique(records: Iterable[Record]) -> list[Record]:
    """Drop repetitions: of records of one run with the same meaning the last is kept, in the place of the first."""
    kept: dict[tuple[Scalar, ...] | str, Record] = {}
    for record in records:
        kept[_identity(record)] = record
    return list(kept.values())


def _identity(record: Record) -> tuple[Scalar, ...] | str:
    if record.run_id is None:
        return record.model_dump_json()
    return (
        record.run_id,
        record.artifact,
        record.metric,
        record.unit,
        record.model,
        record.mixer,
        record.pattern,
        record.benchmark,
        record.split,
        record.frames,
        record.context,
        record.seed,
        record.scale,
        record.steps,
        *(record.extra.get(key) for key in _EXTRA_KEYS),
    )


def group(records: Iterable[Record], key: Callable[[Record], Key]) -> dict[Key, list[Record]]:
    """Records by key, keys in order of first appearance."""
    groups: defaultdict[Key, list[Record]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return dict(groups)


def run_ids(records: Iterable[Record]) -> tuple[str, ...]:
    """The runs behind some records, sorted, each once."""
    return tuple(sorted({record.run_id for record in records if record.run_id is not None}))


def scale_rank(scale: str | None) -> int:
    """Position of a scale from small to large; an unknown scale ranks below all known ones."""
    return SCALES.index(scale) if scale in SCALES else -1


def swa_ratio(pattern: str) -> Fraction | None:
    """Share of sliding-window layers in a pattern of ``S`` and ``L``; None where it holds full attention."""
    return Fraction(pattern.count("S"), len(pattern)) if pattern and set(pattern) <= set("SL") else None


def extra_text(record: Record, key: str) -> str | None:
    """A value of ``extra`` as text, None where it is not there."""
    value = record.extra.get(key)
    return None if value is None else str(value)
