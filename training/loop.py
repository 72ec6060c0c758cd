"""The training loop: AdamW, cosine schedule, on accelerate, in one process or many; it resumes where it was.

A batch is a pure function of the step, so the data order of a seed is the same for every arm of a study, in one process
or several, interrupted or not, and whatever number of processes goes on with it.
"""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import groupby
from typing import Any, Literal, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..data.seeds import hash_seed
from ..errors import UserError
from ..records import RunFolder
from .batch import Batch, Batches, Objective
from .checkpoint import checkpoint_name, load_checkpoint, save_checkpoint
from .clock import Clock
from .settings import Amount, Count, OpenShare, Rate, Seed, Share, Size

FLOAT32 = ("no", "tf32")
"""Precisions that hold every parameter in float32."""


class TrainArguments(BaseModel):
    """Hyper-parameters of one training run.

    The ``batch_size`` samples of a step are run in ``length_groups`` parts of similar length: the gradient is that of
    the whole, and less is computed on padding.
    ``warmup`` is the share of steps over which the learning rate rises; then it falls along a cosine to
    ``final_rate`` of its peak. ``diverged_at`` is the loss, in its unit, from which a run counts as diverged.
    ``checkpoint_every_seconds`` of None writes none, for runs that only measure.
    ``precision``: "no" computes in float32; "tf32" does so with the factors of matrix products rounded to TF32
    on an accelerator that has it (10 bits of mantissa, sums in float32); "bf16" computes in bfloat16 and keeps what
    trains, and AdamW's moments, in float32; "pure_bf16" keeps them in bfloat16 too. ``gradient_checkpointing`` computes
    each layer's activations again in the backward pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Count
    batch_size: Count = 16
    length_groups: Count = 1
    learning_rate: Rate = 2e-3
    warmup: Share = 0.05
    final_rate: Share = 0.02
    weight_decay: Amount = 0.05
    betas: tuple[OpenShare, OpenShare] = (0.9, 0.98)
    clip: Size = 1.0
    precision: Literal["no", "tf32", "bf16", "pure_bf16"] = "no"
    gradient_checkpointing: bool = False
    seed: Seed = 0
    log_every: Count = 20
    checkpoint_every_seconds: Size | None = 30.0
    diverged_at: Size = 50.0


class TrainResult(NamedTuple):
    """How a run ended: ``status`` is "ok" or "diverged"; the loss is the mean of the last logged interval."""

    status: Literal["ok", "diverged"]
    steps: int
    loss: float
    seconds: float
    tokens: int


def learning_rate_at(step: int, arguments: TrainArguments) -> float:
    """The learning rate of a step (0-based): linear warm-up, then cosine."""
    warmup_steps = max(1, round(arguments.warmup * arguments.steps))
    if step < warmup_steps:
        return arguments.learning_rate * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, arguments.steps - warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return arguments.learning_rate * (arguments.final_rate + (1 - arguments.final_rate) * cosine)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: weight decay on matrices, none on norms, biases, decays.

    Neighbours of one kind form a group, so that the parameters stay in their order, as checkpoints have them, and one
    kernel updates many of them.
    """

    def decay(parameter: nn.Parameter) -> float:
        matrix = parameter.ndim >= 2 and not getattr(parameter, "_no_weight_decay", False)
        return weight_decay if matrix else 0.0

    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return [{"params": list(params), "weight_decay": found} for found, params in groupby(trained, decay)]


def make_accelerator(arguments: TrainArguments, device: str) -> Accelerator:
    """The accelerator of this process: what `accelerate launch` set up, or a process alone."""
    return Accelerator(mixed_precision="bf16" if arguments.precision == "bf16" else "no", cpu=device == "cpu")


@torch.no_grad()
def set_precision(objective: nn.Module, precision: str) -> None:
    """Give every parameter the type that it is held in; see `TrainArguments`."""
    for parameter in objective.parameters():
        wide = precision in FLOAT32 or (precision == "bf16" and parameter.requires_grad)
        parameter.data = parameter.data.to(torch.float32 if wide else torch.bfloat16)
    set_product_precision(precision)


def set_product_precision(precision: str) -> None:
    """Round the factors of this process's float32 products on an accelerator if ``precision`` is "tf32"."""
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


def train(
    objective: Objective,
    batches_at: Batches,
    arguments: TrainArguments,
    folder: RunFolder,
    data_key: str,
    *,
    stage: str = "",
    steps_before: int = 0,
    on_step: Callable[[dict[str, Any]], None] | None = None,
    device: str = "cpu",
) -> TrainResult:
    """Train until ``arguments.steps``, from the folder's checkpoint if there is one.

    Args:
        objective: the loss; its parameters that require a gradient are trained.
        batches_at: the batches of a step, whose gradients are added up; processes share them out.
        arguments: hyper-parameters.
        folder: gets ``metrics.jsonl`` and the checkpoint, from the first of several processes.
        data_key: names the data and its order, so that a checkpoint is not continued on other data.
        stage: names the stage of a run that has several, each with a checkpoint of its own.
        steps_before: steps of the stages before, which the metrics count on from.
        on_step: called after each logged interval with its row of metrics.
        device: "cpu", or "cuda" for whatever accelerator accelerate finds.

    Raises:
        UserError: if nothing is left to train, or the checkpoint does not fit.
    """
    if not any(parameter.requires_grad for parameter in objective.parameters()):
        raise UserError("nothing to train: every parameter is frozen; choose a pattern with L layers, or another stage")
    accelerator = make_accelerator(arguments, device)
    if arguments.gradient_checkpointing:
        # The method has a new name in newer releases, and the old one warns there.
        names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
        enable = next(getattr(objective.model, name) for name in names if hasattr(objective.model, name))
        enable({"use_reentrant": False})
        # It makes embeddings ask for a gradient, which only reentrant checkpoints need. Those of a frozen vision tower
        # would too, and the tower would then be run again and differentiated in every step, for nothing.
        objective.model.disable_input_require_grads()
    set_precision(objective, arguments.precision)
    objective.to(accelerator.device)
    groups = parameter_groups(objective, arguments.weight_decay)
    fused = accelerator.device.type == "cuda"
    optimizer = torch.optim.AdamW(groups, lr=arguments.learning_rate, betas=arguments.betas, fused=fused)
    prepared, prepared_optimizer = accelerator.prepare(objective, optimizer)
    path = folder.path / checkpoint_name(stage)
    step = load_checkpoint(path, objective, optimizer, data_key) if path.exists() else 0
    clock = Clock(
        folder if accelerator.is_main_process else None,
        steps=arguments.steps,
        log_every=arguments.log_every,
        diverged_at=arguments.diverged_at,
        rate_at=partial(learning_rate_at, arguments=arguments),
        stage=stage,
        steps_before=steps_before,
        step=step,
        on_step=on_step,
    )

    def save() -> None:
        save_checkpoint(path, objective, optimizer, step, data_key, write=accelerator.is_main_process)

    prepared.train()
    saved = step
    pause = math.inf if arguments.checkpoint_every_seconds is None else arguments.checkpoint_every_seconds
    last_saved = time.monotonic()
    with _Ahead(lambda step: _own_batches(accelerator, batches_at(step)), step, arguments.steps) as ahead:
        while step < arguments.steps:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, arguments)
            torch.manual_seed(hash_seed(arguments.seed, step, accelerator.process_index))
            loss, tokens = _add_gradients(accelerator, prepared, objective, ahead.take())
            norm = accelerator.clip_grad_norm_(objective.parameters(), arguments.clip)
            prepared_optimizer.step()
            prepared_optimizer.zero_grad(set_to_none=True)
            step += 1
            means = clock.tick(step, loss, norm.full_tensor() if isinstance(norm, DTensor) else norm, tokens)
            if means is None:
                continue
            # A gradient that is no number has spoilt the weights before the loss shows it.
            if not means.loss < arguments.diverged_at or not math.isfinite(means.gradient_norm):
                # A divergence is a result: the checkpoint before it stays, and the caller records it.
                return TrainResult("diverged", step, arguments.diverged_at, clock.seconds, clock.tokens)
            if _agreed(accelerator, time.monotonic() - last_saved > pause):
                save()
                saved, last_saved = step, time.monotonic()
    prepared.eval()
    if saved < step and arguments.checkpoint_every_seconds is not None:
        # What comes after training may be interrupted too.
        save()
    accelerator.wait_for_everyone()
    return TrainResult("ok", step, clock.last_loss, clock.seconds, clock.tokens)


class _Ahead:
    """The batches of the next step, made while the present one is computed: reading pictures takes long."""

    def __init__(self, make: Callable[[int], list[Batch]], step: int, stop: int) -> None:
        self.make, self.step, self.stop = make, step, stop
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self.next = self._begin()

    def _begin(self) -> Future[list[Batch]] | None:
        return self.pool.submit(self.make, self.step) if self.step < self.stop else None

    def take(self) -> list[Batch]:
        """The batches of the present step; raises what making them raised."""
        if self.next is None:
            raise IndexError(f"there is no step {self.step}")
        batches = self.next.result()
        self.step += 1
        self.next = self._begin()
        return batches

    def __enter__(self) -> "_Ahead":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)


def _own_batches(accelerator: Accelerator, batches: Sequence[Batch]) -> list[Batch]:
    """This process's share of a step's batches."""
    count, rank = accelerator.num_processes, accelerator.process_index
    places = range(rank, -(-len(batches) // count) * count, count)
    # Processes take part in every collective, so one that has no batch of its own runs a blank one.
    return [batches[place] if place < len(batches) else batches[-1].blank() for place in places]


def _add_gradients(
    accelerator: Accelerator, prepared: nn.Module, objective: Objective, mine: list[Batch]
) -> tuple[Tensor, Tensor]:
    """Backpropagate a step's batches; its mean loss and its number of tokens, over all processes."""
    count = accelerator.num_processes
    sizes = torch.stack(
        [
            torch.stack([objective.count(batch) for batch in mine]).sum().to(accelerator.device),
            torch.tensor(sum(batch.labels.numel() for batch in mine), device=accelerator.device),
        ]
    )
    terms, tokens = accelerator.reduce(sizes, "sum")
    total = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(mine, start=1):
        # Shards are summed with every batch: holding whole gradients is what sharding avoids.
        alone = number < len(mine) and not accelerator.is_fsdp2
        with accelerator.no_sync(prepared) if alone else nullcontext():
            loss = prepared(*batch.to(accelerator.device)) / terms
            # Gradients are averaged over the processes.
            accelerator.backward(loss * count)
        total += loss.detach()
    return accelerator.reduce(total, "sum"), tokens


def _agreed(accelerator: Accelerator, wish: bool) -> bool:
    """The first process's wish, in all processes."""
    if accelerator.num_processes == 1:
        return wish
    wishes = [wish]
    broadcast_object_list(wishes)
    return wishes[0]
