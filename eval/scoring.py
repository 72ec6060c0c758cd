"""Scores predictions with VLMEvalKit's own scorers, in this process, and finds the score of every sample.

The scorers run on scratch files that are gone afterwards. They match exactly; where VLMEvalKit would call a paid judge
by default it is not called, unless one is named.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import UserError
from ..scratch import ScratchFolder
from .isolation import quiet, replaced, variables
from .vlmevalkit import OpenDataset, kit

EXACT = "exact_matching"
MME_TASKS = 14
"""Tasks of MME; each is worth 200 points."""


class Scored(NamedTuple):
    """What a scorer found.

    Attributes:
        value: The score from 0 to 100.
        samples: The scores of the samples from 0 to 1, in the order of the rows; None for a sample that counts only
            through another, such as a rotation of MMBench. Their mean is the score, but for MME.
        strata: For MME, whose points are a sum over tasks: the shares of full marks by task and pair of questions.
    """

    value: float
    samples: list[float | None]
    strata: list[list[float]] | None = None


def score(opened: OpenDataset, rows: Sequence[Mapping[str, Any]], judge: str | None = None) -> Scored:
    """Score predictions with the dataset's own ``evaluate``.

    Args:
        opened: From `vlmevalkit.open_dataset`.
        rows: Rows of it, each with ``prediction``; every row once.
        judge: A judge that VLMEvalKit knows, with its key in the environment; exact matching if None.

    Raises:
        UserError: If the judge does not answer. VLMEvalKit would match exactly then, and not say so.
    """
    if not rows:
        raise ValueError("nothing to score")
    if not opened.benchmark.answers:
        raise ValueError(f"{opened.name} has no public answers")
    if judge is not None:
        check_judge(judge)
    frame = pd.DataFrame([{key: value for key, value in row.items() if key != "image"} for row in rows])
    return _READINGS[opened.benchmark.reading](opened, frame, judge)


def scorer_name(judge: str | None) -> str:
    """What records say of how predictions were compared with answers."""
    from importlib import metadata

    how = f"judge {judge}" if judge else "exact matching"
    return f"VLMEvalKit {metadata.version('ms-vlmeval')}, {how}"


class _Evaluation(NamedTuple):
    """What ``evaluate`` returned, the hits that it computed by sample, and the tables that it left behind."""

    result: Any
    hits: list[float]
    hit_table: pd.DataFrame | None
    score_table: pd.DataFrame | None


def _by_hits(opened: OpenDataset, frame: pd.DataFrame, judge: str | None) -> Scored:
    found = _evaluate(opened, frame, judge)
    return Scored(float(found.result["Overall"].iloc[0]), list(found.hits))


def _by_options(opened: OpenDataset, frame: pd.DataFrame, judge: str | None) -> Scored:
    table = _evaluate(opened, frame, judge).hit_table
    if table is None:
        raise UserError(f"VLMEvalKit left no table of hits for {opened.name}; see `infinitevl-bench doctor`", 1)
    hits = dict(zip(table["index"], table["hit"].astype(float), strict=True))
    samples = [hits.get(index) for index in frame["index"]]
    return Scored(100.0 * float(np.mean([sample for sample in samples if sample is not None])), samples)


def _by_pairs(opened: OpenDataset, frame: pd.DataFrame, judge: str | None) -> Scored:
    found = _evaluate(opened, frame, judge)
    table = found.score_table
    if table is None:
        raise UserError(f"VLMEvalKit left no table of scores for {opened.name}; see `infinitevl-bench doctor`", 1)
    points = float(found.result["perception"].iloc[0]) + float(found.result["reasoning"].iloc[0])
    right = {str(index): bool(hit) for index, hit in zip(table["index"], table["score"], strict=True)}
    samples = [float(right[str(index)]) for index in frame["index"]]
    pairs: dict[Any, dict[Any, list[float]]] = {}
    for sample, category, picture in zip(samples, frame["category"], frame["image_path"], strict=True):
        pairs.setdefault(category, {}).setdefault(picture, []).append(sample)
    # A task's points are 100 times its accuracy and 100 times its share of pairs that are all right.
    strata = [[(float(np.mean(pair)) + float(min(pair))) / 2 for pair in task.values()] for task in pairs.values()]
    return Scored(points / opened.benchmark.full_marks * 100.0, list(samples), strata)


def _one_by_one(opened: OpenDataset, frame: pd.DataFrame, judge: str | None) -> Scored:
    """For scorers that count hits and name no sample: each sample is scored by itself."""
    singles: list[float | None] = []
    for number in range(len(frame)):
        result = _evaluate(opened, frame.iloc[[number]], judge).result
        if isinstance(result, dict):
            singles.append(float(result["Final Score"]))
        else:
            singles.append(float(result[result["Task&Skill"] == "Overall"]["acc"].iloc[0]) / 100.0)
    return Scored(100.0 * float(np.mean([single for single in singles if single is not None])), singles)


def _by_video(opened: OpenDataset, frame: pd.DataFrame, judge: str | None) -> Scored:
    # One of the two scorers counts rows by their index.
    numbered = frame.assign(index=range(len(frame)))
    table = _evaluate(opened, numbered, judge).score_table
    if table is None:
        raise UserError(f"VLMEvalKit left no table of scores for {opened.name}; see `infinitevl-bench doctor`", 1)
    samples = [max(0.0, float(value)) for value in table.sort_values("index")["score"]]
    return Scored(100.0 * float(np.mean(samples)), list(samples))


_READINGS: dict[str, Callable[[OpenDataset, pd.DataFrame, str | None], Scored]] = {
    "vqa": _by_hits,
    "mcq": _by_options,
    "mme": _by_pairs,
    "ocrbench": _one_by_one,
    "mathvista": _one_by_one,
    "video": _by_video,
}


def _evaluate(opened: OpenDataset, frame: pd.DataFrame, judge: str | None) -> _Evaluation:
    captured: list[list[float]] = []
    video = opened.benchmark.video
    with (
        ScratchFolder() as folder,
        quiet(),
        _in_process(folder, captured, judge),
    ):
        # A pickle of our own in a private folder: VLMEvalKit's spreadsheet would turn "=1" into a formula. The
        # scorers of videos, which look for a letter only, insist on a table.
        file = folder / ("predictions.tsv" if video else "predictions.pkl")
        if video:
            frame.to_csv(file, sep="\t", index=False)
        else:
            frame.to_pickle(file)
        result = opened.dataset.evaluate(str(file), model=judge or EXACT, nproc=4 if judge else 1)
        hit_table = _table(folder, "predictions_*_result.tsv", ["index", "hit"])
        score_table = _table(folder, "predictions_*auxmatch.*" if not video else "predictions_*score.*", None)
    return _Evaluation(result, [float(hit) for hit in captured[0]] if captured else [], hit_table, score_table)


def _table(folder: Path, pattern: str, columns: list[str] | None) -> pd.DataFrame | None:
    found = next((path for path in sorted(folder.glob(pattern)) if path.suffix in (".tsv", ".csv")), None)
    if found is None:
        return None
    return pd.read_csv(found, sep="\t" if found.suffix == ".tsv" else ",", usecols=columns)


def check_judge(judge: str) -> None:
    """Ask a judge of VLMEvalKit whether it answers.

    Raises:
        UserError: If it does not, or there is none of this name.
    """
    with quiet():
        try:
            working = bool(kit("vlmeval.dataset.utils").build_judge(model=judge).working())
        except Exception as error:  # noqa: BLE001 - whatever a judge's client raises, there is no judge
            raise UserError(
                f"judge {judge!r} cannot be reached ({error}); leave --judge out to match exactly"
            ) from None
    if not working:
        raise UserError(f"judge {judge!r} does not answer; set its key as VLMEvalKit wants it, or leave --judge out")


class MuteJudge:
    """A judge that never has an answer, for the scorer that insists on one after exact matching."""

    def working(self) -> bool:
        """It always works."""
        return True

    def generate(self, *_: Any, **__: Any) -> str:
        """What VLMEvalKit's judges say when they fail."""
        return "Failed to obtain answer via API."


class _SerialPool:
    """Stands in for the 16 processes that VLMEvalKit forks to compare a few strings."""

    def __init__(self, *_: Any) -> None:
        pass

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return [function(item) for item in items]


@contextlib.contextmanager
def _in_process(folder: Path, captured: list[list[float]], judge: str | None) -> Iterator[None]:
    """Let the scorers work in this thread and leave nothing outside ``folder``."""
    smp = kit("vlmeval.smp")
    image_mcq, image_vqa, image_yorn = (kit(f"vlmeval.dataset.image_{name}") for name in ("mcq", "vqa", "yorn"))
    multiple_choice, vqa_eval = (kit(f"vlmeval.dataset.utils.{name}") for name in ("multiple_choice", "vqa_eval"))

    def serial(
        function: Callable[..., Any], tasks: Iterable[Any] = (), *, save: Any = None, keys: Any = None, **_: Any
    ) -> list[Any]:
        results = [function(**task) if isinstance(task, dict) else function(*task) for task in tasks]
        if save is not None:
            known = smp.load(save) if os.path.exists(save) else {}
            smp.dump(known | dict(zip(keys or (), results, strict=True)), save)
        return results

    def capture(results: Any, *arguments: Any, **options: Any) -> list[float]:
        hits: list[float] = hit_calculate(results, *arguments, **options)
        captured.append(hits)
        return hits

    hit_calculate = vqa_eval.hit_calculate
    with contextlib.ExitStack() as stack:
        for module in (image_mcq, image_vqa, image_yorn, multiple_choice):
            stack.enter_context(replaced(module, track_progress_rich=serial))
        stack.enter_context(replaced(image_vqa, mp=SimpleNamespace(Pool=_SerialPool)))
        if judge is None:
            stack.enter_context(replaced(image_vqa, build_judge=lambda **_: MuteJudge()))
        stack.enter_context(replaced(vqa_eval, hit_calculate=capture))
        # The circular scorer writes /tmp/<time>.tsv, which two runs would share.
        private = os.path.relpath(folder / "circular", "/tmp")  # noqa: S108
        stack.enter_context(replaced(multiple_choice, timestr=lambda *_: private))
        stack.enter_context(variables(PRED_FORMAT="tsv", EVAL_FORMAT="csv"))
        yield
