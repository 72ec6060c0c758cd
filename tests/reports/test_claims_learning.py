"""The judges of C1 to C3: which arm stands for a claim, what counts as learnt, and which block of cells decides."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from infinitevl_bench.records import Record

from .claim_cases import CASES, linear, mixers, seeded, verdict_on


def learning(records: list[Record], learnt: Callable[[Record], bool]) -> list[Record]:
    """What was learnt, a record for each score."""
    return [
        record.model_copy(update={"metric": "learnt", "value": 100.0 * learnt(record), "ci_low": None, "ci_high": None})
        for record in records
        if record.metric == "score"
    ]


def test_linear_attention_without_seeds_is_no_error(make: SimpleNamespace) -> None:
    records = [r.model_copy(update={"seed": None}) for r in linear(failing=5)(make)]
    assert verdict_on("C2", records).status == "inconclusive"


def test_gated_deltanet_must_learn_for_linear_attention_to_fail(make: SimpleNamespace) -> None:
    verdict = verdict_on("C2", linear(failing=5, delta=4.0)(make))
    assert verdict.status == "inconclusive"
    assert "learns" in verdict.missing[0]


def test_plain_linear_attention_with_its_parts_does_not_stand_for_the_bare_one(make: SimpleNamespace) -> None:
    whole = make.cells({("linear_attention", "SLLL"): [5.0] * 5, ("gated_deltanet", "SLLL"): [60.0] * 5})
    verdict = verdict_on("C2", whole)
    assert verdict.status == "inconclusive"
    assert "bare" in verdict.missing[0]


def test_gated_deltanet_must_beat_the_better_arm_of_gla(make: SimpleNamespace) -> None:
    published = mixers(60, 45, 50)(make)
    stronger = make.cells({("gla", "SLLL"): seeded(70, 5)})
    beaten = verdict_on("C1", published)
    assert "GLA as published" in beaten.effect
    assert "two arms" not in beaten.effect
    verdict = verdict_on("C1", published + stronger)
    assert verdict.status == "not reproduced"
    assert "GLA with short convolution: -" in verdict.effect
    assert "better of GLA's two arms" in verdict.effect
    weaker = make.cells({("gla", "SLLL"): seeded(20, 5)})
    verdict = verdict_on("C1", published + weaker)
    assert verdict.status == "reproduced at small scale"
    assert "GLA as published: +" in verdict.effect
    # The layer of the GLA paper has no convolution; that with one cannot stand for it.
    alone = verdict_on("C1", [r for r in published if r.mixer != "gla"] + weaker)
    assert alone.status == "inconclusive"
    assert "GLA as published" in alone.missing[0]


@pytest.mark.parametrize("name", ["C1", "C3"])
@pytest.mark.parametrize("status", ["reproduced at small scale", "not reproduced"])
def test_what_no_compared_arm_learnt_says_nothing(name: str, status: str, make: SimpleNamespace) -> None:
    records = CASES[name][status](make)
    every = verdict_on(name, records + learning(records, lambda r: True))
    assert every.status == status
    assert "left out" not in every.effect
    none = verdict_on(name, records + learning(records, lambda r: False))
    assert none.status == "inconclusive"
    assert "learnt" in none.missing[0]
    # Three seeds of five of one arm, whichever it is, are enough; two are not.
    for arm in {(r.mixer, r.pattern) for r in records}:
        for seeds, expected in ((3, status), (2, "inconclusive")):
            own = [r for r in records if (r.mixer, r.pattern) == arm and (r.seed or 0) < seeds]
            others = [r for r in records if r not in own]
            said = learning(own, lambda r: True) + learning(others, lambda r: False)
            assert verdict_on(name, records + said).status == expected


def test_a_benchmark_at_the_floor_does_not_dilute_a_mean(make: SimpleNamespace) -> None:
    records = [
        record.model_copy(update={"value": 3.0}) if record.benchmark == "TextVQA" else record
        for record in mixers(60, 45, 50, noise=0)(make)
        if record.metric == "score"
    ]
    # Without baselines and without records of learning nothing is known of a floor.
    assert "+6.7" in verdict_on("C1", records).effect
    verdict = verdict_on("C1", records + learning(records, lambda r: r.benchmark != "TextVQA"))
    assert verdict.status == "reproduced at small scale"
    assert "+10.0" in verdict.effect
    assert "left out, since no compared arm learnt it: TextVQA" in verdict.effect
    # The score itself stands in where learning was not recorded.
    blind = [r.model_copy(update={"metric": "blind", "value": 4.0}) for r in records]
    assert verdict_on("C1", records + blind).effect == verdict.effect
    # One benchmark of three decides nothing.
    alone = verdict_on("C1", records + learning(records, lambda r: r.benchmark == "OCRBench"))
    assert alone.status == "inconclusive"
    assert alone.missing[0].startswith("2 of DocVQA")


@pytest.mark.parametrize(
    ("learnt", "status"),
    [(0, "reproduced at small scale"), (5, "not reproduced"), (3, "inconclusive")],
)
def test_linear_attention_is_judged_by_what_it_learnt(learnt: int, status: str, make: SimpleNamespace) -> None:
    # The scores alone would say the opposite: all above blind, and all below.
    records = linear(failing=0 if learnt == 0 else 5)(make)
    said = learning(
        records,
        lambda r: r.mixer == "gated_deltanet" or (r.seed is not None and r.seed < learnt and r.benchmark == "TextVQA"),
    )
    verdict = verdict_on("C2", records + said)
    assert verdict.status == status
    assert f"{5 - learnt} of 5 seeds of bare linear attention learnt no text-rich benchmark" in verdict.effect
    assert verdict.unit == "of the seeds"
    # Records of one seed are missing: then the scores decide for all.
    part = [r for r in said if (r.mixer, r.seed) != ("linear_attention", 1)]
    assert "at or below 10.0" in verdict_on("C2", records + part).effect


def test_seeds_that_chose_a_rate_or_diverged_do_not_count_as_learnt(make: SimpleNamespace) -> None:
    records = linear(failing=0)(make)
    said = learning(records, lambda r: True)
    diverged = [r.model_copy(update={"extra": r.extra | {"status": "diverged"}}) for r in records]
    of_rates = [r.model_copy(update={"extra": r.extra | {"role": "validation"}, "run_id": "v"}) for r in said]
    failed = [r for r in diverged if r.mixer == "linear_attention"]
    kept = [r for r in records if r.mixer != "linear_attention"]
    assert verdict_on("C2", [*kept, *failed, *said]).status == "reproduced at small scale"
    assert "at or below" in verdict_on("C2", records + of_rates).effect


def test_completeness_alone_chooses_the_block(make: SimpleNamespace) -> None:
    against, favourable = mixers(45, 40, 60), mixers(60, 45, 50)
    records = [*against(make, steps=4000), *favourable(make, steps=100), *favourable(make, scale="tiny")]
    assert verdict_on("C1", records).status == "not reproduced"
    short_of_seeds = [*against(make, steps=4000, seeds=3), *favourable(make, steps=100)]
    assert verdict_on("C1", short_of_seeds).status == "reproduced at small scale"
