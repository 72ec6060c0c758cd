"""The recipe `distill`: a student inherits, is distilled by layers and by logits, and is tuned, and scored in between.

The stages share out the steps that a cell from scratch would take, and go on in the same order of the same pages: so
both have seen the same when they are compared.
"""

from collections.abc import Callable
from typing import Any

from ..errors import UserError
from ..records import RunFolder
from ..training.batch import AnswerLoss, Batches, Objective
from ..training.distill import LayerDistillation, LogitDistillation, train_mixers
from ..training.loop import TrainArguments, TrainResult, train
from ..training.sft import train_decoder
from ..training.stages import STAGES

SHARES = {"distill-layers": 0.25, "distill-logits": 0.25, "sft": 0.5}
"""Stage → its share of the steps."""


def stage_steps(steps: int) -> dict[str, int]:
    """Stage → its steps, which add up to ``steps``.

    Raises:
        UserError: if there are too few for every stage to have one.
    """
    counts = {stage: round(share * steps) for stage, share in SHARES.items()}
    counts["sft"] += steps - sum(counts.values())
    if min(counts.values()) < 1:
        raise UserError(f"{steps} steps are too few for {len(counts)} stages; give --steps {2 * len(counts)} or more")
    return counts


def distill(
    model: Any,
    teacher: Any,
    batches_at: Batches,
    arguments: TrainArguments,
    folder: RunFolder,
    data_key: str,
    *,
    on_step: Callable[[dict[str, Any]], None],
    after_stage: Callable[[str], None],
    device: str,
) -> TrainResult:
    """Run the stages, those before an interruption only as far as their checkpoints go.

    Args:
        model: a student that has inherited.
        teacher: whom it learns from.
        batches_at: the batches of a step of the whole.
        arguments: of the whole; each stage has a schedule of its own.
        folder: of the cell.
        data_key: names the data.
        on_step: gets the rows of metrics.
        after_stage: called with the name of every stage that is not the last, the student then as it left it.
        device: cpu or cuda.
    """
    done = 0
    teacher.to(device)
    for stage, steps in stage_steps(arguments.steps).items():
        own = arguments.model_copy(update={"steps": steps, "diverged_at": STAGES[stage].training.diverged_at})
        result = train(
            _objective(stage, model, teacher),
            lambda step, before=done: batches_at(before + step),  # type: ignore[misc]
            own,
            folder,
            f"{data_key}-{stage}",
            stage=stage,
            steps_before=done,
            on_step=on_step,
            device=device,
        )
        done += result.steps
        if result.status == "diverged":
            break
        if done < arguments.steps:
            after_stage(stage)
    return result._replace(steps=done)


def _objective(stage: str, model: Any, teacher: Any) -> Objective:
    if stage == "sft":
        train_decoder(model)
        return AnswerLoss(model)
    train_mixers(model)
    return LayerDistillation(model, teacher) if stage == "distill-layers" else LogitDistillation(model, teacher)
