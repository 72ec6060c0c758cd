"""The `train` commands: one stage of training, in one process or in those that `accelerate launch` started."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from transformers.utils import logging

from ..data.encode import Limits
from ..data.inspection import Inspection, inspect
from ..data.mixture import check_weights
from ..data.packing import steps_of_pass
from ..data.sources import PAGES, Source, open_source
from ..errors import UserError, terminal_safe
from ..files import check_folder
from ..models.accounting import count_parameters, state_elements
from ..models.config import pattern_of_ratio
from ..models.device import device_name, resolve_device
from ..models.fingerprint import weights_hash
from ..models.registry import canonical_name
from ..models.shipped import TEACHER, named
from ..printing import PlainConsole
from ..records import Record, RunFolder, RunSpec
from .clock import METRICS
from .distill import share_frozen
from .export import export
from .loop import TrainResult, make_accelerator, set_precision, train
from .packed import PackedData
from .processes import first_does, shared_folder
from .stages import StageSettings, parse_changes, stage_settings
from .students import Starting, load_start, objective_of

BROKEN = "broken.jsonl"
DEFAULT_DATA = ["pages:charts=3", "pages:documents=1"]


def train_command(
    stage: str,
    *,
    data: Sequence[str] | None,
    model: str | None = None,
    teacher: str | None = None,
    mixer: str = "gated_deltanet",
    ratio: str | None = None,
    pattern: str | None = None,
    window: int | None = None,
    options: dict[str, Any],
    changes: Sequence[str] | None,
    device: str,
    runs: Path,
) -> Path:
    """Run one stage, or finish what an interrupted call left; the folder of the run, which the next stage takes.

    Args:
        stage: one of `stages.STAGES`.
        data: sources, each with a weight after an equals sign or none; our own pages if there are none.
        model: what to go on from: a run, a folder or a hub id.
        teacher: of the stages that have one.
        mixer, ratio, pattern, window: of a student that is made of the teacher.
        options: settings by name; None where one is not given.
        changes: settings as ``name=value``, which go before ``options``.
        device: auto, cpu or cuda.
        runs: folder of all runs.

    Raises:
        UserError: for whatever is wrong, before the first step.
    """
    if ratio is not None and pattern is not None:
        raise UserError("give --swa-ratio or --pattern, not both")
    chosen = pattern_of_ratio("1/4" if ratio is None else ratio) if pattern is None else pattern
    for reference, option in ((model, "--model"), (teacher, "--teacher")):
        named(reference, option)
    logging.disable_progress_bar()
    device = resolve_device(device)
    state = PartialState(cpu=device == "cpu")
    given = {name: value for name, value in options.items() if value is not None} | parse_changes(changes or ())
    settings = stage_settings(stage, given, device)
    # Looking through the data can take hours, and fills a cache in that folder.
    first_does(state, lambda: check_folder(runs, "--runs"))
    names, weights = parse_sources(data or DEFAULT_DATA)
    sources = [open_source(name) for name in names]
    weights_of = check_weights(weights, [len(source) for source in sources])
    console = PlainConsole(quiet=not state.is_main_process, soft_wrap=True)
    starting = load_start(
        stage, settings, model=model, teacher=teacher, mixer=canonical_name(mixer), pattern=chosen, window=window
    )
    found = inspect_all(sources, starting.processor, settings, runs / "cache", state, console)
    console.print(length_table(found, weights_of))
    packs = _data(sources, found, weights_of, starting, settings)
    if "steps" not in given:
        steps = steps_of_pass(packs.packs(), sum(len(one.whole) for one in found), settings.training.batch_size)
        settings = settings.model_copy(update={"training": settings.training.model_copy(update={"steps": steps})})
    spec = RunSpec(
        kind="train",
        arguments={
            "stage": stage,
            "model": None if model is None else _weights(model),
            "teacher": _weights(teacher or TEACHER) if starting.teacher is not None or model is None else None,
            "student": None if model else {"mixer": canonical_name(mixer), "pattern": chosen, "window": window},
            "data": [[one.name, one.key, weight] for one, weight in zip(sources, weights_of, strict=True)],
            "settings": settings.model_dump(mode="json"),
            "device": device,
        },
    )
    with shared_folder(runs, spec, state) as folder:
        if not folder.finished:
            _run(stage, folder, starting, packs, settings, device, state, console)
        if state.is_main_process:
            summary = folder.result()["summary"]
            console.print(f"{stage}: {summary['status']}, loss {summary['loss']}; the model is in {folder.path}")
    return folder.path


def _data(
    sources: Sequence[Source],
    found: Sequence[Inspection],
    weights: Sequence[float],
    starting: Starting,
    settings: StageSettings,
) -> PackedData:
    return PackedData(
        sources,
        found,
        weights,
        starting.model,
        starting.processor,
        settings.data.limits,
        batch_size=settings.training.batch_size,
        seed=settings.training.seed,
        most_broken=settings.data.max_broken,
        pack=settings.data.pack,
    )


def _run(
    stage: str,
    folder: RunFolder,
    starting: Starting,
    packs: PackedData,
    settings: StageSettings,
    device: str,
    state: PartialState,
    console: PlainConsole,
) -> None:
    if state.is_main_process:
        folder.write_environment(device_name(device))
        folder.truncate(BROKEN, 0)
        for found in packs.inspections:
            for why in found.broken.values():
                folder.append(BROKEN, {"broken": why})
    objective = objective_of(stage, starting, settings)
    if starting.teacher is not None and state.num_processes == 1:
        set_precision(objective, settings.training.precision)
        objective.to(make_accelerator(settings.training, device).device)
        share_frozen(starting.model, starting.teacher)

    def show(row: dict[str, Any]) -> None:
        console.print(
            f"step {row['step']}/{settings.training.steps}  loss {row['loss']:.4f}  {row['tokens_per_second']:,.0f} "
            f"tokens/s  {row['seconds_left']:,.0f} s left",
            highlight=False,
        )

    result = train(objective, packs.batches, settings.training, folder, folder.spec.id, on_step=show, device=device)
    origin = f"Trained by `infinitevl-bench train {stage}` (run {folder.spec.id}, ended {result.status})."
    export(starting, settings, folder.path, origin, write=state.is_main_process)
    if state.is_main_process:
        for why in packs.broken:
            folder.append(BROKEN, {"broken": why})
        records = _records(stage, folder, starting, settings, device, state, result)
        folder.finish(
            records, status=result.status, loss=result.loss, seconds=round(result.seconds, 1), steps=result.steps
        )
    state.wait_for_everyone()


def _records(
    stage: str,
    folder: RunFolder,
    starting: Starting,
    settings: StageSettings,
    device: str,
    state: PartialState,
    result: TrainResult,
) -> list[Record]:
    """Loss, speed and peak memory of a stage."""
    text = starting.model.config.text_config
    rows = folder.rows(METRICS)
    shared: dict[str, Any] = {
        "artifact": "training", "model": "student", "source": "measured", "seed": settings.training.seed,
        "mixer": text.mixer if text.linear_layers else None, "pattern": text.pattern,
        "parameters": count_parameters(starting.model.config), "state_elements": state_elements(starting.model.config),
        "context": settings.data.context, "device": device_name(device), "run_id": folder.spec.id,
        "extra": {"stage": stage, "status": result.status, "processes": state.num_processes},
    }  # fmt: skip
    unit = "squared error × factor" if stage == "distill-layers" else "nats"
    records = [Record(**shared, metric="loss", value=row["loss"], unit=unit, steps=row["step"]) for row in rows]
    if rows:
        rate = sum(row["tokens_per_second"] for row in rows) / len(rows)
        records.append(Record(**shared, metric="tokens_per_second", value=rate, unit="tokens/s", n=len(rows)))
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
        records.append(Record(**shared, metric="peak_memory", value=peak, unit="bytes"))
    return records


def parse_sources(texts: Sequence[str]) -> tuple[list[str], list[float | None]]:
    """Names and weights of sources given as ``NAME`` or ``NAME=WEIGHT``.

    Raises:
        UserError: for an empty name, or a weight that is no number.
    """
    names: list[str] = []
    weights: list[float | None] = []
    for text in texts:
        name, equals, weight = text.rpartition("=")
        if not equals or (Path(text).exists() and not text.startswith(PAGES)):
            name, weight = text, ""
        if not name.strip():
            # As a path, it would be the current folder.
            raise UserError(f"--data {text!r} names no data; name a file, a data set's folder or pages:FAMILY")
        try:
            weights.append(float(weight) if weight else None)
        except ValueError:
            raise UserError(f"--data {text}: {weight!r} is no weight; write NAME=3.5, or NAME alone") from None
        names.append(name)
    return names, weights


def inspect_all(
    sources: Sequence[Source],
    processor: Any,
    settings: StageSettings,
    cache: Path,
    state: PartialState,
    console: PlainConsole,
) -> list[Inspection]:
    """Look through all sources, in the first process; the others read what it found."""
    found = []
    limits: Limits = settings.data.limits
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        for source in sources:
            task = bars.add_task(escape(terminal_safe(source.name)), total=len(source))

            def look(source: Source = source, task: Any = task) -> Inspection:
                return inspect(
                    source,
                    processor,
                    limits,
                    cache,
                    settings.data.max_broken,
                    progress=lambda done, _: bars.update(task, completed=done),
                )

            first_does(state, look)
            found.append(look())
    return found


def length_table(found: Sequence[Inspection], weights: Sequence[float]) -> Table:
    """The token-length report: what there is to train on, before it is trained on."""
    table = Table(title="samples, and their lengths in tokens", title_justify="left", box=None, pad_edge=False)
    table.add_column("source", overflow="fold")
    headings = ("samples", "broken", "cut", "mean", "median", "p95", "longest", "tokens")
    for heading in ("share", *headings):
        table.add_column(heading, justify="right", no_wrap=True)
    for one, weight in zip(found, weights, strict=True):
        numbers = one.summary()
        row = (f"{numbers[name]:,}" for name in headings)
        table.add_row(one.name, f"{100 * weight / sum(weights):.1f} %", *row)
    return table


def _weights(reference: str) -> str:
    """What tells a model's weights from others; a hub's are known by its name alone."""
    return weights_hash(reference) or f"hub:{reference}"
