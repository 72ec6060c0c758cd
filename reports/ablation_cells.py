"""The trained cells of the ablations: which arm a record belongs to, and which cells may be compared.

Cells that differ in scale, split, recipe, matching, steps or scoring are no rows of one table; they form blocks of
their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from ..records import Record
from .estimates import Estimate, estimate, extra_text, group, scale_rank, swa_ratio, unique

MIXER_NAMES = {
    "linear_attention": "Linear attention", "mamba2": "Mamba-2", "gla": "GLA", "gated_deltanet": "Gated DeltaNet",
    "none": "No linear mixer", "deltanet": "DeltaNet", "kimi_delta_attention": "Kimi Delta Attention",
    "retnet": "RetNet", "hgrn2": "HGRN-2", "mamba1": "Mamba-1", "identity": "Identity",
}  # fmt: skip
VARIANT_NAMES = {"conv_size=0": "no convolution", "conv_size=4, gate=True, norm=True": "convolution, norm, gate"}
BASELINES = {"blind": "never sees the picture", "page_value": "names some value on the page"}
LEARNING = ("learnt", "steps_to_threshold")
DEFAULT_PATTERN = "SLLL"
LINEAR_PATTERN = "L"
CONTROL_PATTERNS = {"S": "Sliding window only", "F": "Full attention"}


@dataclass(frozen=True, order=True)
class Arm:
    """What one row trains: a mixer with its arguments in a layer pattern, at a learning rate ("" if not recorded)."""

    mixer: str
    pattern: str
    variant: str
    learning_rate: str

    @property
    def label(self) -> str:
        """The name of the row."""
        name = CONTROL_PATTERNS.get(self.pattern) or MIXER_NAMES.get(self.mixer, self.mixer)
        return f"{name} ({VARIANT_NAMES.get(self.variant, self.variant)})" if self.variant else name

    @property
    def ratio(self) -> Fraction | None:
        """Share of sliding-window layers, None with full attention."""
        return swa_ratio(self.pattern)


@dataclass(frozen=True)
class Block:
    """Cells that may be compared: everything equal but the arm and the seed."""

    scale: str
    split: str
    recipe: str
    steps: int | None
    records: tuple[Record, ...]
    scoring: str = ""
    match: str = ""

    @property
    def title(self) -> str:
        """What the cells have in common."""
        parts = [f"Scale {self.scale}", f"{self.split} data", f"recipe {self.recipe}" if self.recipe else ""]
        parts.append(f"match {self.match}" if self.match else "")
        parts.append(f"{self.scoring} answers" if self.scoring else "")
        parts.append(f"{self.steps:,} steps" if self.steps is not None else "")
        return ", ".join(part for part in parts if part)

    @property
    def benchmarks(self) -> list[str]:
        """Benchmarks with a score, sorted."""
        return sorted({r.benchmark for r in self.records if r.metric == "score" and r.benchmark is not None})

    def arms(self) -> dict[Arm, list[Record]]:
        """The scores of each arm."""
        return {arm: rows for (metric, arm), rows in self._grouped.items() if metric == "score"}

    def scores(self, arm: Arm) -> dict[str, Estimate]:
        """An arm's estimate on each benchmark that it was scored on."""
        return {name: estimate(rows) for name, rows in group(self.arms()[arm], lambda r: r.benchmark or "").items()}

    def of(self, arm: Arm, metric: str) -> list[Record]:
        """An arm's records of a metric."""
        return self._grouped.get((metric, arm), [])

    def baseline(self, metric: str, benchmark: str) -> Estimate | None:
        """A baseline's score: the highest over the arms that recorded one, which is the hardest to beat."""
        return self._baselines.get((metric, benchmark))

    def floor(self, benchmark: str) -> float | None:
        """The higher of the two baselines."""
        found = [self.baseline(metric, benchmark) for metric in BASELINES]
        return max((one.value for one in found if one is not None), default=None)

    @cached_property
    def _grouped(self) -> dict[tuple[str, Arm], list[Record]]:
        return group(self.records, lambda r: (r.metric, arm_of(r)))

    @cached_property
    def _baselines(self) -> dict[tuple[str, str], Estimate]:
        found: dict[tuple[str, str], list[Estimate]] = {}
        for (metric, _), rows in self._grouped.items():
            for benchmark, same in group(rows, lambda r: r.benchmark or "").items() if metric in BASELINES else ():
                found.setdefault((metric, benchmark), []).append(estimate(same))
        return {place: max(some, key=lambda one: (one.value, one.runs)) for place, some in found.items()}


def arm_of(record: Record) -> Arm:
    """The arm that a record of a cell belongs to."""
    arguments = {key.removeprefix("mixer_"): value for key, value in record.extra.items() if key.startswith("mixer_")}
    variant = extra_text(record, "variant") or ", ".join(f"{key}={arguments[key]}" for key in sorted(arguments))
    return Arm(record.mixer or "none", record.pattern or "", variant, extra_text(record, "learning_rate") or "")


def conditions_of(record: Record) -> str:
    """Recipe and matching of a cell in words, without which its arm is not comparable; "" where none was recorded."""
    named = {name: extra_text(record, name) for name in ("recipe", "match")}
    return ", ".join(f"{name} {value}" for name, value in named.items() if value)


def trained_name(record: Record) -> str:
    """What a record of videos calls its model: its name, or of a study the arm and the scale."""
    if record.pattern is None:
        return record.model
    arm = arm_of(record)
    pattern = "" if arm.pattern in CONTROL_PATTERNS else f" {arm.pattern}"
    return f"{arm.label}{pattern}, {f'scale {record.scale}' if record.scale else record.model}"


def ablation_records(records: Sequence[Record]) -> list[Record]:
    """The measured scores and baselines of trained cells, and when they learnt, whatever artifact they are for.

    Cells that only chose a learning rate are none of them.
    """
    metrics = {"score", *BASELINES, *LEARNING}
    return unique(
        r
        for r in records
        if r.source == "measured"
        and r.metric in metrics
        and r.pattern
        and r.benchmark
        and r.frames is None
        and r.extra.get("role") != "validation"
        and r.artifact in ("ablation", "table3", "table4")
    )


def blocks_of(records: Sequence[Record]) -> list[Block]:
    """Comparable cells, the largest scale and the longest training first."""
    groups = group(
        records,
        lambda r: (
            r.scale or "unnamed",
            r.split or "unnamed",
            extra_text(r, "recipe") or "",
            r.steps,
            extra_text(r, "scoring") or "",
            extra_text(r, "match") or "",
        ),
    )
    blocks = [
        Block(scale, split, recipe, steps, tuple(rows), scoring, match)
        for (scale, split, recipe, steps, scoring, match), rows in groups.items()
    ]
    blocks = [block for block in blocks if block.benchmarks]
    return sorted(blocks, key=lambda b: (-scale_rank(b.scale), b.scale, b.split, b.recipe, -(b.steps or 0)))
