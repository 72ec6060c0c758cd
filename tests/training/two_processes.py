"""What `test_distributed` runs in one process and in two: `python two_processes.py OUT PLAN…`.

The first process writes the losses of every step, and the weights at the end, of each objective under each plan.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from infinitevl_bench.models.checkpoints import new_model
from infinitevl_bench.models.config import layer_types_of
from infinitevl_bench.models.presets import get_preset
from infinitevl_bench.models.teacher import inherit
from infinitevl_bench.records import RunFolder, RunSpec
from infinitevl_bench.training.batch import FIRST, IGNORED, TEXT, AnswerLoss, Batch, Objective
from infinitevl_bench.training.checkpoint import whole_state
from infinitevl_bench.training.clock import METRICS
from infinitevl_bench.training.command import train_command
from infinitevl_bench.training.distill import LayerDistillation, LogitDistillation, train_mixers
from infinitevl_bench.training.loop import TrainArguments, train
from infinitevl_bench.training.sft import train_decoder
from safetensors.torch import save_file

STEPS = 3
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}  # fmt: skip


def model_of(pattern: str, seed: int) -> Any:
    config = get_preset("tiny", pattern=pattern)
    config.text_config.num_hidden_layers = 2
    config.text_config.layer_types = layer_types_of(pattern, 2)
    return new_model(config, seed)


def objectives() -> dict[str, Objective]:
    students, teacher = [model_of("SL", 0) for _ in range(3)], model_of("F", 1)
    for student in students:
        inherit(student, teacher)
    train_mixers(students[0])
    train_mixers(students[1])
    train_decoder(students[2])
    return {
        "layers": LayerDistillation(students[0], teacher),
        "logits": LogitDistillation(students[1], model_of("F", 1)),
        "sft": AnswerLoss(students[2]),
    }


def batches_at(step: int) -> list[Batch]:
    """Three batches of unequal numbers of answers: one more than two processes share evenly."""
    batches = []
    for part in range(3):
        generator = torch.Generator().manual_seed(10 * step + part)
        ids = torch.randint(0, 90, (2, 10 + 3 * part), generator=generator)
        labels = torch.where(torch.arange(ids.shape[1]) < 4 + part, IGNORED, ids)
        kinds = torch.full_like(ids, TEXT)
        kinds[:, 0] = FIRST
        batches.append(Batch({"input_ids": ids}, labels, kinds))
    return batches


class StoppedError(Exception):
    """A run is interrupted here."""


def set_plan(kind: str) -> None:
    """Let accelerate begin anew, sharded or not."""
    AcceleratorState._reset_state(reset_partial_state=True)
    for key in FSDP2:
        os.environ.pop(key, None)
    os.environ.update(FSDP2 if kind == "fsdp2" else {})


def run_command(out: Path, kind: str) -> None:
    """The command of the third stage: inspection, packs, LoRA, and the model that is saved."""
    set_plan(kind)
    options = {"steps": 2, "context": 600, "batch_size": 3, "learning_rate": 1e-3}
    train_command(
        "long-sft", data=["pages:shapes:12"], options=options, changes=["rank=4", "log_every=1"], device="cpu",
        runs=out / f"command-{kind}",
    )  # fmt: skip


def run(out: Path, plan: str) -> None:
    """Train every objective under a plan: `one`, `ddp` or `fsdp2`, with `-stops` after two steps, `-after-PLAN` on."""
    kind, _, how = plan.partition("-")
    if how == "command":
        run_command(out, kind)
        return
    for name, objective in objectives().items():
        set_plan(kind)
        arguments = TrainArguments(
            steps=STEPS, learning_rate=1e-3, log_every=1, gradient_checkpointing=name == "sft",
            checkpoint_every_seconds=1e-9, diverged_at=1e6,
        )  # fmt: skip
        started = how.removeprefix("after-") if how.startswith("after-") else kind
        spec = RunSpec(kind="train", arguments={"plan": started, "stops": bool(how), "objective": name})
        folder = RunFolder(out, spec)
        folder.path.mkdir(exist_ok=True, parents=True)

        def batches(step: int) -> list[Batch]:
            if how == "stops" and step == 2:
                raise StoppedError
            return batches_at(step)

        try:
            train(objective, batches, arguments, folder, "data")
        except StoppedError:
            continue
        weights = whole_state(objective.model)
        if PartialState().is_main_process:
            losses = [row["loss"] for row in folder.rows(METRICS)]
            (out / f"{plan}-{name}.json").write_text(json.dumps(losses))
            weights = {key: value.contiguous().clone() for key, value in weights.items()}
            save_file(weights, out / f"{plan}-{name}.safetensors")


if __name__ == "__main__":
    for one_plan in sys.argv[2:]:
        run(Path(sys.argv[1]), one_plan)
