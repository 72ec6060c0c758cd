"""The cells of a registered study: several train side by side in one process, and are scored on exact answers.

Beside its final scores a cell records when it learnt: the share of exact answers on pages of the validation split is
asked now and then, and a benchmark counts as learnt from the first time that it is half way from naming any value of
the page to being always right. Recall comes suddenly, and final scores alone would hide that.
"""

from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

from ..eval.benchmarks import find_benchmark
from ..eval.statistics import interval
from ..models.device import device_name
from ..models.processor import load_processor
from ..records import Record, RunFolder, RunHeldError, RunSpec
from ..training.features import PageSetSpec, load_page_set
from ..training.fixed import FixedPages, FixedTraining, exact_answers, side_by_side, uncompiled
from ..training.loop import TrainArguments, TrainResult
from .cell import MODEL_FOLDER, build_model, curve, facts
from .frame_cells import FrameCell
from .frame_scaling import FRAMES, LONG_SIDE_BY_SIDE
from .mqar import RECALL
from .plan import TEXT_RICH, VALIDATION_SCORE
from .recall_cells import RecallCell

PROBE = "probe.jsonl"

SIDE_BY_SIDE = 4
"""Cells that one process trains at a time on an accelerator; one on the CPU, where nothing waits for launches."""


def is_exact(spec: RunSpec) -> bool:
    """Whether a cell belongs to a registered study."""
    return spec.arguments.get("scoring") in ("exact", FRAMES, RECALL)


def side_by_side_of(first: RunSpec) -> int:
    """How many cells one process trains at the same time, the first of which is given."""
    usual = LONG_SIDE_BY_SIDE if first.arguments.get("stage") == "long" else SIDE_BY_SIDE
    return usual if first.arguments["device"] == "cuda" else 1


def run_together(specs: list[RunSpec], runs: Path, most: int | None = None) -> None:
    """Train and score the first cells that are neither finished nor held by another process.

    Args:
        specs: the first is of a registered study; others are passed over.
        runs: folder of all runs.
        most: no more at a time; as many as go together if None.
    """
    count = min(side_by_side_of(specs[0]), most or len(specs))
    with ExitStack() as held:
        begun: list[_Cell | FrameCell | RecallCell] = []
        for spec in (one for one in specs if is_exact(one)):
            if len(begun) == count:
                break
            folder = RunFolder(runs, spec)
            if folder.finished:
                continue
            try:
                held.enter_context(folder)
            except RunHeldError:
                continue
            if not folder.finished:
                folder.write_environment(device_name(spec.arguments["device"]))
                begun.append(_kind_of(spec)(spec, folder, runs))
        results = side_by_side(cell.training.run() for cell in begun)
        with uncompiled():
            for cell, result in zip(begun, results, strict=True):
                cell.finish(result)


def _kind_of(spec: RunSpec) -> "type[FrameCell | RecallCell | _Cell]":
    """What trains and scores a cell."""
    kinds: dict[str, type[FrameCell | RecallCell]] = {FRAMES: FrameCell, RECALL: RecallCell}
    return kinds.get(spec.arguments["scoring"], _Cell)


class _Cell:
    """One cell on its way: its model, its pages and what is asked of it."""

    def __init__(self, spec: RunSpec, folder: RunFolder, runs: Path) -> None:
        self.spec, self.folder, self.runs = spec, folder, runs
        self.device = str(spec.arguments["device"])
        self.model = build_model(spec, runs).to(self.device)
        self.arguments = TrainArguments.model_validate(spec.arguments["training"])
        self.probe_spec = PageSetSpec.model_validate(spec.arguments["sets"]["probe"])
        pages = self._pages(PageSetSpec.model_validate(spec.arguments["pages"]))
        self.training = FixedTraining(
            self.model,
            pages,
            self.arguments,
            folder,
            pages.pages.key,
            probe=self._probe,
            probe_every=spec.arguments["probe_every"],
        )

    def finish(self, result: TrainResult) -> None:
        """Score the model and write the records."""
        shared, notes = facts(self.spec, self.model, self.device, result)
        notes |= {"scoring": "exact", "role": self.spec.arguments["role"], "compiled": self.training.compiled}
        if self.spec.arguments["role"] == "test":
            # It is tested at no other rate than the chosen one.
            notes["best_lr"] = notes["learning_rate"]
        make = partial(_record, shared | {"source": "measured", "split": "synthetic"}, notes)
        records = curve(self.folder, shared | {"source": "measured", "split": "synthetic", "extra": notes})
        probes = {row["step"]: row["percent"] for row in self.folder.rows(PROBE) if row["step"] <= result.steps}
        records += self._learning(probes, make)
        if self.spec.arguments["role"] == "test":
            records += self._scores(make)
            self.model.save_pretrained(self.folder.path / MODEL_FOLDER, safe_serialization=True)
            load_processor().save_pretrained(self.folder.path / MODEL_FOLDER)
        else:
            last = probes[max(probes)] if probes and result.status == "ok" else {}
            score = fmean(value for name, value in last.items() if name in TEXT_RICH) if last else 0.0
            records.append(make(VALIDATION_SCORE, score, n=self.probe_spec.pages))
        self.folder.finish(records, status=result.status, loss=result.loss, seconds=round(result.seconds, 1))

    def _learning(self, probes: dict[int, dict[str, float]], make: Any) -> list[Record]:
        """The curve of exact answers, and for every benchmark whether and when it was learnt."""
        records = []
        for benchmark in self.spec.arguments["benchmarks"]:
            family = find_benchmark(benchmark).family
            guesses = [
                guess
                for index, guess in enumerate(self._guesses(self.probe_spec))
                if self.probe_spec.family_of(index) == family
            ]
            threshold = (100 + 100 * fmean(guesses)) / 2
            own = {step: percent[benchmark] for step, percent in sorted(probes.items())}
            records += [make("probe", value, benchmark, steps=step, n=len(guesses)) for step, value in own.items()]
            reached = next((step for step, value in own.items() if value >= threshold), None)
            records.append(make("learnt", 100.0 * (reached is not None), benchmark, threshold=round(threshold, 2)))
            if reached is not None:
                records.append(make("steps_to_threshold", reached, benchmark, unit="steps"))
        return records

    def _scores(self, make: Any) -> list[Record]:
        records = []
        for name, raw in self.spec.arguments["sets"].items():
            if name == "probe":
                continue
            asked = PageSetSpec.model_validate(raw)
            benchmark, kind = name.rsplit(" ", 1)
            right = exact_answers(self.model, self._pages(asked)).double().tolist()
            first = asked.level == self.spec.arguments["pages"]["levels"][0]
            metric = "blind" if kind == "blind" else "score" if first else "level_score"
            records.append(make(metric, 100 * fmean(right), benchmark, samples=right, level=asked.level))
            if metric == "score":
                guesses = self._guesses(asked)
                records.append(make("page_value", 100 * fmean(guesses), benchmark, samples=guesses, level=asked.level))
        return records

    def _probe(self, step: int) -> None:
        right = exact_answers(self.model, self._pages(self.probe_spec)).tolist()
        families = [self.probe_spec.family_of(index) for index in range(len(right))]
        percent = {}
        for benchmark in self.spec.arguments["benchmarks"]:
            family = find_benchmark(benchmark).family
            own = [float(one) for one, of in zip(right, families, strict=True) if of == family]
            percent[benchmark] = round(100 * fmean(own), 3)
        self.folder.append(PROBE, {"step": step, "percent": percent})

    def _guesses(self, spec: PageSetSpec) -> list[float]:
        """How likely the first answer of each page is guessed by naming any of the values on the page."""
        guesses: list[float] = self._pages(spec).pages.tensors["guesses"].tolist()
        return guesses

    def _pages(self, spec: PageSetSpec) -> FixedPages:
        return _load(spec.model_dump_json(), self.runs / "cache", self.device)


@cache
def _load(pages: str, folder: Path, device: str) -> FixedPages:
    """The pages of a specification in JSON; all cells of this process share them."""
    from ..models.checkpoints import new_model
    from ..models.presets import get_preset

    processor = load_processor()
    spec = PageSetSpec.model_validate_json(pages)
    found = load_page_set(spec, new_model(get_preset("tiny"), 0), processor, folder, device=device)
    return FixedPages(found, processor.tokenizer.eos_token_id)


def _record(
    shared: dict[str, Any],
    notes: dict[str, Any],
    metric: str,
    value: float,
    benchmark: str | None = None,
    *,
    unit: str = "%",
    samples: list[float] | None = None,
    n: int | None = None,
    steps: int | None = None,
    level: int | None = None,
    threshold: float | None = None,
) -> Record:
    own: dict[str, Any] = {"metric": metric, "value": value, "unit": unit, "benchmark": benchmark, "n": n}
    if steps is not None:
        own["steps"] = steps
    if samples is not None:
        bounds = interval(samples)
        own |= {"n": len(samples)} | ({"ci_low": 100 * bounds[0], "ci_high": 100 * bounds[1]} if bounds else {})
    added = {name: one for name, one in {"level": level, "threshold": threshold}.items() if one is not None}
    return Record(**shared | own | {"extra": notes | added})
