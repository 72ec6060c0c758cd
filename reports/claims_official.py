"""The judge of the claim on official benchmarks: averages of both tables against Qwen2.5-VL-3B, Cobra and MaTVLM.

Two of the paper's columns, DocVQA_TEST and MMBench_TEST_EN, have no public answers. The public splits of the same
benchmarks, DocVQA_VAL and MMBench_DEV_EN, stand in for them here: for both measured models alike, and named so.
"""

import math
from collections.abc import Mapping, Sequence

from ..records import Record
from .benchmark_tables import HELD_BACK, dataset_of, evaluation_records
from .claims import Finding, Status
from .efficiency import canonical_model
from .estimates import Estimate, estimate, extra_text, group, run_ids
from .published import AVERAGE_DIVISORS, HYBRID, TRANSFORMER, average_score, benchmark_columns, published_records

AVERAGE_MARGIN = 1.8
FAR_ABOVE = 10.0


def public_columns(table: str) -> list[str]:
    """The benchmarks of ``table1`` or ``table2``, public splits in the place of those without public answers."""
    return [HELD_BACK.get(name, name) for name in benchmark_columns(table)]


def official_averages(records: Sequence[Record]) -> Finding:
    """C9: averages over the official benchmarks, by their public splits, against Qwen2.5-VL-3B, Cobra and MaTVLM."""
    # A preset without its checkpoint has random weights: its scores are no model's.
    rows = [r for r in evaluation_records(records) if r.split == "official" and extra_text(r, "weights") != "random"]
    scores = {
        model: {
            name: estimate(same)
            for name, same in group([r for r in rows if canonical_model(r.model) == model], dataset_of).items()
        }
        for model in (HYBRID, TRANSFORMER)
    }
    if not any(scores.values()):
        return Finding("no data", missing=("official data: synthetic scores never count for this claim",))
    columns = {table: public_columns(table) for table in ("table1", "table2")}
    missing = tuple(
        f"{model} on {name}"
        for model, found in scores.items()
        for names in columns.values()
        for name in names
        if name not in found
    )
    runs = run_ids(r for r in rows if canonical_model(r.model) in scores)
    if missing:
        return Finding("inconclusive", missing=missing, runs=runs)
    general = _average_difference(scores[HYBRID], scores[TRANSFORMER], columns["table1"])
    rich = _average_difference(scores[HYBRID], scores[TRANSFORMER], columns["table2"])
    own = average_score({name: scores[HYBRID][name].value for name in columns["table2"]})
    rivals = {r.model: r.value for r in published_records() if r.artifact == "table2" and r.metric == "average"}
    margin = min(own - rivals["Cobra-3B"], own - rivals["MaTVLM-3B"])
    effect = (
        f"text-rich {rich[0]:+.1f} points [{rich[1]:+.1f}, {rich[2]:+.1f}]; general {general[0]:+.1f} "
        f"[{general[1]:+.1f}, {general[2]:+.1f}]; {margin:.1f} above the better of Cobra and MaTVLM (published)"
    )
    interval = rich[1], rich[2]
    unsure = rich[1] < -AVERAGE_MARGIN < rich[2] or general[1] < 0 < general[2]
    holds = rich[0] >= -AVERAGE_MARGIN and general[0] > 0 and margin >= FAR_ABOVE
    status: Status = "inconclusive" if unsure else "reproduced" if holds else "not reproduced"
    return Finding(status, effect, interval, "points", (), runs)


def _average_difference(
    first: Mapping[str, Estimate], second: Mapping[str, Estimate], names: Sequence[str]
) -> tuple[float, float, float]:
    """Difference of two averages and its 95 % interval; benchmarks without intervals count as exact."""
    difference = average_score({n: first[n].value for n in names}) - average_score({n: second[n].value for n in names})
    reaches = []
    for name in names:
        for one in (first[name], second[name]):
            if one.low is not None and one.high is not None:
                reaches.append((one.high - one.low) / 2 / AVERAGE_DIVISORS.get(name, 1.0))
    reach = math.hypot(*reaches) / len(names)
    return difference, difference - reach, difference + reach
