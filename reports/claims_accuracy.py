"""Judges of the claims on ratios and frames, and what all judges of trained cells share."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..records import Record
from .ablation_cells import BASELINES, DEFAULT_PATTERN, Arm, Block, ablation_records, blocks_of
from .benchmark_tables import family_of
from .claims import MINIMUM_SEEDS, Contrast, Finding, Status, contrast
from .estimates import Estimate, estimate, extra_text, group, run_ids, scale_rank, unique
from .learnt import benchmarks_that_count

TEXT_RICH = frozenset({"docvqa", "textvqa", "ocrbench", "chartqa"})
REASONING = frozenset({"mmmu", "mathvista"})  # neither text-rich nor general, though table 2 holds them
RATIO_PATTERNS = {"0": "L", "1/8": "SLLLLLLL", "1/4": "SLLL", "1/2": "SL"}
DECIDING_SCALE = scale_rank("small")
FULL_SCALE = "infinitevl-4b"
TINY = "cells of scale tiny show that the machine works and decide no claim"
FRAME_MARGIN = 2.0


@dataclass(frozen=True)
class Judged:
    """What one block of comparable cells says; ``missing`` is what keeps it from deciding."""

    status: Status
    effect: str
    interval: tuple[float, float] | None
    missing: tuple[str, ...]
    records: tuple[Record, ...]
    unit: str = "points"


def ratio_rises(records: Sequence[Record]) -> Finding:
    """C3: text-rich score against the share of sliding-window layers."""
    return first_deciding(records, _ratio_effects)


def first_deciding(records: Sequence[Record], judge_block: Callable[[Block], Judged | None]) -> Finding:
    """The verdict of the first complete block of a scale that may decide; else what the first block at all says.

    Only completeness chooses the block, never what it says.
    """
    judged = [
        (block, found) for block in blocks_of(ablation_records(records)) if (found := judge_block(block)) is not None
    ]
    if not judged:
        return Finding("no data")
    for block, found in judged:
        if scale_rank(block.scale) >= DECIDING_SCALE and not found.missing:
            status: Status = found.status
            if status == "reproduced" and not (block.scale == FULL_SCALE and block.split == "official"):
                status = "reproduced at small scale"
            return Finding(status, found.effect, found.interval, found.unit, found.missing, run_ids(found.records))
    block, found = judged[0]
    reasons = list(found.missing)
    if scale_rank(block.scale) < DECIDING_SCALE:
        reasons.insert(0, TINY if block.scale == "tiny" else f"scale {block.scale} decides no claim")
    return Finding("inconclusive", found.effect, found.interval, found.unit, tuple(reasons), run_ids(found.records))


def _ratio_effects(block: Block) -> Judged | None:
    arms = {ratio: main_arm(block, "gated_deltanet", pattern) for ratio, pattern in RATIO_PATTERNS.items()}
    present = {ratio: arm for ratio, arm in arms.items() if arm is not None}
    if not set(present) - {"1/4"}:
        return None  # ratio 1/4 alone is a cell of table 3 and says nothing of a ratio
    counted = benchmarks_that_count(block, present.values(), block.benchmarks)
    text_rich = [name for name in counted.benchmarks if family_of(name) in TEXT_RICH]
    general = [name for name in counted.benchmarks if family_of(name) not in TEXT_RICH | REASONING]
    missing = [f"ratio {ratio}" for ratio in arms if ratio not in present]
    missing += [] if text_rich else ["a text-rich benchmark that an arm learnt"]
    missing += [] if general else ["a general benchmark that an arm learnt"]
    used = scores_of(block, present.values(), block.benchmarks)
    if missing:
        return Judged("inconclusive", counted.text, None, tuple(missing), used)
    rich = {ratio: seed_means(block, arm, text_rich) for ratio, arm in present.items()}
    plain = {ratio: seed_means(block, arm, general) for ratio, arm in present.items()}
    shared = set.intersection(*(set(scores) for scores in (*rich.values(), *plain.values())))
    if len(shared) < MINIMUM_SEEDS:
        missing.append(f"{MINIMUM_SEEDS} seeds that all ratios share (found {len(shared)})")
    if len(shared) < 2:
        return Judged("inconclusive", counted.text, None, tuple(missing), used)

    def gain(scores: Mapping[str, Mapping[int, float]], start: str, end: str) -> dict[int, float]:
        return {seed: scores[end][seed] - scores[start][seed] for seed in shared}

    early = contrast("text-rich 1/8 − 0", rich["1/8"], rich["0"])
    bend = contrast("that gain minus the gain from 1/8 to 1/2", gain(rich, "0", "1/8"), gain(rich, "1/8", "1/2"))
    apart = contrast("text-rich minus general gain", gain(rich, "0", "1/2"), gain(plain, "0", "1/2"))
    ratios = list(RATIO_PATTERNS)
    steps = [contrast("", rich[after], rich[before]) for before, after in itertools.pairwise(ratios)]
    effects: list[Contrast] = [early, bend, apart]
    status: Status = "inconclusive"
    if not missing and all(one.low > 0 for one in effects) and not any(step.high < 0 for step in steps):
        status = "reproduced"
    elif not missing and (any(one.high < 0 for one in effects) or any(step.high < 0 for step in steps)):
        status = "not reproduced"
    effect = "; ".join([*(one.text for one in effects), *([counted.text] if counted.left_out else [])])
    return Judged(status, effect, (early.low, early.high), tuple(missing), used)


def main_arm(block: Block, mixer: str, pattern: str, variant: str | None = None) -> Arm | None:
    """The arm that stands for a mixer, at the chosen or most used learning rate.

    It is that of ``variant``; with None the one without a variant, if there is one.
    """
    arms = block.arms()
    found = [arm for arm in arms if arm.mixer == mixer and arm.pattern == pattern and variant in (None, arm.variant)]

    def place(arm: Arm) -> tuple[object, ...]:
        chosen = any(extra_text(record, "best_lr") == arm.learning_rate for record in arms[arm])
        return (
            bool(arm.variant),
            arm.variant,
            not chosen,
            -len({record.seed for record in arms[arm]}),
            arm.learning_rate,
        )

    return min(found, key=place, default=None)


def seed_means(block: Block, arm: Arm, benchmarks: Sequence[str]) -> dict[int, float]:
    """Mean over benchmarks by seed, for the seeds that have them all."""
    means = {}
    for seed, rows in group(block.arms()[arm], lambda r: r.seed).items():
        by_benchmark = group(rows, lambda r: r.benchmark)
        if seed is not None and set(benchmarks) <= set(by_benchmark):
            means[seed] = float(np.mean([np.mean([r.value for r in by_benchmark[name]]) for name in benchmarks]))
    return means


def scores_of(block: Block, arms: Iterable[Arm], benchmarks: Sequence[str]) -> tuple[Record, ...]:
    """The scores of some arms on some benchmarks."""
    scores = block.arms()
    return tuple(record for arm in arms for record in scores[arm] if record.benchmark in benchmarks)


def frames_kept(records: Sequence[Record]) -> Finding:
    """C7: accuracy at 1024 against 32 frames, with and without the long stage, and its control."""
    found = unique(r for r in records if r.source == "measured" and _is_infinitevl(r) and "depth" not in r.extra)
    rows = [record for record in found if record.metric == "score" and record.frames in (32, 1024)]
    if not rows:
        return Finding("no data")
    split = "official" if any(record.split == "official" for record in rows) else "synthetic"
    scale = max((r.scale or "" for r in rows if r.split == split), key=lambda name: (scale_rank(name), name))
    rows = [record for record in rows if record.split == split and (record.scale or "") == scale]
    stages = {stage: [r for r in rows if extra_text(r, "stage") == stage] for stage in ("long", "short", "control")}
    missing = [
        f"stage {stage} at {frames} frames"
        for stage, found in stages.items()
        for frames in (32, 1024)
        if not any(record.frames == frames for record in found)
    ]
    # A mean over other benchmarks here than there would be no difference of frames or stages.
    complete = [
        name
        for name in sorted({record.benchmark or "" for record in rows})
        if all(
            any(record.benchmark == name for record in _at(found, frames))
            for found in stages.values()
            for frames in (32, 1024)
        )
    ]
    if not complete:
        missing = missing or ["one benchmark with all stages at 32 and at 1024 frames"]
        return Finding("inconclusive", missing=tuple(missing), runs=run_ids(rows))
    floors = [r for r in found if r.metric in BASELINES and r.split == split and (r.scale or "") == scale]
    learnt = [name for name in complete if _is_learnt(name, _at(stages["short"], 32), floors)]
    if not learnt:
        missing.append("a task that the short stage has learnt: above its baselines at 32 frames")
        return Finding("inconclusive", missing=tuple(missing), runs=run_ids(rows))
    stages = {stage: [r for r in found if (r.benchmark or "") in learnt] for stage, found in stages.items()}
    kept, kept_seeds = _difference(_at(stages["long"], 1024), _at(stages["long"], 32))
    lost, lost_seeds = _difference(_at(stages["short"], 1024), _at(stages["short"], 32))
    control, control_seeds = _difference(_at(stages["long"], 1024), _at(stages["control"], 1024))
    seeds = min(kept_seeds, lost_seeds, control_seeds)
    if seeds < MINIMUM_SEEDS and split != "official":
        missing.append(f"{MINIMUM_SEEDS} seeds of each stage (found {seeds})")
    if kept is None or lost is None or control is None:
        missing.append("intervals, over samples or over seeds")
        return Finding("inconclusive", missing=tuple(missing), runs=run_ids(rows))
    if scale_rank(scale) < DECIDING_SCALE:
        missing.append(TINY if scale == "tiny" else f"scale {scale or 'unnamed'} decides no claim")
    effect = "; ".join(
        f"{label}: {(low + high) / 2:+.1f} points [{low:+.1f}, {high:+.1f}]"
        for label, (low, high) in (
            ("with the long stage, 1024 − 32 frames", kept),
            ("without it", lost),
            ("long stage − control at 1024", control),
        )
    )
    if left_out := sorted(set(complete) - set(learnt)):
        effect += f"; not learnt at 32 frames, so left out: {', '.join(left_out)}"
    status: Status = "inconclusive"
    if not missing and kept[0] > -FRAME_MARGIN and lost[1] < 0 and control[0] > 0:
        full = split == "official" and scale == FULL_SCALE
        status = "reproduced" if full else "reproduced at small scale"
    elif not missing and (kept[1] < -FRAME_MARGIN or lost[0] > 0):
        status = "not reproduced"
    return Finding(status, effect, kept, "points", tuple(missing), run_ids(rows))


def _is_infinitevl(record: Record) -> bool:
    """Whether a record is of the arm that the claim is about, or of a checkpoint that names no arm."""
    return record.mixer in (None, "gated_deltanet") and record.pattern in (None, DEFAULT_PATTERN)


def _is_learnt(benchmark: str, scores: Sequence[Record], floors: Sequence[Record]) -> bool:
    """Whether the interval of the scores lies above all baselines of the benchmark at as many frames."""
    own = estimate([record for record in scores if record.benchmark == benchmark])
    below = [r.value for r in floors if r.benchmark == benchmark and r.frames in {one.frames for one in scores}]
    return not below or (own.value if own.low is None else own.low) > max(below)


def _at(rows: Sequence[Record], frames: int) -> list[Record]:
    return [record for record in rows if record.frames == frames]


def _difference(first: Sequence[Record], second: Sequence[Record]) -> tuple[tuple[float, float] | None, int]:
    """95 % interval of first minus second, both over the same benchmarks, and the seeds that they share.

    Paired over seeds where they share several, else from the intervals of both, benchmark by benchmark.
    """
    means = [_means_by_seed(rows) for rows in (first, second)]
    shared = len(set(means[0]) & set(means[1]))
    if shared > 1:
        found = contrast("", means[0], means[1])
        return (found.low, found.high), shared
    intervals = []
    for name, same in group(first, lambda r: r.benchmark).items():
        interval = difference_interval(estimate(same), estimate([r for r in second if r.benchmark == name]))
        if interval is None:
            return None, shared
        intervals.append(interval)
    middle = float(np.mean(intervals))
    reach = math.hypot(*((high - low) / 2 for low, high in intervals)) / len(intervals)
    return (middle - reach, middle + reach), shared


def _means_by_seed(rows: Sequence[Record]) -> dict[int, float]:
    """Mean over benchmarks by seed, for the seeds that have all the benchmarks of these rows."""
    benchmarks = {record.benchmark for record in rows}
    return {
        seed: float(np.mean([np.mean([r.value for r in part]) for part in group(same, lambda r: r.benchmark).values()]))
        for seed, same in group(rows, lambda r: r.seed).items()
        if seed is not None and {record.benchmark for record in same} == benchmarks
    }


def difference_interval(first: Estimate, second: Estimate) -> tuple[float, float] | None:
    """95 % interval of a difference of two independent estimates; None where one has no interval."""
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return None
    reach = math.hypot((first.high - first.low) / 2, (second.high - second.low) / 2)
    return first.value - second.value - reach, first.value - second.value + reach
