"""One cell of a grid: a model is built, trained and scored, and what came out is recorded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..eval.runner import evaluate
from ..files import make_readable
from ..models.accounting import count_parameters, state_elements
from ..models.checkpoints import load_model, new_model
from ..models.device import device_name
from ..models.matching import INHERITING
from ..models.mixers.base import TokenMixer
from ..models.model_card import write_card
from ..models.processor import load_processor
from ..models.registry import get_mixer
from ..models.shipped import TEACHER
from ..models.shipped_models import load_shipped
from ..models.teacher import inherit, shipped_teacher
from ..records import Record, RunFolder, RunSpec, Scalar
from ..training.batch import AnswerLoss, Batch
from ..training.clock import METRICS
from ..training.features import PageSet, PageSetSpec, load_page_set
from ..training.loop import TrainArguments, TrainResult, train
from .distillation import distill
from .stages_table import STAGE_SCORE
from .study import SHIPPED, arm_config

MODEL_FOLDER = "model"
STAGES_FOLDER = "stages"
CURVE_POINTS = 60

OnEvent = Callable[[dict[str, Any]], None]


def build_model(spec: RunSpec, runs: Path) -> Any:
    """The cell's model with its initial weights.

    Args:
        spec: of the cell.
        runs: folder of all runs, where a trained teacher is.
    """
    recipe = spec.arguments["recipe"]
    if recipe == SHIPPED:
        return load_shipped(TEACHER)
    model = new_model(arm_config(spec).config, spec.arguments["seed"])
    if recipe in INHERITING:
        inherit(model, teacher_of(spec, runs))
    return model


def teacher_of(spec: RunSpec, runs: Path) -> Any:
    """The teacher of a cell: the shipped one, or that which was trained at the cell's scale."""
    teacher = str(spec.arguments["teacher"])
    return load_model(str(runs / teacher)).model if teacher.startswith("ablate-") else shipped_teacher()


def page_set_specs(spec: RunSpec) -> list[PageSetSpec]:
    """All the page sets that a cell reads, that which it trains on first."""
    named = [spec.arguments["pages"], *spec.arguments.get("sets", {}).values()]
    return [PageSetSpec.model_validate(pages) for pages in named]


def page_set_of(spec: RunSpec, model: Any, processor: Any, cache: Path, **options: Any) -> PageSet:
    """The training pages of a cell; all cells of a study share them."""
    return load_page_set(PageSetSpec.model_validate(spec.arguments["pages"]), model, processor, cache, **options)


def run_cell(spec: RunSpec, runs: Path, on_event: OnEvent = lambda event: None) -> list[Record]:
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
        result, between = _train(spec, folder, runs, device, on_event)
        model, processor, _, _ = load_model(str(folder.path), device=device)
        shared, notes = facts(spec, model, device, result)
        scored = [*between, *_scores(spec, model, processor, folder, runs, on_event)]
        records = curve(folder, shared | {"source": "measured", "split": "synthetic", "extra": notes})
        records += [record.model_copy(update=shared | {"extra": record.extra | notes}) for record in scored]
        folder.finish(records, status=result.status, loss=result.loss, seconds=round(result.seconds, 1))
        return records


def _train(
    spec: RunSpec, folder: RunFolder, runs: Path, device: str, on_event: OnEvent
) -> tuple[TrainResult, list[Record]]:
    """Train and save the model; how it ended, and the scores between stages where there are several."""
    arguments = TrainArguments.model_validate(spec.arguments["training"])
    model, processor = build_model(spec, runs), load_processor()
    between: list[Record] = []
    if spec.arguments["recipe"] == SHIPPED:
        result = TrainResult("ok", 0, 0.0, 0.0, 0)
    else:
        pages = page_set_of(spec, model, processor, runs / "cache", device=device)
        order = pages.order(arguments.seed, arguments.batch_size)
        model.to(device)

        def batches_at(step: int) -> list[Batch]:
            return pages.batches(order(step), arguments.length_groups)

        data_key = f"{pages.key}-{arguments.seed}-{arguments.batch_size}"
        if spec.arguments["recipe"] == "distill":
            result = distill(
                model,
                teacher_of(spec, runs),
                batches_at,
                arguments,
                folder,
                data_key,
                on_step=on_event,
                after_stage=lambda stage: between.extend(
                    _stage_scores(stage, spec, model, processor, folder, runs, on_event)
                ),
                device=device,
            )
        else:
            result = train(AnswerLoss(model), batches_at, arguments, folder, data_key, on_step=on_event, device=device)
    model.save_pretrained(folder.path / MODEL_FOLDER, safe_serialization=True)
    processor.save_pretrained(folder.path / MODEL_FOLDER)
    make_readable(folder.path / MODEL_FOLDER)
    origin = "Trained by `infinitevl-bench ablate` on synthetic pages; its settings and scores are in its run's folder."
    write_card(model.config, folder.path / MODEL_FOLDER, spec.id, origin)
    return result, between


def _stage_scores(
    stage: str, spec: RunSpec, model: Any, processor: Any, folder: RunFolder, runs: Path, on_event: OnEvent
) -> list[Record]:
    """The scores of a student between two stages, kept in a folder of their own below the cell's."""
    asked = RunSpec(kind="eval", arguments={"cell": spec.id, "stage": stage})
    with RunFolder(folder.path / STAGES_FOLDER, asked) as own:
        if not own.finished:
            own.finish(_scores(spec, model, processor, own, runs, on_event))
        scores = [record for record in own.records() if record.metric == "score"]
    return [
        record.model_copy(update={"metric": STAGE_SCORE, "extra": record.extra | {"stage": stage}}) for record in scores
    ]


def _scores(
    spec: RunSpec, model: Any, processor: Any, folder: RunFolder, runs: Path, on_event: OnEvent
) -> list[Record]:
    records = []
    for benchmark in spec.arguments["benchmarks"]:
        on_event({"scoring": benchmark})
        scored = evaluate(
            model,
            processor,
            benchmark,
            data="synthetic",
            limit=spec.arguments["questions"],
            folder=folder,
            data_root=runs / "data",
        )
        records += scored.records
    return records


def facts(spec: RunSpec, model: Any, device: str, result: TrainResult) -> tuple[dict[str, Any], dict[str, Scalar]]:
    """What all records of a cell have in common, and what is noted beside them."""
    arguments = spec.arguments
    text = model.config.text_config
    shared: dict[str, Any] = {
        "artifact": "ablation",
        "model": arguments["scale"],
        "mixer": arguments["mixer"],
        "pattern": arguments["pattern"],
        "seed": arguments["seed"],
        "scale": arguments["scale"],
        "device": device_name(device),
        # A cell that diverged stands beside those that did not, at the steps that it was to have.
        "steps": result.steps if result.status == "ok" else arguments["training"]["steps"],
        "parameters": count_parameters(model.config),
        "state_elements": state_elements(model.config),
        "run_id": spec.id,
    }
    notes: dict[str, Scalar] = {
        "status": result.status,
        "steps_done": result.steps,
        "recipe": arguments["recipe"],
        "match": arguments["match"],
        "unmatched": arm_config(spec).unmatched,
        "ffn_width": text.intermediate_size,
        "train_loss": round(result.loss, 5) if result.steps else None,
        "train_seconds": round(result.seconds, 1),
        "learning_rate": arguments["training"]["learning_rate"],
        "sliding_window": text.sliding_window,
        "variant": get_mixer(text.mixer).variant(text) if text.linear_layers else "",
        "backend": _training_backend(model),
    }
    return shared, notes


def curve(folder: RunFolder, shared: dict[str, Any]) -> list[Record]:
    """The loss at no more than about `CURVE_POINTS` of the logged steps; that of answers is ``loss``."""
    rows = folder.rows(METRICS)
    every = -(-len(rows) // CURVE_POINTS)
    kept = [row for number, row in enumerate(rows, start=1) if number % every == 0 or number == len(rows)]
    records = []
    for row in kept:
        stage = row.get("stage", "sft")
        metric = "loss" if stage == "sft" else f"loss_{stage}"
        unit = "squared error × 1000" if stage == "distill-layers" else "nats"
        records.append(Record(**shared | {"metric": metric, "value": row["loss"], "unit": unit, "steps": row["step"]}))
    return records


def _training_backend(model: Any) -> str | None:
    """The backend that the mixers trained with; None without a mixer."""
    mixer = next((module for module in model.modules() if isinstance(module, TokenMixer)), None)
    return None if mixer is None else mixer.training_backend()
