"""Sequences of multi-query recall as samples of one shape, and which of their queries a model answers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..data.mqar import RecallSpec, draw_sequences
from .features import page_order
from .fixed import FixedBatch, answer_logits


class FixedSequences:
    """A set of sequences on a device; what is learnt and asked is the value at each query, and nothing else.

    Args:
        spec: which sequences.
        device: where they are held.

    Raises:
        UserError: for pairs that do not fit.
    """

    def __init__(self, spec: RecallSpec, device: str) -> None:
        self.spec, self.key = spec, f"mqar-{spec.model_dump_json()}"
        drawn = draw_sequences(spec)
        self.tokens, queries, self.values = (torch.from_numpy(array).to(device) for array in drawn)
        # A slot is the column after the one that answers, as for the tokens of an answer.
        self.slots = queries + 1
        self.columns = torch.arange(spec.length, device=device)

    def __len__(self) -> int:
        return len(self.tokens)

    def order(self, seed: int, batch_size: int) -> Callable[[int], Tensor]:
        """``step → sequences [B]``: every epoch is a permutation of its own, drawn from the seed."""
        return page_order(len(self), seed, batch_size, self.tokens.device)

    def batch(self, indices: Tensor) -> FixedBatch:
        """The sequences ``indices`` ``[B]``."""
        input_ids, slots = self.tokens[indices].long(), self.slots[indices].long()
        seen, features = self.look(indices)
        return FixedBatch(
            input_ids=input_ids,
            position_ids=self.columns.expand(3, len(indices), -1),
            features=features,
            seen=seen,
            slots=slots,
            targets=self.values[indices].long(),
            learnt=torch.ones_like(slots, dtype=torch.bool),
            tokens=torch.ones_like(input_ids).sum(),
        )

    def look(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Which columns are image tokens, and their features; both broadcast to ``[B, T]`` and ``[B, T, D]``."""
        nothing = torch.zeros(1, 1, 1, device=self.tokens.device)
        return torch.zeros(1, 1, dtype=torch.bool, device=self.tokens.device), nothing


@torch.no_grad()
def right_queries(model: Any, sequences: FixedSequences, batch_size: int = 256) -> Tensor:
    """Which queries a model answers with their value, ``[N, P]`` booleans."""
    every = torch.arange(len(sequences), device=sequences.tokens.device)
    found = []
    for indices in every.split(batch_size):
        batch = sequences.batch(indices)
        found.append(answer_logits(model, batch).argmax(-1) == batch.targets)
    return torch.cat(found)
