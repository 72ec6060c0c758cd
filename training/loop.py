"""The training loop: answer-only cross-entropy, AdamW, cosine schedule, on accelerate; it resumes where it was.

A batch is a pure function of the step, so the data order of a seed is the same for every arm of a study, in one process
or several, interrupted or not.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ..records import RunFolder
from .checkpoint import FILE_NAME, load_checkpoint, save_checkpoint

METRICS = "metrics.jsonl"
IGNORED = -100
"""Label of a token that no loss is computed on."""


class TrainArguments(BaseModel):
    """Hyper-parameters of one training run.

    The ``batch_size`` samples of a step are run in ``length_groups`` parts of similar length: the gradient is that of
    the whole, and less is computed on padding.
    ``warmup`` is the share of steps over which the learning rate rises; then it falls along a cosine to
    ``final_rate`` of its peak. ``diverged_at`` is the loss, in nats, from which a run counts as diverged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: PositiveInt
    batch_size: PositiveInt = 16
    length_groups: PositiveInt = 1
    learning_rate: PositiveFloat = 2e-3
    warmup: float = 0.05
    final_rate: float = 0.02
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: PositiveFloat = 1.0
    precision: Literal["no", "bf16"] = "no"
    seed: int = 0
    log_every: PositiveInt = 20
    checkpoint_every_seconds: PositiveFloat = 30.0
    diverged_at: PositiveFloat = 50.0


class Batch(NamedTuple):
    """One training batch.

    Attributes:
        inputs: keyword arguments of the model's forward pass (``input_ids`` ``[B, T]``, and so on); no labels.
        labels: ``[B, T]``, the token itself where it is to be learnt, `IGNORED` elsewhere.
    """

    inputs: dict[str, Tensor]
    labels: Tensor


class TrainResult(NamedTuple):
    """How a run ended: ``status`` is "ok" or "diverged"; the loss is the mean of the last logged interval, in nats."""

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
    """AdamW's groups in the order of the parameters: weight decay on matrices, none on norms, biases, decays."""
    return [
        {
            "params": [parameter],
            "weight_decay": weight_decay
            if parameter.ndim >= 2 and not getattr(parameter, "_no_weight_decay", False)
            else 0.0,
        }
        for parameter in model.parameters()
        if parameter.requires_grad
    ]


class AnswerLoss(nn.Module):
    """A model as its training loss: cross-entropy of the answer tokens, in nats, summed.

    The vocabulary projection runs on the positions before an answer token only: the rest has no loss.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        """Return the summed loss of a `Batch`'s inputs and labels, a scalar."""
        model: Any = self.model
        hidden = model.model(**inputs, use_cache=False)[0]
        targets = labels[:, 1:]
        learnt = targets != IGNORED
        logits = model.lm_head(hidden[:, :-1][learnt])
        return F.cross_entropy(logits.float(), targets[learnt], reduction="sum")


def train(
    model: nn.Module,
    batches_at: Callable[[int], Sequence[Batch]],
    arguments: TrainArguments,
    folder: RunFolder,
    data_key: str,
    on_step: Callable[[dict[str, float]], None] | None = None,
    device: str = "cpu",
) -> TrainResult:
    """Train until ``arguments.steps``, from the folder's checkpoint if there is one.

    Args:
        model: parameters that require a gradient are trained.
        batches_at: the batches of a step, whose gradients are added up; called once a step, in order.
        arguments: hyper-parameters.
        folder: gets ``metrics.jsonl`` and the checkpoint.
        data_key: names the data and its order, so that a checkpoint is not continued on other data.
        on_step: called after each logged interval with its row of metrics.
        device: "cpu", or "cuda" for whatever accelerator accelerate finds.
    """
    accelerator = Accelerator(mixed_precision=arguments.precision, cpu=device == "cpu")
    torch.manual_seed(arguments.seed)
    groups = parameter_groups(model, arguments.weight_decay)
    fused = accelerator.device.type == "cuda"
    optimizer = torch.optim.AdamW(groups, lr=arguments.learning_rate, betas=arguments.betas, fused=fused)
    checkpoint = folder.path / FILE_NAME
    model.to(accelerator.device)
    step = load_checkpoint(checkpoint, model, optimizer, data_key) if checkpoint.exists() else 0
    folder.truncate(METRICS, _rows_up_to(folder, step))
    loss_of, prepared_optimizer = accelerator.prepare(AnswerLoss(model), optimizer)

    model.train()
    clock = _Clock(folder, arguments, on_step)
    last_saved = time.monotonic()
    while step < arguments.steps:
        batches = [_to_device(batch, accelerator.device) for batch in batches_at(step)]
        learnt = sum((batch.labels[:, 1:] != IGNORED).sum() for batch in batches)
        for group in prepared_optimizer.param_groups:
            group["lr"] = learning_rate_at(step, arguments)
        mean_loss_of_step = torch.zeros((), device=accelerator.device)
        for batch in batches:
            loss = loss_of(batch.inputs, batch.labels) / learnt
            accelerator.backward(loss)
            mean_loss_of_step += loss.detach()
        accelerator.clip_grad_norm_(loss_of.parameters(), arguments.clip)
        prepared_optimizer.step()
        prepared_optimizer.zero_grad(set_to_none=True)
        step += 1
        mean_loss = clock.tick(step, mean_loss_of_step, sum(batch.labels.numel() for batch in batches))
        if mean_loss is not None and not mean_loss < arguments.diverged_at:
            # A divergence is a result: the checkpoint before it stays, and the caller records it.
            return TrainResult("diverged", step, arguments.diverged_at, clock.seconds, clock.tokens)
        if time.monotonic() - last_saved > arguments.checkpoint_every_seconds and mean_loss is not None:
            save_checkpoint(checkpoint, model, prepared_optimizer, step, data_key)
            last_saved = time.monotonic()
    model.eval()
    # What comes after training may be interrupted too.
    save_checkpoint(checkpoint, model, prepared_optimizer, step, data_key)
    rows = folder.rows(METRICS)
    return TrainResult("ok", step, float(rows[-1]["loss"]) if rows else math.nan, clock.seconds, clock.tokens)


class _Clock:
    """Averages the loss over an interval and writes one row of metrics for it."""

    def __init__(
        self, folder: RunFolder, arguments: TrainArguments, on_step: Callable[[dict[str, float]], None] | None
    ) -> None:
        self.folder, self.arguments, self.on_step = folder, arguments, on_step
        self.losses: list[Tensor] = []
        self.tokens = 0
        self.interval_tokens = 0
        rows = folder.rows(METRICS)
        self.earlier_seconds = float(rows[-1]["seconds"]) if rows else 0.0
        self.started = self.interval_started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Training time of this run so far, that before an interruption included."""
        return self.earlier_seconds + time.monotonic() - self.started

    def tick(self, step: int, loss: Tensor, tokens: int) -> float | None:
        """Note one step; at the end of an interval write the row and return its mean loss."""
        self.losses.append(loss)
        self.tokens += tokens
        self.interval_tokens += tokens
        if step % self.arguments.log_every and step != self.arguments.steps:
            return None
        mean_loss = float(torch.stack(self.losses).mean())
        now = time.monotonic()
        rate = self.interval_tokens / max(now - self.interval_started, 1e-9)
        left = (self.arguments.steps - step) * (now - self.interval_started) / len(self.losses)
        row = {
            "step": step,
            # JSON has no NaN; a diverged interval is written as the bound it broke.
            "loss": round(mean_loss, 6) if math.isfinite(mean_loss) else self.arguments.diverged_at,
            "learning_rate": learning_rate_at(step - 1, self.arguments),
            "tokens_per_second": round(rate, 1),
            "seconds": round(self.seconds, 2),
            "seconds_left": round(left, 1),
        }
        self.folder.append(METRICS, row)
        if self.on_step is not None:
            self.on_step(row)
        self.losses, self.interval_tokens, self.interval_started = [], 0, now
        return mean_loss


def _rows_up_to(folder: RunFolder, step: int) -> int:
    return sum(row["step"] <= step for row in folder.rows(METRICS))


def _to_device(batch: Batch, device: torch.device) -> Batch:
    moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.inputs.items()}
    return Batch(moved, batch.labels.to(device, non_blocking=True))
