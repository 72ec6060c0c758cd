"""One stage of one seed of the study of frames: trained on a set of videos, asked about longer ones, recorded."""

from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

from ..data.library import LibrarySpec
from ..data.timelines import DEPTHS, KINDS, VideoSetSpec
from ..eval.statistics import interval
from ..models.checkpoints import load_model, new_model
from ..models.presets import get_preset
from ..models.processor import load_processor
from ..models.shipped_models import SHIPPED_PRESET
from ..models.teacher import inherit, shipped_teacher
from ..records import Record, RunFolder, RunSpec
from ..training.fixed import FixedTraining
from ..training.fixed_videos import FixedVideos, turn_answers
from ..training.loop import TrainArguments, TrainResult
from ..training.moments import Library, load_library
from ..training.video_answers import answers_alone
from .cell import MODEL_FOLDER, curve, facts
from .frame_scaling import BENCHMARKS
from .plan import VALIDATION_SCORE
from .scales import get_scale
from .study import arm_config

PROBE = "probe.jsonl"

ARTIFACT = "fig_frames"


class FrameCell:
    """A cell on its way: its model, its videos and what is asked of it.

    Args:
        spec: of the cell, from `frame_scaling`.
        folder: its own, held.
        runs: folder of all runs: of the stage that it goes on from, and the library.
    """

    def __init__(self, spec: RunSpec, folder: RunFolder, runs: Path) -> None:
        self.spec, self.folder, self.runs = spec, folder, runs
        self.device = str(spec.arguments["device"])
        self.model = _begin(spec, runs).to(self.device)
        videos = self._videos(spec.arguments["pages"])
        self.training = FixedTraining(
            self.model,
            videos,
            TrainArguments.model_validate(spec.arguments["training"]),
            folder,
            videos.key,
            probe=self._probe,
            probe_every=spec.arguments["probe_every"],
        )

    def finish(self, result: TrainResult) -> None:
        """Score the model and write the records."""
        arguments = self.spec.arguments
        shared, notes = facts(self.spec, self.model, self.device, result)
        shared |= {
            "artifact": ARTIFACT,
            "source": "measured",
            "split": "synthetic",
            "model": get_scale(arguments["scale"]).preset,
        }
        notes |= {"scoring": "exact", "role": arguments["role"], "stage": arguments["stage"]}
        notes["compiled"] = self.training.compiled
        make = partial(_record, shared, notes)
        # Not called a loss of the other studies: their videos are no pages.
        records = [
            one.model_copy(update={"metric": "video_loss"})
            for one in curve(self.folder, shared | {"extra": notes})
        ]  # fmt: skip
        probes = {row["step"]: row["percent"] for row in self.folder.rows(PROBE) if row["step"] <= result.steps}
        records += [
            make("probe", percent[kind], BENCHMARKS[kind], steps=step)
            for step, percent in sorted(probes.items())
            for kind in KINDS
        ]
        if arguments["role"] == "test":
            records += self._scores(make)
            self.model.save_pretrained(self.folder.path / MODEL_FOLDER, safe_serialization=True)
            load_processor().save_pretrained(self.folder.path / MODEL_FOLDER)
        else:
            last = probes[max(probes)] if probes and result.status == "ok" else {}
            records.append(make(VALIDATION_SCORE, fmean(last.values()) if last else 0.0, n=len(self._probed())))
        self.folder.finish(records, status=result.status, loss=result.loss, seconds=round(result.seconds, 1))

    def _scores(self, make: Any) -> list[Record]:
        records = []
        sets = {name: raw for name, raw in self.spec.arguments["sets"].items() if name != "probe"}
        for number, raw in enumerate(sets.values()):
            videos = self._videos(raw)
            records += _scores_of(videos, answers_alone(self.model, videos), "score", make)
            if number == 0 and self.spec.arguments["stage"] == "short":
                blind = self._videos(raw, blind=True)
                records += _scores_of(blind, answers_alone(self.model, blind), "blind", make)
                records += _guesses_of(videos, make)
        return records

    def _probe(self, step: int) -> None:
        found = turn_answers(self.model, self._probed())
        self.folder.append(
            PROBE, {"step": step, "percent": {kind: round(100 * fmean(found[kind]), 3) for kind in KINDS}}
        )

    def _probed(self) -> FixedVideos:
        return self._videos(self.spec.arguments["sets"]["probe"])

    def _videos(self, raw: dict[str, Any], blind: bool = False) -> FixedVideos:
        return _videos(VideoSetSpec.model_validate(raw).model_dump_json(), self.runs / "cache", self.device, blind)


def _begin(spec: RunSpec, runs: Path) -> Any:
    """The model that a stage begins with: its teacher's heir, or what the stage before left."""
    before = spec.arguments.get("short")
    if before is not None:
        return load_model(str(runs / before)).model
    model = new_model(arm_config(spec).config, spec.arguments["seed"])
    inherit(model, shipped_teacher())
    return model


def prepare_libraries(spec: RunSpec, runs: Path, workers: int, progress: Any) -> None:
    """Draw and see all moments of a cell's videos once, before the workers start."""
    for raw in [spec.arguments["pages"], *spec.arguments["sets"].values()]:
        one = VideoSetSpec.model_validate(raw).library
        load_library(
            one, _tower(), runs / "cache", device=str(spec.arguments["device"]), workers=workers, progress=progress
        )


def _scores_of(videos: FixedVideos, found: list[list[float]], metric: str, make: Any) -> list[Record]:
    """By kind of question, and needles by depth too; intervals are over videos, whose questions are not independent."""
    questions = videos.timelines[0].questions
    frames = videos.timelines[0].frames
    records = []
    for kind in KINDS:
        columns = [column for column, question in enumerate(questions) if question.kind == kind]
        samples = [fmean(row[column] for column in columns) for row in found]
        records.append(
            make(metric, 100 * fmean(samples), BENCHMARKS[kind], frames=frames, samples=samples,
                 n=len(samples) * len(columns))
        )  # fmt: skip
    if metric == "score":
        for column, depth in enumerate(DEPTHS):
            samples = [row[column] for row in found]
            records.append(
                make("score", 100 * fmean(samples), BENCHMARKS["needle"], frames=frames, samples=samples, depth=depth)
            )
    return records


def _guesses_of(videos: FixedVideos, make: Any) -> list[Record]:
    """How often naming any value, count or key at hand is right."""
    records = []
    for kind in KINDS:
        guesses = [question.guess for one in videos.timelines for question in one.questions if question.kind == kind]
        records.append(
            make("page_value", 100 * fmean(guesses), BENCHMARKS[kind], frames=videos.timelines[0].frames,
                 n=len(guesses))
        )  # fmt: skip
    return records


@cache
def _tower() -> Any:
    # Every preset around the shipped tower has the same one.
    return new_model(get_preset(SHIPPED_PRESET), 0).model.visual


@cache
def _library(spec: LibrarySpec, folder: Path, device: str) -> Library:
    return load_library(spec, _tower(), folder, device=device)


@cache
def _videos(spec: str, folder: Path, device: str, blind: bool) -> FixedVideos:
    """The videos of a specification in JSON; all cells of this process share them."""
    found = VideoSetSpec.model_validate_json(spec)
    return FixedVideos(found, _library(found.library, folder, device), load_processor(), blind)


def _record(
    shared: dict[str, Any],
    notes: dict[str, Any],
    metric: str,
    value: float,
    benchmark: str | None = None,
    *,
    samples: list[float] | None = None,
    n: int | None = None,
    frames: int | None = None,
    steps: int | None = None,
    depth: float | None = None,
) -> Record:
    own: dict[str, Any] = {"metric": metric, "value": value, "unit": "%", "benchmark": benchmark, "frames": frames}
    own |= {"n": n if n is not None or samples is None else len(samples)}
    bounds = interval(samples) if samples is not None else None
    if bounds is not None:
        own |= {"ci_low": 100 * bounds[0], "ci_high": 100 * bounds[1]}
    if steps is not None:
        own["steps"] = steps
    return Record(**shared | own | {"extra": notes | ({} if depth is None else {"depth": depth})})
