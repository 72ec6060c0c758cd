"""Judges of the claims on token mixers: which is ahead, and which does not converge."""

from collections.abc import Sequence

import numpy as np

from ..records import Record
from .ablation_cells import DEFAULT_PATTERN, MIXER_NAMES, Arm, Block
from .benchmark_tables import family_of
from .claims import MINIMUM_SEEDS, Finding, Status, contrast
from .claims_accuracy import TEXT_RICH, Judged, first_deciding, main_arm, scores_of, seed_means
from .learnt import benchmarks_that_count, seeds_that_learnt, was_recorded

CLAIM_BENCHMARKS = ("DocVQA", "TextVQA", "OCRBench")
FEWEST_BENCHMARKS = 2
"""Of those, how many must count: a claim on three is not decided by one."""

GLA_AS_PUBLISHED = "conv_size=0"
"""The variant of GLA without a short convolution: the layer of its paper (arXiv 2312.06635) has none."""


def mixers_ranked(records: Sequence[Record]) -> Finding:
    """C1: Gated DeltaNet against Mamba-2 and the better of GLA's two arms."""
    return first_deciding(records, _rank_mixers)


def linear_attention_converges(records: Sequence[Record]) -> Finding:
    """C2: the share of seeds in which bare linear attention learns nothing."""
    return first_deciding(records, _share_unconverged)


def _rank_mixers(block: Block) -> Judged | None:
    asked = {
        "Gated DeltaNet": main_arm(block, "gated_deltanet", DEFAULT_PATTERN),
        "Mamba-2": main_arm(block, "mamba2", DEFAULT_PATTERN),
        "GLA as published": main_arm(block, "gla", DEFAULT_PATTERN, GLA_AS_PUBLISHED),
        "GLA with short convolution": main_arm(block, "gla", DEFAULT_PATTERN, ""),
    }
    present = {name: arm for name, arm in asked.items() if arm is not None}
    if not present:
        return None
    missing = [f"{name} with pattern SLLL" for name in list(asked)[:3] if name not in present]
    if lacking := [name for name in CLAIM_BENCHMARKS if name not in block.benchmarks]:
        missing.append(f"scores on {', '.join(lacking)}")
    used = scores_of(block, present.values(), CLAIM_BENCHMARKS)
    if missing:
        return Judged("inconclusive", "", None, tuple(missing), used)
    counted = benchmarks_that_count(block, present.values(), CLAIM_BENCHMARKS)
    names = counted.benchmarks
    if len(names) < FEWEST_BENCHMARKS:
        missing.append(f"{FEWEST_BENCHMARKS} of {', '.join(CLAIM_BENCHMARKS)} that a compared arm learnt")
    # Without any benchmark that counts, all three show how far the arms came.
    names = names or CLAIM_BENCHMARKS
    means = {name: seed_means(block, arm, names) for name, arm in present.items()}
    shared = set.intersection(*(set(scores) for scores in means.values()))
    if len(shared) < MINIMUM_SEEDS:
        missing.append(f"{MINIMUM_SEEDS} seeds that all compared arms share (found {len(shared)})")
    if len(shared) < 2:
        return Judged("inconclusive", counted.text, None, tuple(missing), used)
    # The harder rival of the two, whichever way that turns the verdict.
    gla = max(list(present)[2:], key=lambda name: float(np.mean([means[name][seed] for seed in shared])))
    rivals = ("Mamba-2", gla)
    overall = [contrast(f"Gated DeltaNet − {rival}", means["Gated DeltaNet"], means[rival]) for rival in rivals]
    ours = {name: seed_means(block, present["Gated DeltaNet"], [name]) for name in names}
    single = [
        contrast(name, ours[name], seed_means(block, present[rival], [name])) for rival in rivals for name in names
    ]
    worst = min(overall, key=lambda one: one.mean)
    status: Status = "inconclusive"
    if not missing and all(one.low > 0 for one in overall) and not any(one.high < 0 for one in single):
        status = "reproduced"
    elif not missing and any(one.high < 0 for one in overall):
        status = "not reproduced"
    effect = "; ".join(one.text for one in overall)
    if "GLA with short convolution" in present:
        effect += " (the better of GLA's two arms)"
    effect += f"; {counted.text}" if counted.left_out else ""
    return Judged(status, effect, (worst.low, worst.high), tuple(missing), used)


def _share_unconverged(block: Block) -> Judged | None:
    candidates = [arm for arm in block.arms() if arm.mixer == "linear_attention" and arm.pattern == DEFAULT_PATTERN]
    if not candidates:
        return None
    benchmarks = [name for name in block.benchmarks if family_of(name) in TEXT_RICH]
    bare = main_arm(block, "linear_attention", DEFAULT_PATTERN, "bare")
    arm = bare or sorted(candidates)[0]
    control = main_arm(block, "gated_deltanet", DEFAULT_PATTERN)
    missing = [] if bare else ["linear attention without convolution, norm and gate (variant bare)"]
    if control is None:
        missing.append("Gated DeltaNet under the same recipe")
    compared = [arm, *([control] if control else [])]
    used = scores_of(block, compared, benchmarks)
    recorded = bool(benchmarks) and all(was_recorded(block, one, benchmarks) for one in compared)
    blind = {name: found.value for name in benchmarks if (found := block.baseline("blind", name)) is not None}
    if not benchmarks or (not recorded and set(blind) != set(benchmarks)):
        missing.append("text-rich scores, with what was learnt or with the baseline that never sees the picture")
        return Judged("inconclusive", "", None, tuple(missing), used)
    floor = None if recorded else float(np.mean(list(blind.values())))
    failed = _unconverged(block, arm, benchmarks, floor)
    if not failed:
        missing.append(f"{MINIMUM_SEEDS} seeds with all text-rich scores (found 0)")
        return Judged("inconclusive", "", None, tuple(missing), used)
    low, high = _wilson(sum(failed.values()), len(failed))
    name = "bare linear attention" if bare else arm.label
    how = "learnt no text-rich benchmark" if floor is None else f"at or below {floor:.1f}"
    effect = (
        f"{sum(failed.values())} of {len(failed)} seeds of {name} {how} or diverged "
        f"(share {sum(failed.values()) / len(failed):.2f} [{low:.2f}, {high:.2f}])"
    )
    if len(failed) < MINIMUM_SEEDS:
        missing.append(f"{MINIMUM_SEEDS} seeds (found {len(failed)})")
    control_learns = False
    if control is not None:
        others = _unconverged(block, control, benchmarks, floor)
        control_learns = sum(others.values()) * 2 < len(others)
        effect += f"; {MIXER_NAMES[control.mixer]} {sum(others.values())} of {len(others)}"
    status: Status = "inconclusive"
    if not missing and low > 0.5 and control_learns:
        status = "reproduced"
    elif not missing and high < 0.5:
        status = "not reproduced"
    elif not missing and not control_learns:
        missing.append("a recipe under which Gated DeltaNet itself learns")
    return Judged(status, effect, (low, high), tuple(missing), used, "of the seeds")


def _unconverged(block: Block, arm: Arm, benchmarks: Sequence[str], floor: float | None) -> dict[int, bool]:
    """By seed, whether the arm diverged or learnt nothing: no benchmark by its records, or no score above a floor."""
    rows = [record for record in block.arms()[arm] if record.seed is not None]
    diverged = {record.seed: True for record in rows if record.extra.get("status") == "diverged"}
    if floor is not None:
        found = {seed: value <= floor for seed, value in seed_means(block, arm, benchmarks).items()}
    else:
        learnt = [seeds_that_learnt(block, arm, name) for name in benchmarks]
        found = {seed: not any(one[seed] for one in learnt) for seed in set.intersection(*map(set, learnt))}
    return found | {seed: True for seed in diverged if seed is not None}


def _wilson(hits: int, count: int) -> tuple[float, float]:
    from scipy import stats

    interval = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
