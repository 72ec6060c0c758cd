"""Which learning rates were tried for an arm before one was chosen."""

from collections.abc import Sequence

from ..records import Record
from .ablation_cells import Arm, Block, arm_of
from .estimates import extra_text, group

VALIDATION_SCORE = "validation_score"

Tried = dict[tuple[object, ...], list[float]]
"""Block and arm, but for its rate → the rates that were tried, rising."""


def tried_rates(records: Sequence[Record]) -> Tried:
    """The learning rates of the trainings that chose one, by what they chose it for."""
    choosing = [r for r in records if r.metric == VALIDATION_SCORE and r.frames is None and _rate(r) is not None]
    grouped = group(
        choosing,
        lambda r: (
            r.scale, r.split, extra_text(r, "recipe") or "", extra_text(r, "match") or "", r.steps, *_kind(arm_of(r))
        ),
    )  # fmt: skip
    return {key: sorted({rate for r in rows if (rate := _rate(r)) is not None}) for key, rows in grouped.items()}


def at_an_end(tried: Tried, block: Block, arm: Arm) -> bool:
    """Whether an arm's rate is the highest or lowest of several that were tried: a better one may lie beyond."""
    rates = tried.get((block.scale, block.split, block.recipe, block.match, block.steps, *_kind(arm)), [])
    return len(rates) > 1 and arm.learning_rate != "" and float(arm.learning_rate) in (rates[0], rates[-1])


def _kind(arm: Arm) -> tuple[str, str, str]:
    return arm.mixer, arm.pattern, arm.variant


def _rate(record: Record) -> float | None:
    said = extra_text(record, "learning_rate")
    return float(said) if said else None
