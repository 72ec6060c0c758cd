"""Which model a stage starts from: a student made from its teacher, or what an earlier stage left."""

from typing import Any, NamedTuple

import torch

from ..models.checkpoints import load_model, new_model
from ..models.convert import student_config
from ..models.published import INFINITE_VL_WINDOW
from ..models.shipped import TEACHER
from ..models.teacher import inherit
from .batch import AnswerLoss, Objective
from .distill import LayerDistillation, LogitDistillation, train_mixers
from .loop import FLOAT32
from .sft import add_lora, train_decoder
from .stages import DISTILLATION, StageSettings

SHIPPED_WINDOW = 16
"""Of a student of the small teacher: shorter than a page, as preset ``tiny`` has it."""


class Starting(NamedTuple):
    """What a stage trains: the model and its processor, its teacher if the stage has one, peft's tuner with LoRA."""

    model: Any
    processor: Any
    teacher: Any | None
    tuner: Any | None


def student_of(teacher: Any, mixer: str, pattern: str, window: int, seed: int) -> Any:
    """A student of a teacher: everything inherited but the token mixers of its ``L`` layers.

    Args:
        teacher: with attention in every layer.
        mixer: a name in the mixer registry.
        pattern: of layers, tiled over the teacher's depth.
        window: tokens that its sliding-attention layers see.
        seed: of what is not inherited.

    Raises:
        UserError: for an unknown mixer, or a pattern that does not tile the depth.
    """
    student = new_model(student_config(teacher.config, pattern, mixer, window), seed, teacher.dtype)
    inherit(student, teacher)
    return student


def load_start(
    stage: str,
    settings: StageSettings,
    *,
    model: str | None,
    teacher: str | None,
    mixer: str,
    pattern: str,
    window: int | None,
) -> Starting:
    """Load what a stage starts from, and freeze what it does not train.

    Args:
        stage: one of `stages.STAGES`.
        settings: the stage's.
        model: an earlier stage's run, a folder or a hub id; None makes a student of the teacher.
        teacher: for the stages that have one: a folder, a hub id, or the small one that the package ships if None.
        mixer, pattern, window: of a student that is made.

    Raises:
        UserError: if they cannot be loaded, or do not fit each other.
    """
    dtype = torch.float32 if settings.training.precision in FLOAT32 else torch.bfloat16
    loaded = load_model(teacher or TEACHER, dtype=dtype) if stage in DISTILLATION or model is None else None
    if model is not None:
        student, processor = load_model(model, dtype=dtype)[:2]
    elif loaded is not None:
        reach = window or (SHIPPED_WINDOW if teacher in (None, TEACHER) else INFINITE_VL_WINDOW)
        student = student_of(loaded.model, mixer, pattern, reach, settings.training.seed)
        processor = loaded.processor
    tuner = freeze(student, settings)
    return Starting(student, processor, loaded.model if loaded is not None and stage in DISTILLATION else None, tuner)


def freeze(model: Any, settings: StageSettings) -> Any | None:
    """Leave trainable what a stage trains; peft's tuner with LoRA."""
    if settings.loss.trains == "lora":
        return add_lora(model, settings.lora, settings.training.seed)
    if settings.loss.trains == "mixers":
        train_mixers(model)
    else:
        train_decoder(model)
    return None


def objective_of(stage: str, starting: Starting, settings: StageSettings) -> Objective:
    """The loss of a stage.

    Raises:
        UserError: if student and teacher do not fit each other.
    """
    loss = settings.loss
    if starting.teacher is None:
        return AnswerLoss(starting.model)
    if stage == "distill-layers":
        return LayerDistillation(starting.model, starting.teacher, loss.mse_factor)
    return LogitDistillation(starting.model, starting.teacher, loss.temperature, loss.learnt_on)
