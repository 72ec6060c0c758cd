"""The verdicts: each judge reproduces, refutes and abstains as its rule says, and decides nothing on too little."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from infinitevl_bench.errors import UserError
from infinitevl_bench.records import Record
from infinitevl_bench.reports.artifacts import ARTIFACTS
from infinitevl_bench.reports.benchmark_tables import HELD_BACK
from infinitevl_bench.reports.claims import CLAIMS, STATUSES, Verdict, contrast, judge, judge_all
from infinitevl_bench.reports.claims_official import public_columns
from infinitevl_bench.reports.estimates import interval_of_mean
from infinitevl_bench.reports.published import published_records
from infinitevl_bench.reports.verdicts import counted, interval_text, lacking, verdicts_markdown

HYBRID, TRANSFORMER = "infinitevl-4b", "qwen2.5-vl-3b"
BARE_GLA = {"variant": "conv_size=0"}
NOISE = (0.0, 1.5, -1.0, 0.7, -0.4, 0.2, 0.9)


def seeded(mean: float, seeds: int, noise: float = 1.0) -> list[float]:
    """Scores around a mean, another order of the same noise for another mean, so that pairs differ."""
    turn = int(mean) % len(NOISE)
    return [mean + noise * NOISE[(seed + turn) % len(NOISE)] for seed in range(seeds)]


def mixers(delta: float, mamba: float, gla: float, noise: float = 1.0) -> Callable[..., list[Record]]:
    def build(make: SimpleNamespace, seeds: int = 5, **options: Any) -> list[Record]:
        means = {"gated_deltanet": delta, "mamba2": mamba}
        return [
            *make.cells({(name, "SLLL"): seeded(mean, seeds, noise) for name, mean in means.items()}, **options),
            *make.cells({("gla", "SLLL"): seeded(gla, seeds, noise)}, extra=BARE_GLA, **options),
        ]

    return build


def learning(records: list[Record], learnt: Callable[[Record], bool]) -> list[Record]:
    """What was learnt, a record for each score."""
    return [
        record.model_copy(update={"metric": "learnt", "value": 100.0 * learnt(record), "ci_low": None, "ci_high": None})
        for record in records
        if record.metric == "score"
    ]


def linear(failing: int, delta: float = 60.0) -> Callable[..., list[Record]]:
    def build(make: SimpleNamespace, seeds: int = 5, **options: Any) -> list[Record]:
        bare = [5.0] * failing + [50.0] * (seeds - failing)
        return [
            *make.cells({("linear_attention", "SLLL"): bare[:seeds]}, extra={"variant": "bare"}, **options),
            *make.cells({("gated_deltanet", "SLLL"): seeded(delta, seeds)}, **options),
        ]

    return build


def ratios(rich: tuple[float, ...], general: tuple[float, ...], noise: float = 1.0) -> Callable[..., list[Record]]:
    def build(make: SimpleNamespace, seeds: int = 5, **options: Any) -> list[Record]:
        records = []
        for benchmark, means in (("DocVQA", rich), ("RealWorldQA", general)):
            scores = {
                ("gated_deltanet", pattern): seeded(mean, seeds, noise)
                for pattern, mean in zip(("L", "SLLLLLLL", "SLLL", "SL"), means, strict=True)
            }
            records += make.cells(scores, benchmarks=(benchmark,), **options)
        return records

    return build


def frames(
    long: tuple[float, float], short: tuple[float, float], control: float, noise: float = 1.0
) -> Callable[..., list[Record]]:
    def build(make: SimpleNamespace, seeds: int = 5, **options: Any) -> list[Record]:
        means = {
            ("long", 32): long[0], ("long", 1024): long[1], ("short", 32): short[0], ("short", 1024): short[1],
            ("control", 32): short[0], ("control", 1024): control,
        }  # fmt: skip
        return make.framed({key: seeded(mean, seeds, noise) for key, mean in means.items()}, **options)

    return build


def latency(hybrid_at_end: float, slope: float, last: int = 360_000) -> Callable[..., list[Record]]:
    def build(make: SimpleNamespace) -> list[Record]:
        at = [context for context in (4096, 62_000, 262_144, 360_000) if context <= last]
        hybrid = dict.fromkeys(at, 10.0) | {at[-1]: hybrid_at_end}
        other = {context: 10.0 + slope * context for context in at}
        return [
            *make.curve(HYBRID, "latency_ms", "ms", "context", hybrid),
            *make.curve(TRANSFORMER, "latency_ms", "ms", "context", other),
        ]

    return build


def streaming(hybrid_at_end: float, transformer_at_290: float, last: int = 800) -> Callable[..., list[Record]]:
    def build(make: SimpleNamespace) -> list[Record]:
        return [
            *make.curve(HYBRID, "streaming_fps", "frames/s", "frames", {5: 40.0, last: hybrid_at_end}),
            *make.curve(TRANSFORMER, "streaming_fps", "frames/s", "frames", {5: 9.0, 290: transformer_at_290}),
        ]

    return build


def memory(hybrid: float, peak_at_end: float | None) -> Callable[..., list[Record]]:
    def build(make: SimpleNamespace) -> list[Record]:
        peak = {8192: 9.0} | ({} if peak_at_end is None else {262_144: peak_at_end})
        return [
            *make.curve(HYBRID, "cache_elements", "elements", "context", {32768: hybrid}),
            *make.curve(TRANSFORMER, "cache_elements", "elements", "context", {32768: 603_979_776.0}),
            *make.curve(HYBRID, "peak_memory_gb", "GB", "context", peak),
        ]

    return build


def throughput(ours: float, reach: float) -> Callable[..., list[Record]]:
    def build(make: SimpleNamespace) -> list[Record]:
        return [
            *make.curve(HYBRID, "training_tokens_per_day", "tokens/day", "context", {8192: ours},
                        ci_low=ours - reach, ci_high=ours + reach),
            *make.curve(TRANSFORMER, "training_tokens_per_day", "tokens/day", "context", {8192: 1e9}),
        ]  # fmt: skip

    return build


def averages(rich: float, general: float, leave: str = "", **changes: Any) -> Callable[..., list[Record]]:
    def build(make: SimpleNamespace) -> list[Record]:
        records = []
        for table, ours in (("table1", general), ("table2", rich)):
            for name in (column for column in public_columns(table) if column != leave):
                kind = {"unit": "points"} if name == "MME" else {}
                times = 25.0 if name == "MME" else 1.0
                for model, value in ((HYBRID, ours), (TRANSFORMER, 70.0)):
                    records.append(make.evaluated(model, name, value * times, artifact=table, **kind, **changes))
        return records

    return build


GROWN = (30.0, 50.0, 54.0, 57.0)
CASES: dict[str, dict[str, Callable[..., list[Record]]]] = {
    "C1": {
        "reproduced at small scale": mixers(60, 45, 50),
        "not reproduced": mixers(45, 40, 60),
        "inconclusive": mixers(50, 49, 50, noise=9),
    },
    "C2": {
        "reproduced at small scale": linear(failing=5),
        "not reproduced": linear(failing=0),
        "inconclusive": linear(failing=3),
    },
    "C3": {
        "reproduced at small scale": ratios(GROWN, (30.0, 35.0, 36.0, 36.0)),
        "not reproduced": ratios(GROWN[::-1], (30.0, 35.0, 36.0, 36.0)),
        "inconclusive": ratios(GROWN, (30.0, 50.0, 54.0, 57.0), noise=4),
    },
    "C4": {
        "reproduced": latency(10.0, slope=0.00045),
        "not reproduced": latency(12.0, slope=0.00045),
        "inconclusive": latency(10.0, slope=0.00045, last=62_000),
    },
    "C5": {
        "reproduced": streaming(39.0, transformer_at_290=1.1),
        "not reproduced": streaming(20.0, transformer_at_290=1.1),
        "inconclusive": streaming(39.0, transformer_at_290=1.1, last=400),
    },
    "C6": {
        "reproduced": memory(51_904_512.0, 9.01),
        "not reproduced": memory(51_904_513.0, 9.01),
        "inconclusive": memory(51_904_512.0, None),
    },
    "C7": {
        "reproduced at small scale": frames((50, 51), (50, 35), control=40),
        "not reproduced": frames((50, 30), (50, 35), control=40),
        "inconclusive": frames((50, 50), (50, 49), control=49, noise=8),
    },
    "C8": {
        "reproduced": throughput(4.1e9, 1e8),
        "not reproduced": throughput(2e9, 1e8),
        "inconclusive": throughput(3.7e9, 1e8),
    },
    "C9": {
        "reproduced": averages(rich=69.0, general=71.0),
        "not reproduced": averages(rich=60.0, general=71.0),
        "inconclusive": averages(rich=69.0, general=71.0, leave="OCRBench"),
    },
}
SCORED = ("C1", "C2", "C3", "C7")


def verdict_on(name: str, measured: list[Record]) -> Verdict:
    return judge(name, [*published_records(), *measured])


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
