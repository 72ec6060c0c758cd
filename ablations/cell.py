"""One cell of a grid: a model is built, trained and scored, and what came out is recorded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..eval.runner import evaluate
from ..models.accounting import count_parameters, state_elements
from ..models.checkpoints import load_model, new_model
from ..models.device import device_name
from ..models.mixers.base import TokenMixer
from ..models.processor import load_processor
from ..models.registry import get_mixer
from ..models.teacher import inherit, shipped_teacher
from ..records import Record, RunFolder, RunSpec
from ..training.batch import AnswerLoss
from ..training.clock import METRICS
from ..training.features import PageSet, PageSetSpec, load_page_set
from ..training.loop import TrainArguments, TrainResult, train
from .study import arm_config

MODEL_FOLDER = "model"
CURVE_POINTS = 60


def build_model(spec: RunSpec) -> Any:
    """The cell's model with its initial weights."""
    model = new_model(arm_config(spec).config, spec.arguments["seed"])
    if spec.arguments["recipe"] == "inherit":
        inherit(model, shipped_teacher())
    return model


def page_set_of(spec: RunSpec, model: Any, processor: Any, cache: Path, **options: Any) -> PageSet:
    """The training pages of a cell; all cells of a study share them."""
    return load_page_set(PageSetSpec.model_validate(spec.arguments["pages"]), model, processor, cache, **options)


def run_cell(
    spec: RunSpec, runs: Path, on_event: Callable[[dict[str, Any]], None] = lambda event: None
) -> list[Record]:
    """Train and score one cell, or finish what an interrupted process left; the records of a finished one are read.

    Args:
        spec: from `study.Study.cells`.
        runs: folder of all runs; page features are shared below ``runs/cache``.
        on_event: gets a row of metrics now and then, for a progress display.

    Raises:
        UserError: if another process holds the cell.
    """
    with RunFolder(runs, spec) as folder:
        if folder.finished:
            return folder.records()
        device = str(spec.arguments["device"])
        folder.write_environment(device_name(device))
        result = _train(spec, folder, runs / "cache", device, on_event)
        records = _score(spec, folder, runs, device, result, on_event)
        folder.finish(records, status=result.status, loss=result.loss, seconds=round(result.seconds, 1))
        return records


def _train(
    spec: RunSpec, folder: RunFolder, cache: Path, device: str, on_event: Callable[[dict[str, Any]], None]
) -> TrainResult:
    arguments = TrainArguments.model_validate(spec.arguments["training"])
    model, processor = build_model(spec), load_processor()
    pages = page_set_of(spec, model, processor, cache, device=device)
    order = pages.order(arguments.seed, arguments.batch_size)

    model.to(device)

    def batches_at(step: int) -> Any:
        return pages.batches(order(step), arguments.length_groups)

    data_key = f"{pages.key}-{arguments.seed}-{arguments.batch_size}"
    result = train(AnswerLoss(model), batches_at, arguments, folder, data_key, on_step=on_event, device=device)
    model.save_pretrained(folder.path / MODEL_FOLDER, safe_serialization=True)
    processor.save_pretrained(folder.path / MODEL_FOLDER)
    return result


def _score(
    spec: RunSpec,
    folder: RunFolder,
    runs: Path,
    device: str,
    result: TrainResult,
    on_event: Callable[[dict[str, Any]], None],
) -> list[Record]:
    arguments = spec.arguments
    model, processor, _, _ = load_model(str(folder.path), device=device)
    text = model.config.text_config
    shared: dict[str, Any] = {
        "artifact": "ablation",
        "model": arguments["scale"],
        "mixer": arguments["mixer"],
        "pattern": arguments["pattern"],
        "seed": arguments["seed"],
        "scale": arguments["scale"],
        "device": device_name(device),
        "steps": result.steps,
        "parameters": count_parameters(model.config),
        "state_elements": state_elements(model.config),
        "run_id": spec.id,
    }
    notes = {
        "status": result.status,
        "recipe": arguments["recipe"],
        "match": arguments["match"],
        "unmatched": arm_config(spec).unmatched,
        "ffn_width": text.intermediate_size,
        "train_loss": round(result.loss, 5),
        "train_seconds": round(result.seconds, 1),
        "learning_rate": arguments["training"]["learning_rate"],
        "sliding_window": text.sliding_window,
        "variant": get_mixer(text.mixer).variant(text) if text.linear_layers else "",
        "backend": _training_backend(model),
    }
    records = _curve(folder, shared | {"source": "measured", "split": "synthetic", "extra": notes})
    for benchmark in arguments["benchmarks"]:
        on_event({"scoring": benchmark})
        scored = evaluate(
            model,
            processor,
            benchmark,
            data="synthetic",
            limit=arguments["questions"],
            folder=folder,
            data_root=runs / "data",
        )
        records += [
            record.model_copy(update=shared | {"extra": record.extra | notes, "n": record.n})
            for record in scored.records
        ]
    return records


def _curve(folder: RunFolder, shared: dict[str, Any]) -> list[Record]:
    """The training loss, in nats, at no more than about `CURVE_POINTS` of the logged steps."""
    rows = folder.rows(METRICS)
    every = -(-len(rows) // CURVE_POINTS)
    kept = [row for number, row in enumerate(rows, start=1) if number % every == 0 or number == len(rows)]
    return [
        Record(**shared | {"metric": "loss", "value": row["loss"], "unit": "nats", "steps": row["step"]})
        for row in kept
    ]


def _training_backend(model: Any) -> str | None:
    """The backend that the mixers trained with; None without a mixer."""
    mixer = next((module for module in model.modules() if isinstance(module, TokenMixer)), None)
    return None if mixer is None else mixer.training_backend()
