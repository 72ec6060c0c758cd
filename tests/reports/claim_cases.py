"""Records that make each claim reproduced, refuted or undecided, for the tests of its judge."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from infinitevl_bench.records import Record
from infinitevl_bench.reports.claims import Verdict, judge
from infinitevl_bench.reports.claims_official import public_columns
from infinitevl_bench.reports.published import published_records

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
