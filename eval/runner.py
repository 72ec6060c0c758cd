"""Evaluates a model on a benchmark: asks every question once, scores through VLMEvalKit, adds the baselines.

Two baselines stand beside every score: ``blind``, the same model shown grey instead of the picture, and, on synthetic
pages, ``page_value``, the expected score of naming any of the values on the page. A score says that the model reads
the picture only as far as it is above both.
"""

import ast
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ..models.device import device_name
from ..records import Record, RunFolder, Scalar, atomic_write
from . import vlmevalkit
from .benchmarks import Benchmark, find_benchmark
from .generation import answer, batches, blinded
from .sources import QUESTIONS, Split, choose_split, official_path
from .synthetic import page_values, synthetic_tsv
from .vlmevalkit import OpenDataset, Row

CONFIDENCE = 0.95
RESAMPLES = 9999
BOOTSTRAP_SEED = 0

SHORTEST = 16
"""Fewest tokens that a model may write in answer to a twin's question."""

Progress = Callable[[str, int, int], None]
"""Called with what is being asked ("sighted" or "blind"), questions done, questions in all."""


@dataclass
class EvalResult:
    """What an evaluation found.

    Attributes:
        benchmark: What was evaluated.
        split: Whose data it was.
        records: The score and its baselines.
        predictions: One row a question: index, question, answer, prediction, latency_ms, tokens, score (0 to 1, or
            None where the scorer gives none).
    """

    benchmark: Benchmark
    split: Split
    records: list[Record] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)


def evaluate(
    model: Any,
    processor: Any,
    benchmark: str,
    *,
    data: str = "auto",
    limit: int | None = None,
    seed: int = 0,
    level: int = 1,
    folder: RunFolder | None = None,
    data_root: Path,
    batch_size: int = 32,
    model_name: str = "model",
    progress: Progress | None = None,
) -> EvalResult:
    """Evaluate a model on one benchmark.

    Args:
        model: In evaluation mode, on its device.
        processor: Its processor.
        benchmark: The paper's or VLMEvalKit's name.
        data: auto, official or synthetic.
        limit: About how many questions; all of an official file, or `QUESTIONS` of a twin, if None.
        seed: Of the twin's pages.
        level: Difficulty of the twin, 1 to 4.
        folder: Where predictions are kept as they come; questions that are answered there are not asked again.
        data_root: Folder of the twins' files.
        batch_size: Questions at a time.
        model_name: What the records call the model.
        progress: Told about every batch.

    Raises:
        UserError: For an unknown benchmark, missing or damaged data.
    """
    found = find_benchmark(benchmark)
    split = choose_split(found, data)
    values: dict[str, tuple[str, ...]] = {}
    if split == "official":
        opened = vlmevalkit.open_dataset(found, official_path(found), official=True)
    else:
        path, sidecar = synthetic_tsv(found, data_root, questions=limit or QUESTIONS, seed=seed, level=level)
        opened = vlmevalkit.open_dataset(found, path, official=False)
        values = page_values(sidecar)
    rows = opened.rows(limit)
    new_tokens = found.max_new_tokens if opened.official else _longest_answer(rows, found, processor)
    notes: dict[str, Scalar] = {
        "dataset": opened.name,
        "scorer": f"VLMEvalKit {metadata.version('ms-vlmeval')}, exact matching",
        "max_new_tokens": new_tokens,
    }
    text = getattr(model.config, "text_config", model.config)
    pattern = getattr(text, "pattern", None)
    shared: dict[str, Any] = {
        "artifact": found.artifact,
        "unit": found.unit,
        "model": model_name,
        "source": "measured",
        "benchmark": found.name,
        "split": split,
        "device": device_name(model.device.type),
        "mixer": getattr(text, "mixer", None) if pattern and "L" in pattern else None,
        "pattern": pattern,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seed": seed if split == "synthetic" else None,
        "extra": notes | ({} if split == "official" else {"level": level, "data_seed": seed}),
    }
    result = EvalResult(found, split)
    for kind, metric in (("sighted", "score"), ("blind", "blind")):
        name = predictions_name(found, split, blind=kind == "blind")
        predictions = _ask(
            model, processor, opened, rows, kind, new_tokens, folder, name, batch_size, progress or (lambda *_: None)
        )
        value, samples = vlmevalkit.score(opened, _merged(rows, [one["prediction"] for one in predictions]))
        for number, prediction in enumerate(predictions):
            prediction["score"] = samples[number] if samples is not None else None
        if folder is not None:
            lines = (json.dumps(prediction, ensure_ascii=False) + "\n" for prediction in predictions)
            atomic_write(folder.path / name, "".join(lines))
        result.records.append(_record(shared, metric, value, samples, len(rows), found))
        if kind == "sighted":
            result.predictions = predictions
    if values:
        value, expected = _page_value(opened, rows, values)
        result.records.append(_record(shared, "page_value", value, expected, len(rows), found))
    return result


def predictions_name(benchmark: Benchmark, split: Split, *, blind: bool = False) -> str:
    """Name of the file of predictions within a run's folder."""
    return f"predictions-{benchmark.name}-{split}{'-blind' if blind else ''}.jsonl"


def interval(samples: Sequence[float]) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of a mean, by a fixed seed; None for fewer than two samples."""
    if len(samples) < 2:
        return None
    found = stats.bootstrap(
        (np.asarray(samples, dtype=float),),
        np.mean,
        n_resamples=RESAMPLES,
        batch=500,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def _record(
    shared: dict[str, Any],
    metric: str,
    value: float,
    samples: Sequence[float | None] | None,
    rows: int,
    benchmark: Benchmark,
) -> Record:
    counted = [sample for sample in samples or () if sample is not None]
    bounds = interval(counted)
    marks = benchmark.full_marks
    return Record(
        **shared,
        metric=metric,
        value=value / 100.0 * marks,
        n=len(counted) if samples is not None else rows,
        ci_low=bounds[0] * marks if bounds else None,
        ci_high=bounds[1] * marks if bounds else None,
    )


def _ask(
    model: Any,
    processor: Any,
    opened: OpenDataset,
    rows: Sequence[Row],
    kind: str,
    new_tokens: int,
    folder: RunFolder | None,
    name: str,
    batch_size: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Ask every question that ``folder`` has no answer to; all predictions in the order of ``rows``."""
    known = _known(folder, name, rows)
    progress(kind, len(known), len(rows))
    # Pictures of an official file are large, so only a part of them is held at a time. Batches are those of an
    # uninterrupted run, whatever is known already: what stands beside a sample in a batch may change its last bits.
    window = 4 * batch_size if opened.official else max(512, batch_size)
    for start in range(0, len(rows), window):
        part = rows[start : start + window]
        if all(str(row["index"]) in known for row in part):
            continue
        messages = [vlmevalkit.build_prompt(opened, row) for row in part]
        if kind == "blind":
            messages = [blinded(message) for message in messages]
        for batch in batches(processor, messages, batch_size):
            new = [position for position in batch if str(part[position]["index"]) not in known]
            if not new:
                continue
            answers = answer(model, processor, [messages[position] for position in batch], new_tokens)
            for position, said in zip(batch, answers, strict=True):
                row = part[position]
                if position not in new:
                    continue
                prediction = {
                    "index": row["index"],
                    "question": row["question"],
                    "answer": row.get("answer"),
                    "prediction": said.text,
                    "latency_ms": said.latency_ms,
                    "tokens": said.tokens,
                }
                known[str(row["index"])] = prediction
                if folder is not None:
                    folder.append(name, prediction)
            progress(kind, len(known), len(rows))
    return [known[str(row["index"])] for row in rows]


def _known(folder: RunFolder | None, name: str, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Predictions that an interrupted process left for these very questions, by index."""
    if folder is None:
        return {}
    asked = {str(row["index"]): row["question"] for row in rows}
    return {
        str(row["index"]): row
        for row in folder.rows(name)
        if "prediction" in row and asked.get(str(row.get("index"))) == row.get("question")
    }


def _page_value(
    opened: OpenDataset, rows: Sequence[Row], values: dict[str, tuple[str, ...]]
) -> tuple[float, list[float]]:
    """Expected score of naming one of the page's values, each as likely: the mean, in %, and by sample."""
    listed = [values[str(row["index"])] for row in rows]
    totals = np.zeros(len(rows))
    for number in range(max(len(one) for one in listed)):
        # The number-th value of every page that has so many; VLMEvalKit scores an index once at a time.
        having = [position for position, one in enumerate(listed) if number < len(one)]
        merged = _merged([rows[position] for position in having], [listed[position][number] for position in having])
        _, samples = vlmevalkit.score(opened, merged)
        for position, sample in zip(having, samples or (), strict=True):
            totals[position] += (sample or 0.0) / len(listed[position])
    return 100.0 * float(totals.mean()), totals.tolist()


def _merged(rows: Sequence[Row], predictions: Sequence[str]) -> list[Row]:
    return [row | {"prediction": prediction} for row, prediction in zip(rows, predictions, strict=True)]


def _longest_answer(rows: Sequence[Row], benchmark: Benchmark, processor: Any) -> int:
    """Tokens that the longest right answer of a twin needs, its end of turn and one to spare; `SHORTEST` at least."""
    answers: set[str] = set()
    for row in rows:
        if benchmark.multiple_choice:
            answers.update(option for letter in "ABCD" if isinstance(option := row.get(letter), str))
        else:
            answers.update(ast.literal_eval(row["answer"]))
    return max(SHORTEST, 2 + max(len(ids) for ids in processor.tokenizer(sorted(answers))["input_ids"]))
