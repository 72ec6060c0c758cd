"""The paper's figures as records: the CSV files beside this module, each number labelled `published`.

Source of every number here: InfiniteVL, arXiv 2512.08829 v1. The two curves of figure 4 were digitised from the plot
(about ±1 %); everything else is printed in the paper. Tables 3 and 4 are known as orderings only, so what stands here
for them is words.
"""

from collections.abc import Iterable, Iterator
from functools import cache

import pandas as pd

from ..records import Record, Scalar, package_path

PAPER = "arXiv 2512.08829 v1"
PRINTED = f"{PAPER}, printed"
DIGITISED = f"{PAPER}, digitised from the plot, about ±1 %"
HYBRID = "InfiniteVL-4B"
TRANSFORMER = "Qwen2.5VL-3B"

# The general table's average divides MME's points by 25 to bring them near the other columns' range.
AVERAGE_DIVISORS = {"MME": 25.0}
BENCHMARK_TABLES = {"table1": "general_benchmarks.csv", "table2": "text_rich_benchmarks.csv"}

# The rows of efficiency_bars.csv, by the metric names that our own efficiency records use.
BAR_METRICS = {
    "average performance": "average_score",
    "training throughput": "training_tokens_per_day",
    "streaming speed": "streaming_fps",
    "inference cache at 32k tokens": "cache_elements",
    "per-token latency": "latency_ms",
}
BAR_UNITS = {
    "average_score": "points",
    "training_tokens_per_day": "tokens/day",
    "streaming_fps": "frames/s",
    "cache_elements": "elements",
    "latency_ms": "ms",
}

MIXER_ORDERING = {
    "linear_attention": "does not converge",
    "mamba2": "trails Gated DeltaNet",
    "gla": "trails Gated DeltaNet",
    "gated_deltanet": "best on DocVQA, TextVQA, OCRBench",
}
RATIO_ORDERING = {
    "0": "lowest on text-rich benchmarks",
    "1/8": "much higher on text-rich than 0",
    "1/4": "higher again, by less; the default",
    "1/2": "higher again, by less; best average",
}


@cache
def read_published(name: str) -> pd.DataFrame:
    """Read one of the published CSV files; callers do not modify the frame."""
    return pd.read_csv(package_path("reports", "published", name))


@cache
def published_records() -> tuple[Record, ...]:
    """All published numbers, in the order of the files and their rows."""
    return (
        *_benchmark_records("table1"),
        *_benchmark_records("table2"),
        *_bar_records(),
        *_scatter_records(),
        *_curve_records("fig4_latency", "latency_vs_context.csv", "context_tokens", "_ms", "latency_ms", "ms"),
        *_curve_records(
            "fig4_streaming", "streaming_fps_vs_frames.csv", "processed_frames", "_fps", "streaming_fps", "frames/s"
        ),
        *_mixture_records(),
    )


def benchmark_columns(table: str) -> list[str]:
    """VLMEvalKit names of the benchmarks of ``table1`` or ``table2``, in the printed order."""
    return [str(name) for name in read_published(BENCHMARK_TABLES[table]).columns[3:-1]]


def average_score(scores: dict[str, float]) -> float:
    """Mean over benchmarks as the paper takes it: MME over 25, everything else as printed."""
    return sum(value / AVERAGE_DIVISORS.get(name, 1.0) for name, value in scores.items()) / len(scores)


def recomputed_averages(table: str, records: Iterable[Record] | None = None) -> pd.DataFrame:
    """Printed and recomputed average of every model of ``table1`` or ``table2``.

    Returns:
        A frame with the columns ``model``, ``printed``, ``recomputed`` (points), one row a model, in printed order.
    """
    rows = [r for r in (records or published_records()) if r.artifact == table and r.source == "published"]
    models = dict.fromkeys(record.model for record in rows)
    scores = {m: {r.benchmark or "": r.value for r in rows if r.model == m and r.metric == "score"} for m in models}
    printed = {record.model: record.value for record in rows if record.metric == "average"}
    return pd.DataFrame(
        {
            "model": list(models),
            "printed": [printed[model] for model in models],
            "recomputed": [average_score(scores[model]) for model in models],
        }
    )


def _benchmark_records(table: str) -> Iterator[Record]:
    frame = read_published(BENCHMARK_TABLES[table])
    for row in frame.to_dict("records"):
        extra: dict[str, Scalar] = {"group": row["group"], "complexity": row["complexity"], "origin": PRINTED}
        for column in [*benchmark_columns(table), "average"]:
            is_average = column == "average"
            yield Record(
                artifact=table,
                metric="average" if is_average else "score",
                value=row[column],
                unit="points" if column == "MME" else "%",
                model=row["model"],
                source="published",
                benchmark=None if is_average else column,
                split="official",
                extra=extra,
            )


def _bar_records() -> Iterator[Record]:
    for row in read_published("efficiency_bars.csv").to_dict("records"):
        metric = BAR_METRICS[row["metric"]]
        for model in (TRANSFORMER, HYBRID):
            yield Record(
                artifact="fig1",
                metric=metric,
                value=row[model],
                unit=BAR_UNITS[metric],
                model=model,
                source="published",
                context=32768 if metric == "cache_elements" else None,
                device="RTX 4090" if metric in ("streaming_fps", "latency_ms") else None,
                extra={"better": row["better"], "note": row["note"], "origin": PRINTED},
            )


def _scatter_records() -> Iterator[Record]:
    for row in read_published("speed_vs_performance.csv").to_dict("records"):
        for column, metric, unit in (
            ("fps", "scatter_fps", "frames/s"),
            ("average_performance", "scatter_score", "points"),
        ):
            yield Record(
                artifact="fig1",
                metric=metric,
                value=row[column],
                unit=unit,
                model=row["model"],
                source="published",
                extra={"origin": PRINTED},
            )


def _curve_records(artifact: str, file: str, axis: str, suffix: str, metric: str, unit: str) -> Iterator[Record]:
    frame = read_published(file)
    for model in (TRANSFORMER, HYBRID):
        curve = frame[[axis, model + suffix]].dropna()
        for position, value in zip(curve[axis], curve[model + suffix], strict=True):
            yield Record(
                artifact=artifact,
                metric=metric,
                value=value,
                unit=unit,
                model=model,
                source="published",
                context=int(position) if axis == "context_tokens" else None,
                frames=int(position) if axis == "processed_frames" else None,
                device="RTX 4090",
                extra={"origin": DIGITISED},
            )


def _mixture_records() -> Iterator[Record]:
    for row in read_published("sft_mixture.csv").to_dict("records"):
        yield Record(
            artifact="sft_mixture",
            metric="share",
            value=row["percent"],
            unit="%",
            model=HYBRID,
            source="published",
            extra={"category": row["category"], "origin": PRINTED},
        )
