"""The verdicts: each judge reproduces, refutes and abstains as its rule says, and decides nothing on too little."""

from types import SimpleNamespace
from typing import Any

import pytest
from infinitevl_bench.errors import UserError
from infinitevl_bench.reports.artifacts import ARTIFACTS
from infinitevl_bench.reports.benchmark_tables import HELD_BACK
from infinitevl_bench.reports.claims import CLAIMS, STATUSES, contrast, judge, judge_all
from infinitevl_bench.reports.estimates import interval_of_mean
from infinitevl_bench.reports.verdicts import counted, interval_text, lacking, verdicts_markdown

from .claim_cases import CASES, HYBRID, SCORED, TRANSFORMER, averages, latency, verdict_on


@pytest.mark.parametrize("name", CLAIMS)
def test_without_measurements_there_is_no_verdict(name: str) -> None:
    verdict = verdict_on(name, [])
    assert verdict.status == "no data"
    assert not verdict.decided
    assert verdict.runs == ()
    assert lacking(verdict)
    assert judge(name, []).status == "no data"


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_says_where_it_is_shown_and_by_what_rule(name: str) -> None:
    claim = CLAIMS[name]
    assert set(claim.artifact.split(", ")) <= set(ARTIFACTS)
    assert len(claim.rule) > 80
    assert claim.command is None or claim.command.startswith("infinitevl-bench ")


def test_every_claim_has_its_cases() -> None:
    assert set(CASES) == set(CLAIMS)


@pytest.mark.parametrize(("name", "status"), [(name, status) for name, cases in CASES.items() for status in cases])
def test_a_judge_follows_its_rule(name: str, status: str, make: SimpleNamespace) -> None:
    records = CASES[name][status](make)
    verdict = verdict_on(name, records)
    assert verdict.status == status, verdict
    assert verdict.status in STATUSES
    assert verdict.decided == (status != "inconclusive")
    assert verdict.runs
    assert verdict.effect or verdict.missing
    assert bool(lacking(verdict)) == (not verdict.decided)
    assert verdict_on(name, records[::-1]) == verdict


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize("case", ["reproduced at small scale", "not reproduced"])
def test_tiny_cells_and_few_seeds_decide_nothing(name: str, case: str, make: SimpleNamespace) -> None:
    tiny = verdict_on(name, CASES[name][case](make, scale="tiny"))
    assert tiny.status == "inconclusive"
    assert any("tiny" in reason for reason in tiny.missing)
    few = verdict_on(name, CASES[name][case](make, seeds=4))
    assert few.status == "inconclusive"
    assert any("5 seeds" in reason for reason in few.missing)


@pytest.mark.parametrize("name", SCORED)
def test_only_the_full_size_on_official_data_reproduces_in_full(name: str, make: SimpleNamespace) -> None:
    case = CASES[name]["reproduced at small scale"]
    small = verdict_on(name, case(make, scale="infinitevl-4b"))
    assert small.status == "reproduced at small scale"
    assert verdict_on(name, case(make, scale="infinitevl-4b", split="official")).status == "reproduced"


@pytest.mark.parametrize("name", ["C4", "C5", "C6", "C8"])
def test_speed_of_other_sizes_or_mixers_decides_nothing(name: str, make: SimpleNamespace) -> None:
    case = CASES[name]["reproduced"](make)
    assert verdict_on(name, [r.model_copy(update={"model": "small"}) for r in case]).status == "no data"
    other = [r.model_copy(update={"mixer": "gla"}) if r.model == HYBRID else r for r in case]
    assert not verdict_on(name, other).decided


def test_models_on_different_devices_are_not_compared(make: SimpleNamespace) -> None:
    case = [r.model_copy(update={"device": r.model}) for r in CASES["C8"]["reproduced"](make)]
    assert verdict_on("C8", case).status == "inconclusive"


def test_the_protocol_as_published_does_not_decide(make: SimpleNamespace) -> None:
    matched, published = latency(10.0, slope=0.0001)(make), latency(10.0, slope=0.00045)(make)
    eager = [r.model_copy(update={"extra": {"protocol": "as-published"}}) for r in published]
    verdict = verdict_on("C4", matched + eager)
    assert verdict.status == "not reproduced"
    assert "as-published: " in verdict.effect
    assert verdict_on("C4", eager).status == "inconclusive"


def test_a_transformer_out_of_memory_has_fallen(make: SimpleNamespace) -> None:
    hybrid = make.curve(HYBRID, "streaming_fps", "frames/s", "frames", {5: 40.0, 800: 40.0})
    dead = make.curve(TRANSFORMER, "streaming_fps", "frames/s", "frames", {250: 0.0}, extra={"status": "out_of_memory"})
    assert verdict_on("C5", hybrid + dead).status == "reproduced"


@pytest.mark.parametrize("change", [{"split": "synthetic"}, {"extra": {"weights": "random"}}], ids=str)
def test_neither_synthetic_scores_nor_random_weights_make_official_averages(
    change: dict[str, Any], make: SimpleNamespace
) -> None:
    assert verdict_on("C9", averages(rich=69.0, general=71.0, **change)(make)).status == "no data"


def test_held_back_splits_are_not_asked_for_and_hub_names_are_known(make: SimpleNamespace) -> None:
    hub = {HYBRID: "hustvl/InfiniteVL", TRANSFORMER: "Qwen2.5-VL-3B-Instruct"}
    records = [r.model_copy(update={"model": hub[r.model]}) for r in averages(rich=69.0, general=71.0)(make)]
    assert verdict_on("C9", records).status == "reproduced"
    lacking_one = verdict_on("C9", [r for r in records if r.benchmark != "DocVQA_VAL"])
    assert {one.partition(" on ")[2] for one in lacking_one.missing} == {"DocVQA_VAL"}
    assert not any(name in reason for name in HELD_BACK for reason in lacking_one.missing)


def test_an_average_at_its_threshold_is_inconclusive(make: SimpleNamespace) -> None:
    assert verdict_on("C9", averages(rich=68.2, general=71.0)(make)).status == "inconclusive"


def test_one_seed_with_intervals_over_samples_suffices_on_official_data(make: SimpleNamespace) -> None:
    means = {"long": (60.0, 60.0), "short": (60.0, 40.0), "control": (60.0, 45.0)}
    records = [
        record
        for benchmark in ("Video-MME", "LongVideoBench")
        for stage, both in means.items()
        for frames_, mean in zip((32, 1024), both, strict=True)
        for record in make.framed(
            {(stage, frames_): [mean]}, benchmark=benchmark, split="official", scale="infinitevl-4b",
            ci_low=mean - 0.5, ci_high=mean + 0.5,
        )
    ]  # fmt: skip
    assert verdict_on("C7", records).status == "reproduced"


def test_frames_are_compared_on_the_same_benchmarks(make: SimpleNamespace) -> None:
    case = CASES["C7"]["reproduced at small scale"]
    other = [r.model_copy(update={"benchmark": "LongVideoBench"}) for r in case(make) if r.frames == 32]
    here = [r for r in case(make) if r.frames == 1024]
    assert "one benchmark" in verdict_on("C7", here + other).missing[0]
    # A benchmark with one end only is left out, whatever its scores.
    extreme = [r.model_copy(update={"value": 99.0}) for r in other]
    assert verdict_on("C7", case(make) + extreme).effect == verdict_on("C7", case(make)).effect


def test_a_contrast_is_paired_over_shared_seeds() -> None:
    found = contrast("a − b", {0: 5.0, 1: 6.0, 2: 8.0, 7: 99.0}, {0: 4.0, 1: 4.0, 2: 5.0, 9: 0.0})
    assert found.seeds == 3
    assert found.mean == pytest.approx(2.0)
    assert (found.low, found.high) == pytest.approx(interval_of_mean([1.0, 2.0, 3.0]))
    assert found.text.startswith("a − b: +2.0 points [")


def test_verdicts_as_text(make: SimpleNamespace) -> None:
    verdicts = judge_all(CASES["C1"]["reproduced at small scale"](make))
    assert counted(verdicts).startswith("1 reproduced at small scale, ")
    text = verdicts_markdown(verdicts)
    for verdict in verdicts:
        assert f"## {verdict.claim} · {verdict.status}" in text
    assert interval_text(verdicts[0]) in text.replace("\\", "")
    assert interval_text(verdicts[-1]) == ""


def test_an_unknown_claim_is_named() -> None:
    with pytest.raises(UserError, match="unknown claim"):
        judge("C11", [])
