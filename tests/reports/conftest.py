"""Made-up measurements, shaped like those that runs write."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from infinitevl_bench import records as records_module
from infinitevl_bench.records import Record


@pytest.fixture(autouse=True)
def nothing_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the package brings changes with every study; these tests bring their own."""
    monkeypatch.setattr(records_module, "SHIPPED", tmp_path / "nothing shipped")


BENCHMARKS = ("DocVQA", "TextVQA", "OCRBench")


def cells(
    scores: Mapping[tuple[str, str], Sequence[float]],
    *,
    scale: str = "small",
    split: str = "synthetic",
    steps: int = 100,
    benchmarks: Sequence[str] = BENCHMARKS,
    shifts: Mapping[str, float] | None = None,
    blind: float | None = 10.0,
    extra: Mapping[str, Any] | None = None,
) -> list[Record]:
    """Trained cells: for each mixer and pattern one score a seed, moved by ``shifts`` on single benchmarks."""
    notes: dict[str, Any] = {"recipe": "scratch", "status": "ok", "learning_rate": 0.001, "level": 1}
    records = []
    for (mixer, pattern), by_seed in scores.items():
        for seed, value in enumerate(by_seed):
            for benchmark in benchmarks:
                score = value + (shifts or {}).get(benchmark, 0.0)
                shared: dict[str, Any] = {
                    "artifact": "ablation", "unit": "%", "model": scale, "source": "measured", "mixer": mixer,
                    "pattern": pattern, "benchmark": benchmark, "split": split, "seed": seed, "scale": scale,
                    "steps": steps, "n": 200, "device": "a processor", "parameters": 1000, "state_elements": 64,
                    "run_id": f"ablate-{scale}-{mixer}-{pattern}-{steps}-{seed}",
                    "extra": notes | dict(extra or {}),
                }  # fmt: skip
                records.append(Record(**shared, metric="score", value=score, ci_low=score - 3, ci_high=score + 3))
                if blind is not None:
                    records.append(Record(**shared, metric="blind", value=blind))
    return records


def learning(
    arms: Mapping[tuple[str, str], Sequence[int | None]],
    *,
    benchmarks: Sequence[str] = BENCHMARKS,
    every: int = 25,
    **changes: Any,
) -> list[Record]:
    """What a study records beside the scores of `cells`: by mixer and pattern the step at which each seed learnt."""
    scores = cells({arm: [90.0 if step else 5.0 for step in steps] for arm, steps in arms.items()}, **changes)
    records = []
    for score in scores:
        if score.metric != "score" or score.benchmark not in benchmarks:
            continue
        step = arms[(score.mixer or "", score.pattern or "")][score.seed or 0]
        bare = score.model_copy(update={"ci_low": None, "ci_high": None})
        notes = score.extra | {"threshold": 62.5}
        records.append(
            bare.model_copy(update={"metric": "learnt", "value": 100.0 * (step is not None), "extra": notes})
        )
        if step is not None:
            taken = {"metric": "steps_to_threshold", "value": float(step), "unit": "steps"}
            records.append(bare.model_copy(update=taken))
        for at in range(every, (score.steps or 0) + 1, every):
            value = 80.0 if step is not None and at >= step else 20.0
            records.append(bare.model_copy(update={"metric": "probe", "value": value, "steps": at}))
    return scores + records


def losses(mixer: str = "gla", seeds: int = 2, **changes: Any) -> list[Record]:
    """The logged training losses of an arm."""
    fields: dict[str, Any] = {
        "artifact": "ablation", "metric": "loss", "unit": "nats", "model": "tiny", "source": "measured",
        "mixer": mixer, "pattern": "SLLL", "scale": "tiny", "device": "a processor",
    } | changes  # fmt: skip
    return [
        Record(**fields, value=4.0 / number + 0.1 * seed, steps=10 * number, seed=seed, run_id=f"{mixer}-{seed}")
        for seed in range(seeds)
        for number in range(1, 5)
    ]


def evaluated(model: str, benchmark: str, value: float, *, dataset: str | None = None, **changes: Any) -> Record:
    """A score of an evaluated model; of official data unless said otherwise."""
    extra = {"dataset": dataset or benchmark} | changes.pop("extra", {})
    fields: dict[str, Any] = {
        "artifact": "table2", "metric": "score", "unit": "%", "split": "official", "n": 500, "source": "measured",
        "device": "a card", "run_id": f"eval-{model}-{benchmark}", "ci_low": value - 1, "ci_high": value + 1,
    } | changes  # fmt: skip
    return Record(model=model, benchmark=benchmark, value=value, extra=extra, **fields)


def framed(scores: Mapping[tuple[str, int], Sequence[float]], **changes: Any) -> list[Record]:
    """Scores by training stage and number of frames, one a seed."""
    fields: dict[str, Any] = {
        "artifact": "fig_frames", "metric": "score", "unit": "%", "model": "small", "scale": "small",
        "benchmark": "Video-MME", "split": "synthetic", "source": "measured", "n": 200, "device": "a card",
    } | changes  # fmt: skip
    notes = fields.pop("extra", {})
    return [
        Record(
            **fields, value=value, frames=frames, seed=seed, run_id=f"{stage}-{seed}", extra={"stage": stage} | notes
        )
        for (stage, frames), by_seed in scores.items()
        for seed, value in enumerate(by_seed)
    ]


def curve(
    model: str, metric: str, unit: str, axis: str, points: Mapping[int, float], protocol: str | None = "matched",
    **changes: Any,
) -> list[Record]:  # fmt: skip
    """A line of an efficiency figure."""
    fields: dict[str, Any] = {
        "artifact": "fig4_latency", "source": "measured", "device": "NVIDIA H100", "run_id": "profile-1", "n": 50,
        "extra": {} if protocol is None else {"protocol": protocol},
    } | changes  # fmt: skip
    return [
        Record(model=model, metric=metric, unit=unit, value=value, **{axis: position}, **fields)
        for position, value in points.items()
    ]


def alone() -> list[Record]:
    """A recurrence timed by itself, and a stage of training and an evaluation at full size."""
    shared: dict[str, Any] = {"source": "measured", "device": "GPU", "model": "infinitevl-4b", "n": 3}
    timed = {"scope": "recurrence", "pass": "forward", "backend": "torch", "median_ms": 4.0, "ratio_to_floor": 8.0}
    return [
        Record(
            **shared, artifact="bench_ops", metric="tokens_per_second", value=1e6, unit="tokens/s", mixer="gla",
            context=4096, run_id="profile-ops", extra=timed,
        ),
        Record(
            **shared, artifact="full_size", metric="mfu", value=0.3, unit="ratio", context=8192,
            run_id="profile-stage", extra={"stage": "sft", "precision": "bf16"},
        ),
        Record(
            **shared, artifact="loading", metric="samples_per_s", value=4.0, unit="samples/s",
            run_id="profile-loading", extra={"batch_size": 1, "graph": True},
        ),
    ]  # fmt: skip


def recalled(
    scores: Mapping[tuple[str, str, int], Sequence[float]], *, pairs: int = 4, length: int = 64, **changes: Any
) -> list[Record]:
    """Accuracies of the study of multi-query recall by mixer, pattern and width, one a seed."""
    fields: dict[str, Any] = {
        "artifact": "mqar", "metric": "score", "unit": "%", "model": "recall", "scale": "small", "benchmark": "MQAR",
        "split": "synthetic", "source": "measured", "n": 400, "device": "a card", "context": length, "steps": 2000,
        "parameters": 5000,
    } | changes  # fmt: skip
    notes = {"role": "test", "pairs": pairs, "vocabulary": 128, "batch_size": 32, "variant": ""}
    notes |= fields.pop("extra", {})
    return [
        Record(
            **fields, value=value, mixer=mixer, pattern=pattern, seed=seed,
            run_id=f"{fields['benchmark']}-{fields['scale']}-{mixer}-{pattern}-{width}-{length}-{seed}",
            extra=notes | {"width": width, "kept_elements": 2 * width * width, "learning_rate": 0.1 / width},
        )
        for (mixer, pattern, width), by_seed in scores.items()
        for seed, value in enumerate(by_seed)
    ]  # fmt: skip


@pytest.fixture
def make() -> SimpleNamespace:
    return SimpleNamespace(
        cells=cells,
        learning=learning,
        losses=losses,
        evaluated=evaluated,
        framed=framed,
        curve=curve,
        recalled=recalled,
    )


@pytest.fixture
def mixed(make: SimpleNamespace) -> list[Record]:
    """Everything at once: two scales, two mixers, several seeds, both splits, all kinds of figures."""
    two = {("gated_deltanet", "SLLL"): [50.0, 52.0, 55.0], ("gla", "SLLL"): [40.0, 41.0, 45.0]}
    ratios = {("gated_deltanet", pattern): [30.0, 31.0] for pattern in ("L", "SL")}
    return [
        *alone(),
        *make.cells(two, scale="tiny"),
        *make.cells(two | ratios, scale="small", steps=2000),
        *make.cells(two, scale="small", split="official"),
        *make.learning({("gla", "SLLL"): [None, 50], ("gated_deltanet", "SL"): [25, 75]}, scale="study"),
        *make.losses(),
        *make.losses("gated_deltanet"),
        *(
            make.evaluated(
                "student",
                "DocVQA",
                60.0 - 10 * level,
                mixer=mixer,
                pattern="SLLL",
                split="synthetic",
                seed=0,
                dataset="DocVQA_SYNTH",
                extra={"level": level},
                run_id=f"eval-{mixer}-{level}",
            )
            for mixer in ("gla", "gated_deltanet")
            for level in (1, 2, 3)
        ),
        *(
            record
            for depth in (0.0, 0.5, 1.0)
            for record in make.framed({("long", 32): [90.0 - 20 * depth]}, extra={"stage": "long", "depth": depth})
        ),
        *make.recalled({("gla", "L", 32): [50.0], ("gla", "L", 64): [70.0], ("none", "F", 64): [99.0]}),
        *make.recalled({("gla", "L", 128): [20.0, 30.0]}, benchmark="MQAR-vision"),
        make.evaluated("mine", "DocVQA", 30.0, dataset="DocVQA_VAL"),
        make.evaluated("mine", "ChartQA", 31.0, dataset="ChartQA_TEST"),
        make.evaluated("mine", "MME", 1500.0, unit="points", artifact="table1"),
        make.evaluated("mine", "ChartQA", 99.0, dataset="ChartQA_TEST_SYNTH", split="synthetic", run_id="eval-s"),
        *make.framed({(stage, frames): [50.0, 51.0] for stage in ("long", "short") for frames in (32, 1024)}),
        *make.curve("infinitevl-4b", "latency_ms", "ms", "context", {1024: 4.0, 65536: 4.1}),
        *make.curve("qwen2.5-vl-3b", "latency_ms", "ms", "context", {1024: 6.0, 65536: 14.0}, "as-published"),
        *make.curve("infinitevl-4b", "streaming_fps", "frames/s", "frames", {5: 60.0, 800: 59.0}),
        *make.curve(
            "infinitevl-4b",
            "training_tokens_per_day",
            "tokens/day",
            "context",
            {8192: 1e9},
            artifact="fig1",
            extra={
                "protocol": "matched",
                "path": "eager",
                "ratio_to_floor": 2.5,
                "floor_ms": 100.0,
                "median_ms": 250.0,
            },
        ),
        *make.curve("infinitevl-4b", "cache_elements", "elements", "context", {32768: 51_904_512.0}, artifact="fig1"),
    ]
