"""What a run says of itself while it trains: one row of metrics an interval."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..records import RunFolder

METRICS = "metrics.jsonl"


class Means(NamedTuple):
    """Of an interval: loss, and norm of the gradient before it was clipped."""

    loss: float
    gradient_norm: float


class Clock:
    """Averages the loss over an interval and writes one row of metrics for it.

    Args:
        folder: gets the rows; None in a process that writes none.
        steps: of the whole run of this stage.
        log_every: steps of an interval.
        diverged_at: what is written for a loss that is no number.
        rate_at: the learning rate of a step.
        stage: written into every row, if it has a name.
        steps_before: steps of the stages before, which rows count on from.
        step: steps done when this process began; rows beyond it are taken away.
        on_step: gets every row.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        *,
        steps: int,
        log_every: int,
        diverged_at: float,
        rate_at: Callable[[int], float],
        stage: str,
        steps_before: int,
        step: int,
        on_step: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self.folder, self.on_step = folder, on_step
        self.steps, self.log_every, self.diverged_at = steps, log_every, diverged_at
        self.stage, self.steps_before, self.rate_at = stage, steps_before, rate_at
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.interval_tokens: list[Tensor] = []
        self.tokens = 0
        rows = [] if folder is None else folder.rows(METRICS)
        if folder is not None:
            # Rows of steps that no checkpoint knows of are written again. Those of a later stage stay: its own
            # checkpoint knows of them.
            unknown = (row.get("stage", "") == stage and row["step"] > steps_before + step for row in rows)
            rows = rows[: next((place for place, found in enumerate(unknown) if found), len(rows))]
            folder.truncate(METRICS, len(rows))
        self.earlier_seconds = float(rows[-1]["seconds"]) if rows else 0.0
        own = [row for row in rows if row.get("stage", "") == stage]
        self.last_loss = float(own[-1]["loss"]) if own else math.nan
        self.started = self.interval_started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Training time of this run so far, that before an interruption included."""
        return self.earlier_seconds + time.monotonic() - self.started

    def tick(self, step: int, loss: Tensor, norm: Tensor, tokens: Tensor) -> Means | None:
        """Note one step; at the end of an interval write the row and return its means."""
        self.losses.append(loss)
        self.norms.append(norm)
        self.interval_tokens.append(tokens)
        if step % self.log_every and step != self.steps:
            return None
        means = Means(float(torch.stack(self.losses).mean()), float(torch.stack(self.norms).mean()))
        seen = int(torch.stack(self.interval_tokens).sum())
        self.tokens += seen
        now = time.monotonic()
        elapsed = max(now - self.interval_started, 1e-9)
        # JSON has no NaN; a diverged interval is written as the bound it broke.
        self.last_loss = round(means.loss, 6) if math.isfinite(means.loss) else self.diverged_at
        row: dict[str, Any] = {"stage": self.stage} if self.stage else {}
        row |= {
            "step": self.steps_before + step,
            "loss": self.last_loss,
            "gradient_norm": round(means.gradient_norm, 6) if math.isfinite(means.gradient_norm) else None,
            "learning_rate": self.rate_at(step - 1),
            "tokens_per_second": round(seen / elapsed, 1),
            "seconds": round(self.seconds, 2),
            "seconds_left": round((self.steps - step) * elapsed / len(self.losses), 1),
        }
        if self.folder is not None:
            self.folder.append(METRICS, row)
            if self.on_step is not None:
                self.on_step(row)
        self.losses, self.norms, self.interval_tokens, self.interval_started = [], [], [], now
        return means
