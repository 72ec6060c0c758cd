"""Evaluates a model on a benchmark: asks every question once, scores through VLMEvalKit, adds the baselines.

Two baselines stand beside every score: ``blind``, the same model shown grey instead of the picture, and, on synthetic
pages, ``page_value``, the expected score of naming any of the values on the page. A score says that the model reads
the picture only as far as it is above both. A split without public answers gets a submission file, and no score.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ..models.device import device_name
from ..records import Record, RunFolder, Scalar
from . import vlmevalkit
from .benchmarks import Benchmark, find_benchmark
from .captured import CapturedSteps
from .generation import Answer, answer, batches, blinded
from .predictions import Prediction, PredictionCache, Predictions, prompt_key
from .room import check_room
from .scoring import Scored, score, scorer_name
from .sources import QUESTIONS, Split, choose_split, official_path
from .statistics import interval, stratified_interval
from .submission import write_submission
from .synthetic import page_values, synthetic_tsv
from .team import ALONE, Team
from .videos import FRAMES, with_frames
from .vlmevalkit import Message, OpenDataset, PromptStyle, Row

SHORTEST = 16
"""Fewest tokens that a model may write in answer to a twin's question."""

BAD_ROWS = "bad_rows.jsonl"

Progress = Callable[[str, int, int], None]
"""Called with what is being asked ("sighted" or "blind"), questions done, questions in all."""


@dataclass
class EvalResult:
    """What an evaluation found.

    Attributes:
        benchmark: What was evaluated.
        split: Whose data it was.
        records: The score and its baselines; none where answers are not public.
        predictions: One row a question: index, question, answer, prediction, latency_ms, tokens, score (0 to 1, or
            None where the scorer gives none).
        submission: What to send in where answers are not public.
    """

    benchmark: Benchmark
    split: Split
    records: list[Record] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    submission: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How questions are put.

    Attributes:
        batch_size: Questions at a time.
        style: Who words the prompts: see `vlmevalkit.STYLES`.
        frames: Frames of a video.
        blind: Whether the blind baseline is asked too.
        judge: A judge that VLMEvalKit knows; exact matching if None.
        max_bad: How many rows of a file may be bad; they are left out, counted and listed.
        graph: Whether answers are written by captured decode steps; then one question is put at a time.
    """

    batch_size: int = 32
    style: PromptStyle = "dataset"
    frames: int = FRAMES
    blind: bool = True
    judge: str | None = None
    max_bad: int = 0
    graph: bool = False


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
    asking: Asking | None = None,
    model_name: str = "model",
    progress: Progress | None = None,
    team: Team = ALONE,
    cache: PredictionCache | None = None,
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
        batch_size: Questions at a time, where ``asking`` does not say.
        asking: How questions are put.
        model_name: What the records call the model.
        progress: Told about every batch.
        team: The processes that share the questions. Only its leader gets records and predictions.
        cache: Answers of earlier runs.

    Raises:
        UserError: For an unknown benchmark, missing or damaged data, a judge that does not answer.
    """
    asking = asking or Asking(batch_size=batch_size)
    found = find_benchmark(benchmark)
    split = choose_split(found, data)
    opened, values = _open(found, split, limit, seed, level, data_root, asking)
    rows = opened.rows(limit)
    if folder is not None and team.leads:
        _list_bad_rows(opened, folder)
    captured = CapturedSteps(model) if asking.graph else None
    work = _Work(model, processor, opened, rows, asking, _new_tokens(opened, rows, processor), team, cache, captured)
    result = EvalResult(found, split)
    shared = _shared_fields(work, model_name, split, seed, level)
    for kind, metric in (("sighted", "score"), ("blind", "blind")):
        if kind == "blind" and not (asking.blind and found.answers):
            continue
        name = predictions_name(found, split, blind=kind == "blind")
        kept = Predictions(folder, name, rows, team)
        work.ask(kind, kept, progress or (lambda *_: None))
        predictions = kept.all()
        if predictions is None:
            continue
        if found.answers:
            scored = score(opened, _merged(rows, [one["prediction"] for one in predictions]), asking.judge)
            for prediction, sample in zip(predictions, scored.samples, strict=True):
                prediction["score"] = sample
            result.records.append(_record(shared, metric, scored, found, _frames_fed(predictions, asking.frames)))
        kept.write(predictions)
        if kind == "sighted":
            result.predictions = predictions
    if not team.leads:
        return result
    if not found.answers:
        if folder is not None:
            result.submission = write_submission(found, rows, result.predictions, folder.path)
    elif values and _has_value_baseline(found):
        result.records.append(_record(shared, "page_value", _page_value(opened, rows, values), found))
    return result


def predictions_name(benchmark: Benchmark, split: Split, *, blind: bool = False) -> str:
    """Name of the file of predictions within a run's folder."""
    return f"predictions-{benchmark.name}-{split}{'-blind' if blind else ''}.jsonl"


@dataclass(frozen=True)
class _Work:
    """The questions of one benchmark and whom they are put to."""

    model: Any
    processor: Any
    opened: OpenDataset
    rows: list[Row]
    asking: Asking
    new_tokens: int
    team: Team
    cache: PredictionCache | None
    captured: CapturedSteps | None

    def ask(self, kind: str, kept: Predictions, progress: Progress) -> None:
        """Put this process's share of the questions that have no answer yet."""
        size = self.asking.batch_size
        progress(kind, len(kept.known), len(self.rows))
        # Pictures of an official file are large, so only a part of them is held at a time. Batches are those of an
        # uninterrupted run of one process, whatever is known already: what stands beside a sample in a batch may
        # change its last bits.
        window = 4 * size if self.opened.official or self.opened.benchmark.video else max(512, size)
        number = 0
        for start in range(0, len(self.rows), window):
            part = self.rows[start : start + window]
            mine = [self.team.takes(number + offset) for offset in range(-(-len(part) // size))]
            number += len(mine)
            if not any(mine) or all(str(row["index"]) in kept.known for row in part):
                continue
            messages = [self._prompt(row, kind) for row in part]
            fed = [sum(len(p["value"].frames) for p in one if p["type"] == "video") or None for one in messages]
            if start == 0:
                check_room(self.model, messages[:size])
            for batch, is_mine in zip(batches(self.processor, messages, size), mine, strict=True):
                new = [position for position in batch if str(part[position]["index"]) not in kept.known]
                if not new or not is_mine:
                    continue
                said = self._answers([messages[position] for position in batch])
                for position, one in zip(batch, said, strict=True):
                    if position in new:
                        kept.add(part[position], one, fed[position])
                progress(kind, len(kept.known), len(self.rows))

    def _prompt(self, row: Row, kind: str) -> Message:
        message = vlmevalkit.build_prompt(self.opened, row, self.asking.style)
        message = with_frames(message, self.processor, self.asking.frames)
        return blinded(message) if kind == "blind" else message

    def _answers(self, messages: list[Message]) -> list[Answer]:
        limits = self.processor.image_processor.size
        settings: dict[str, Any] = {
            "max_new_tokens": self.new_tokens,
            "pixels": [limits["shortest_edge"], limits["longest_edge"], self.opened.benchmark.min_pixels],
        }
        keys = [prompt_key(message, **settings) for message in messages] if self.cache is not None else []
        if self.cache is not None:
            known = [self.cache.get(key) for key in keys]
            if all(one is not None for one in known):
                return [one for one in known if one is not None]
        said = answer(
            self.model, self.processor, messages, self.new_tokens, self.opened.benchmark.min_pixels, self.captured
        )
        if self.cache is not None:
            for key, one in zip(keys, said, strict=True):
                self.cache.put(key, one)
        return said


def _open(
    benchmark: Benchmark, split: Split, limit: int | None, seed: int, level: int, data_root: Path, asking: Asking
) -> tuple[OpenDataset, dict[str, tuple[str, ...]]]:
    """The data, and the values on the pages of a twin."""
    if split == "official":
        return vlmevalkit.open_dataset(benchmark, official_path(benchmark), official=True, max_bad=asking.max_bad), {}
    path, sidecar = synthetic_tsv(
        benchmark, data_root, questions=limit or QUESTIONS, seed=seed, level=level, frames=asking.frames
    )
    return vlmevalkit.open_dataset(benchmark, path, official=False, max_bad=asking.max_bad), page_values(sidecar)


def _list_bad_rows(opened: OpenDataset, folder: RunFolder) -> None:
    folder.truncate(BAD_ROWS, 0)
    for one in opened.bad:
        folder.append(BAD_ROWS, {"file": opened.path.name, "row": one.number, "reason": one.reason})


def _shared_fields(work: _Work, model_name: str, split: Split, seed: int, level: int) -> dict[str, Any]:
    """What all records of an evaluation have in common."""
    benchmark, model = work.opened.benchmark, work.model
    limits = work.processor.image_processor.size
    notes: dict[str, Scalar] = {
        "dataset": work.opened.name,
        "scorer": scorer_name(work.asking.judge),
        "prompts": work.asking.style,
        "max_new_tokens": work.new_tokens,
        "min_pixels": min(limits["shortest_edge"], benchmark.min_pixels or limits["shortest_edge"]),
        "max_pixels": limits["longest_edge"],
    }
    notes |= {"graph": True} if work.asking.graph else {}
    notes |= {"bad_rows": len(work.opened.bad)} if work.opened.bad else {}
    notes |= {} if split == "official" else {"level": level, "data_seed": seed}
    text = getattr(model.config, "text_config", model.config)
    pattern = getattr(text, "pattern", None)
    return {
        "artifact": benchmark.artifact,
        "unit": benchmark.unit,
        "model": model_name,
        "source": "measured",
        "benchmark": benchmark.name,
        "split": split,
        "frames": work.asking.frames if benchmark.video else None,
        "device": device_name(model.device.type),
        "mixer": getattr(text, "mixer", None) if pattern and "L" in pattern else None,
        "pattern": pattern,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seed": seed if split == "synthetic" else None,
        "extra": notes,
    }


def _frames_fed(predictions: Sequence[Prediction], asked: int) -> dict[str, Scalar]:
    """How many frames the videos really had, where there are any: a short one gives all that it has."""
    fed = [one["frames"] for one in predictions if "frames" in one]
    if not fed:
        return {}
    return {
        "frames_fed": round(sum(fed) / len(fed), 2),
        "fewest_frames_fed": min(fed),
        "short_videos": sum(count < asked for count in fed),
    }


def _record(
    shared: Mapping[str, Any],
    metric: str,
    scored: Scored,
    benchmark: Benchmark,
    notes: Mapping[str, Scalar] = MappingProxyType({}),
) -> Record:
    marks = benchmark.full_marks
    counted = [sample for sample in scored.samples if sample is not None]
    # Each of MME's tasks is worth 200 points.
    strata = scored.strata
    bounds = interval(counted) if strata is None else stratified_interval(strata, 200.0 / marks)
    return Record(
        **{**shared, "extra": {**shared["extra"], **notes}},
        metric=metric,
        value=scored.value / 100.0 * marks,
        n=len(counted),
        ci_low=bounds[0] * marks if bounds else None,
        ci_high=bounds[1] * marks if bounds else None,
    )


def _has_value_baseline(benchmark: Benchmark) -> bool:
    """Whether naming a value of the page is an answer there, and one alone is scored."""
    return benchmark.reading in ("vqa", "ocrbench", "mcq") and not benchmark.circular


def _page_value(opened: OpenDataset, rows: Sequence[Row], values: Mapping[str, tuple[str, ...]]) -> Scored:
    """Expected score of naming one of the page's values, each as likely."""
    listed = [values[str(row["index"])] for row in rows]
    totals = np.zeros(len(rows))
    for number in range(max(len(one) for one in listed)):
        # The number-th value of every page that has so many; VLMEvalKit scores an index once at a time.
        having = [position for position, one in enumerate(listed) if number < len(one)]
        merged = _merged([rows[position] for position in having], [listed[position][number] for position in having])
        for position, sample in zip(having, score(opened, merged).samples, strict=True):
            totals[position] += (sample or 0.0) / len(listed[position])
    return Scored(100.0 * float(totals.mean()), list(totals.tolist()))


def _merged(rows: Sequence[Row], predictions: Sequence[str]) -> list[Row]:
    return [row | {"prediction": prediction} for row, prediction in zip(rows, predictions, strict=True)]


def _new_tokens(opened: OpenDataset, rows: Sequence[Row], processor: Any) -> int:
    """Longest answer in tokens: the benchmark's own, or what a twin's longest right answer needs and one to spare."""
    benchmark = opened.benchmark
    if opened.official:
        return benchmark.max_new_tokens
    answers: set[str] = set()
    for row in rows:
        answers.update(option for letter in "ABCD" if isinstance(option := row.get(letter), str))
        if benchmark.reading in ("vqa", "ocrbench") and "answer" in row:
            answers.update(ast.literal_eval(row["answer"]))
    lengths = [len(ids) for ids in processor.tokenizer(sorted(answers))["input_ids"]] if answers else []
    return max([SHORTEST, *(2 + length for length in lengths)])
