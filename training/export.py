"""What a stage leaves: an ordinary model folder, whatever it was trained with."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from ..models.checkpoints import save_model
from ..models.hybrid import HybridVLForConditionalGeneration
from .checkpoint import whole_state
from .loop import FLOAT32
from .sft import add_lora, merge_lora
from .stages import StageSettings
from .students import Starting

MODEL_FOLDER = "model"


def export(starting: Starting, settings: StageSettings, path: Path, origin: str, write: bool) -> None:
    """Save the trained model below a run's folder, low-rank updates merged; every process must call this.

    Args:
        starting: what was trained.
        settings: the stage's; they say what the weights are stored in.
        path: the run's folder; what an interrupted process saved there is replaced.
        origin: where the weights come from, in words, for the model card.
        write: whether this process is the one that writes.

    Raises:
        UserError: if the folder cannot be written to.
    """
    model, tuner = starting.model, starting.tuner
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        model, tuner = _whole(model, settings, keep=write)
    if not write:
        return
    if tuner is not None:
        model = merge_lora(tuner)
    # What was held in bfloat16 before training is stored in it after.
    model.to(torch.float32 if settings.training.precision in FLOAT32 else torch.bfloat16)
    shutil.rmtree(path / MODEL_FOLDER, ignore_errors=True)
    save_model(model, starting.processor, path / MODEL_FOLDER, origin)


def _whole(model: Any, settings: StageSettings, keep: bool) -> tuple[Any, Any]:
    """A copy of a sharded model on the CPU, in the process that keeps it."""
    state = whole_state(model, keep=keep)
    if not keep:
        return None, None
    copy = HybridVLForConditionalGeneration(model.config)
    tuner = add_lora(copy, settings.lora, settings.training.seed) if settings.loss.trains == "lora" else None
    copy.load_state_dict(state)
    return copy, tuner
