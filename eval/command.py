"""The `eval` command: one model on benchmarks, each kept as a run of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress
from rich.table import Table

from ..errors import UserError, unknown_name
from ..files import check_folder
from ..models.fingerprint import weights_hash
from ..options import FEWEST_PIXELS, MOST_PIXELS, TEMPORAL_PATCH
from ..printing import PlainConsole
from ..records import Record, RunFolder, RunSpec
from .benchmarks import Benchmark, find_benchmark, find_suite
from .choosing import choose_model, data_hash
from .sources import QUESTIONS, Split, check_questions, choose_split

if TYPE_CHECKING:
    from ..models.checkpoints import LoadedModel
    from .runner import EvalResult
    from .team import Team

MEANINGS = {
    "score": "score",
    "blind": "baseline: the same model, grey picture",
    "page_value": "baseline: naming any value on the page",
}
STYLES = ("dataset", "qwen")
BATCH_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `eval` is asked for, of every benchmark alike.

    Attributes:
        model: Folder, run, preset or hub id, or ``best``; None takes the model that the package ships.
        data: auto, official or synthetic.
        limit: About how many questions; all, or `sources.QUESTIONS` synthetic ones, if None.
        batch_size: Questions at a time; None for `BATCH_SIZE`, or one with ``graph``.
        level: Difficulty of synthetic pages.
        seed: Of synthetic pages.
        device: auto, cpu or cuda.
        runs: Folder of all runs.
        prompts: dataset or qwen: see `vlmevalkit.STYLES`.
        min_pixels: Smallest area of a picture; the model's own if None.
        max_pixels: Largest area of a picture; the model's own if None.
        frames: Frames of a video; a benchmark of videos is asked with each number of them.
        judge: A judge that VLMEvalKit knows; exact matching if None.
        blind: Whether the blind baseline is asked too.
        max_bad: How many rows of a file may be bad.
        graph: Whether answers are written by captured decode steps.
    """

    model: str | None
    data: str
    limit: int | None
    batch_size: int | None
    level: int
    seed: int
    device: str
    runs: Path
    prompts: str = "dataset"
    min_pixels: int | None = None
    max_pixels: int | None = None
    frames: tuple[int, ...] = (64,)
    judge: str | None = None
    blind: bool = True
    max_bad: int = 0
    graph: bool = False

    @property
    def questions_at_a_time(self) -> int:
        """How many are put together."""
        return (1 if self.graph else BATCH_SIZE) if self.batch_size is None else self.batch_size


def eval_command(benchmarks: Sequence[str], suite: str | None, request: Request) -> list["EvalResult"]:
    """Evaluate a model on benchmarks, or on those of a suite.

    Raises:
        UserError: For unknown names, missing data, or a model that cannot be loaded, before the first question.
    """
    if bool(benchmarks) == bool(suite):
        raise UserError("name benchmarks, or a --suite, and not both; `infinitevl-bench list benchmarks` shows them")
    if request.prompts not in STYLES:
        raise unknown_name("wording of prompts", request.prompts, STYLES)
    if request.graph and request.questions_at_a_time > 1:
        raise UserError(
            f"captured steps write one answer at a time, not {request.batch_size}; leave --batch-size out, or --graph"
        )
    _check_numbers(request)
    found = [find_benchmark(name) for name in (find_suite(suite) if suite else benchmarks)]
    for benchmark in found:
        if choose_split(benchmark, request.data) == "synthetic":
            check_questions(request.limit or QUESTIONS)
    check_folder(request.runs, "--runs")
    session = _Session(request)
    results = [
        session.evaluate(benchmark, frames)
        for benchmark in found
        for frames in (request.frames if benchmark.video else request.frames[:1])
    ]
    if len(results) > 1:
        _show_summary(session.console, results)
    return results


def _check_numbers(request: Request) -> None:
    """Refuse numbers of frames that the vision tower would not see as asked, and areas that are none."""
    for frames in request.frames:
        # The helper library of the official wrapper rounds them; a score would stand under a number that was not fed.
        if frames < TEMPORAL_PATCH or frames % TEMPORAL_PATCH:
            below = frames // TEMPORAL_PATCH * TEMPORAL_PATCH
            nearest = (below, below + TEMPORAL_PATCH) if below >= TEMPORAL_PATCH else (TEMPORAL_PATCH,)
            raise UserError(
                f"{frames} frames of a video cannot be fed, as the vision tower joins {TEMPORAL_PATCH} into one; "
                f"give --frames {' or '.join(map(str, nearest))}"
            )
    for option, pixels in (("--min-pixels", request.min_pixels), ("--max-pixels", request.max_pixels)):
        if pixels is not None and not FEWEST_PIXELS <= pixels <= MOST_PIXELS:
            raise UserError(f"{option} takes {FEWEST_PIXELS} to {MOST_PIXELS:,} pixels of area, not {pixels}")


class _Session:
    """One request on this process: its place in the team, and the model, loaded when it is first needed."""

    def __init__(self, request: Request) -> None:
        from ..models.device import resolve_device
        from .team import join_team

        self.request = request
        self.team: Team
        self.team, self.device = join_team(resolve_device(request.device))
        self.console = PlainConsole(quiet=not self.team.leads)
        self._loaded: dict[str, LoadedModel] = {}

    def evaluate(self, benchmark: Benchmark, frames: int) -> "EvalResult":
        """Evaluate the model on one benchmark, or show what an earlier call with the same request found.

        Args:
            benchmark: any.
            frames: of a video, where it is one of videos.
        """
        request = self.request
        split = choose_split(benchmark, request.data)
        reference = choose_model(request.model, benchmark, request.runs, self.console)
        spec = self._spec(benchmark, split, reference, frames)
        folder = RunFolder(request.runs, spec)
        if not self.team.leads:
            self.team.wait()
            return self._result(folder, benchmark, split, reference)
        with folder:
            self.team.wait()
            result = self._result(folder, benchmark, split, reference)
        _show(self.console, result, spec)
        return result

    def _spec(self, benchmark: Benchmark, split: Split, reference: str, frames: int) -> RunSpec:
        request = self.request
        weights = weights_hash(reference)
        if weights is None:
            # What a hub gives lies in a folder that is named by its commit.
            weights = f"hub:{reference}@{Path(self._load(reference).model.config.name_or_path).name}"
        data = data_hash(benchmark, split, request.runs / "data", request.limit, request.seed, request.level, frames)
        return RunSpec(
            kind="eval",
            arguments={
                "benchmark": benchmark.name,
                "model": Path(reference).name,
                "weights": weights,
                "data": split,
                "data_sha256": data,
                "limit": request.limit if split == "official" else request.limit or QUESTIONS,
                "seed": request.seed if split == "synthetic" else None,
                "level": request.level if split == "synthetic" else None,
                "batch_size": request.questions_at_a_time,
                **({"graph": True} if request.graph else {}),
                "device": self.device.partition(":")[0],
                "prompts": request.prompts,
                "pixels": [request.min_pixels, request.max_pixels],
                "frames": frames if benchmark.video else None,
                "judge": request.judge,
                "blind": request.blind,
                "max_bad": request.max_bad,
                "vlmevalkit": metadata.version("ms-vlmeval"),
            },
        )

    def _result(self, folder: RunFolder, benchmark: Benchmark, split: Split, reference: str) -> "EvalResult":
        finished = folder.finished
        # No process may finish before all have looked.
        self.team.wait()
        if not finished:
            return self._run(folder, benchmark, split, reference)
        self.console.print(f"already evaluated in {folder.path}; shown again", highlight=False, soft_wrap=True)
        return _finished(folder, benchmark, split)

    def _run(self, folder: RunFolder, benchmark: Benchmark, split: Split, reference: str) -> "EvalResult":
        from ..models.accounting import state_elements
        from ..models.device import device_name
        from .predictions import PredictionCache
        from .runner import FRAMES, Asking, evaluate
        from .scoring import check_judge

        request = self.request
        if request.judge is not None and benchmark.answers:
            # All questions are answered before it is needed: a slip in its name, or a missing key, is said now.
            check_judge(request.judge)
        loaded = self._load(reference)
        if self.team.leads:
            folder.write_environment(device_name(loaded.model.device.type))
        arguments = folder.spec.arguments
        identity = f"{arguments['weights']} {loaded.model.dtype} {device_name(loaded.model.device.type)}"
        identity += " graph" if request.graph else ""
        console = PlainConsole(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
            tasks = {kind: bars.add_task(kind, total=None) for kind in ("sighted", "blind")}
            result = evaluate(
                loaded.model,
                loaded.processor,
                benchmark.name,
                data=split,
                limit=request.limit,
                seed=request.seed,
                level=request.level,
                folder=folder,
                data_root=request.runs / "data",
                asking=Asking(
                    batch_size=request.questions_at_a_time,
                    style="qwen" if request.prompts == "qwen" else "dataset",
                    frames=arguments["frames"] or FRAMES,
                    blind=request.blind,
                    judge=request.judge,
                    max_bad=request.max_bad,
                    graph=request.graph,
                ),
                model_name=loaded.name,
                progress=lambda kind, done, total: bars.update(tasks[kind], completed=done, total=total),
                team=self.team,
                cache=PredictionCache(request.runs / "cache" / "predictions", identity, arguments["data_sha256"]),
            )
        if self.team.leads:
            extra = {"weights": "random" if loaded.random_weights else "trained"}
            shared = {"run_id": folder.spec.id, "state_elements": state_elements(loaded.model.config)}
            result.records = [
                record.model_copy(update=shared | {"extra": record.extra | extra}) for record in result.records
            ]
            folder.finish(result.records, status="ok")
        return result

    def _load(self, reference: str) -> "LoadedModel":
        if reference not in self._loaded:
            self._loaded = {reference: load(reference, self.device, self.request.min_pixels, self.request.max_pixels)}
        return self._loaded[reference]


def load(reference: str, device: str, min_pixels: int | None, max_pixels: int | None) -> "LoadedModel":
    """Load a model and its processor, without a progress bar."""
    from transformers.utils import logging

    from ..models.checkpoints import load_model

    # Weights are read in a moment, and the bar would stand above a message.
    logging.disable_progress_bar()
    return load_model(reference, device=device, min_pixels=min_pixels, max_pixels=max_pixels)


def _finished(folder: RunFolder, benchmark: Benchmark, split: Split) -> "EvalResult":
    from .runner import EvalResult, predictions_name

    submission = next(iter(folder.path.glob("submission-*")), None)
    rows = folder.rows(predictions_name(benchmark, split))
    return EvalResult(benchmark, split, folder.records(), rows, submission)


def _show(console: PlainConsole, result: "EvalResult", spec: RunSpec) -> None:
    benchmark = result.benchmark
    if not benchmark.answers:
        console.print(
            f"{benchmark.name}: {len(result.predictions)} predictions; its answers are not public, so there is no "
            f"score. For its server: {result.submission}",
            highlight=False,
            soft_wrap=True,
        )
        console.print(_data_line(benchmark, result.split, spec.arguments), highlight=False, soft_wrap=True)
        return
    first = result.records[0]
    table = Table(
        box=None, pad_edge=False, header_style="bold", title=f"{first.benchmark} · {first.model}", title_justify="left"
    )
    for heading, justify in (("", "left"), (first.unit, "right"), ("95 % interval", "right"), ("n", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for record in result.records:
        table.add_row(MEANINGS[record.metric], f"{record.value:.1f}", _interval(record), str(record.n))
    console.print(table)
    console.print(_data_line(benchmark, result.split, spec.arguments), highlight=False, soft_wrap=True)
    if "frames_fed" in first.extra:
        console.print(_frames_line(first), highlight=False, soft_wrap=True)
    if bad := first.extra.get("bad_rows"):
        console.print(f"bad rows left out: {bad}; they are listed in {spec.id}/bad_rows.jsonl", highlight=False)
    if first.extra.get("weights") == "random":
        console.print(
            "weights: RANDOM; nothing was trained, so these numbers say nothing about a model", soft_wrap=True
        )
    else:
        console.print("weights: read from the checkpoint", soft_wrap=True)


def _frames_line(record: Record) -> str:
    mean, short = record.extra["frames_fed"], record.extra["short_videos"]
    line = f"frames: {record.frames} asked for, {mean:g} fed on average"
    return line + (f"; {short} videos have fewer, down to {record.extra['fewest_frames_fed']}" if short else "")


def _show_summary(console: PlainConsole, results: Sequence["EvalResult"]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", title="all benchmarks", title_justify="left")
    for heading in ("benchmark", "data", "score", "95 % interval", "n"):
        table.add_column(heading, justify="left" if heading in ("benchmark", "data") else "right")
    for result in results:
        score = next((record for record in result.records if record.metric == "score"), None)
        value = ("no score", "", str(len(result.predictions)))
        if score is not None:
            value = (f"{score.value:.1f} {score.unit}", _interval(score), str(score.n))
        frames = f" ({score.frames} frames)" if score is not None and score.frames is not None else ""
        table.add_row(result.benchmark.name + frames, result.split, *value)
    console.print(table)


def _interval(record: Record) -> str:
    return "" if record.ci_low is None or record.ci_high is None else f"{record.ci_low:.1f} to {record.ci_high:.1f}"


def _data_line(benchmark: Benchmark, split: Split, arguments: Mapping[str, Any]) -> str:
    if split == "official":
        limit = arguments["limit"]
        return f"data: official {benchmark.dataset}" + (
            f", {limit} questions spread over it" if limit is not None else ", all of it"
        )
    return (
        f"data: SYNTHETIC {benchmark.twin}, our own pages (level {arguments['level']}, seed {arguments['seed']}); "
        "not comparable with published scores"
    )
