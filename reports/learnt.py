"""Which seeds of an arm learnt a benchmark, how soon, and which benchmarks can say anything about arms.

Recall is learnt suddenly or not at all in the steps that are given, so scores over seeds lie in two heaps. A benchmark
that no arm learnt holds all of them at the floor: equal scores there are no evidence that arms are equal, and small
differences none that they differ.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from .ablation_cells import Arm, Block


@dataclass(frozen=True)
class Counted:
    """The benchmarks that count for a comparison, and those that no compared arm learnt in half of its seeds."""

    benchmarks: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def text(self) -> str:
        """What was left out, in words; empty if nothing was."""
        return f"left out, since no compared arm learnt it: {', '.join(self.left_out)}" if self.left_out else ""


def was_recorded(block: Block, arm: Arm, benchmarks: Sequence[str]) -> bool:
    """Whether every scored seed of the arm says of each of these benchmarks whether it learnt it."""
    said = {(record.seed, record.benchmark) for record in block.of(arm, "learnt")}
    seeds = {record.seed for record in block.of(arm, "score")}
    return bool(said) and all((seed, name) in said for seed in seeds for name in benchmarks)


def seeds_that_learnt(block: Block, arm: Arm, benchmark: str) -> dict[int, bool]:
    """By seed, whether the arm learnt the benchmark.

    A seed that diverged did not. Where learning was not recorded, a score above both baselines stands for it; without
    baselines, as on official data, any score does.
    """
    floor = block.floor(benchmark)
    scores = [r for r in block.of(arm, "score") if r.benchmark == benchmark]
    found = {r.seed: floor is None or r.value > floor for r in scores if r.seed is not None}
    said = {r.seed: r.value > 0 for r in block.of(arm, "learnt") if r.benchmark == benchmark and r.seed is not None}
    diverged = {r.seed: False for r in scores if r.seed is not None and r.extra.get("status") == "diverged"}
    return found | said | diverged


def share_that_learnt(block: Block, arm: Arm, benchmark: str) -> float | None:
    """The share of the arm's seeds that learnt the benchmark; None without a seed."""
    learnt = seeds_that_learnt(block, arm, benchmark)
    return sum(learnt.values()) / len(learnt) if learnt else None


def steps_to_threshold(block: Block, arm: Arm, benchmark: str) -> float | None:
    """Median of the steps that the seeds which learnt it took; None where none is recorded."""
    steps = [record.value for record in block.of(arm, "steps_to_threshold") if record.benchmark == benchmark]
    return float(median(steps)) if steps else None


def benchmarks_that_count(block: Block, arms: Iterable[Arm], benchmarks: Iterable[str]) -> Counted:
    """Divide benchmarks into those that one of the arms learnt in at least half of its seeds, and the others."""
    compared = list(arms)
    named = list(benchmarks)
    kept = [name for name in named if any((share_that_learnt(block, arm, name) or 0.0) >= 0.5 for arm in compared)]
    return Counted(tuple(kept), tuple(name for name in named if name not in kept))
