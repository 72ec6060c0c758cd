"""What the training loop is fed with: a batch, and the loss that is made of it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..data.samples import IGNORED

PADDING, TEXT, VISION, FIRST = range(4)
"""Kinds of tokens: padding, text, what stands for a picture, and a sample's first token, which nothing predicts."""

CHUNK = 1024
"""Tokens whose logits are held at a time: at a vocabulary of 152 k, 0.6 GB in float32."""


class Batch(NamedTuple):
    """One training batch.

    Attributes:
        inputs: keyword arguments of the model's forward pass (``input_ids`` ``[B, T]``, and so on), no labels; with
            ``image_features`` ``[N, D]``, what a frozen vision tower made of the pictures takes the tower's place.
        labels: ``[B, T]``, the token itself where it is to be learnt, `IGNORED` elsewhere.
        kinds: ``[B, T]``, of what kind each token is.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    kinds: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return Batch(inputs, self.labels.to(device, non_blocking=True), self.kinds.to(device, non_blocking=True))

    def blank(self) -> "Batch":
        """The same batch without anything to learn: what a process is given when there are too few for all."""
        return Batch(self.inputs, torch.full_like(self.labels, IGNORED), torch.full_like(self.kinds, PADDING))


Batches = Callable[[int], Sequence[Batch]]
"""The batches of a step, each made when it is asked for; a pure function of the step."""


class Objective(nn.Module):
    """A loss as a module, so that accelerate can wrap it: a sum over the terms of a batch, and their number.

    ``forward`` takes the parts of a `Batch`. The gradient of a step is that of the mean over all terms of all its
    batches, in one process or several.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        # FSDP shards by these classes.
        self._no_split_modules = getattr(model, "_no_split_modules", None)

    def count(self, batch: Batch) -> Tensor:
        """How many terms a batch's loss sums, a scalar."""
        raise TypeError(f"{type(self).__name__} does not say what it sums over")


class AnswerLoss(Objective):
    """Cross-entropy of the answer tokens, in nats, summed.

    The vocabulary projection runs on the positions before an answer token only, `CHUNK` of them at a time.
    """

    def count(self, batch: Batch) -> Tensor:
        """Answer tokens."""
        return (batch.labels[:, 1:] != IGNORED).sum()

    def forward(self, inputs: dict[str, Tensor], labels: Tensor, kinds: Tensor) -> Tensor:
        """Return the summed loss, a scalar."""
        hidden = hidden_states(self.model, inputs)
        targets = labels[:, 1:]
        learnt = targets != IGNORED
        return chunked_sum(self._cross_entropy, hidden[:, :-1][learnt], targets[learnt])

    def _cross_entropy(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.model.lm_head(hidden).float(), targets, reduction="sum")


def hidden_states(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The decoder's output ``[B, T, D]`` for a batch's inputs."""
    features = inputs.get("image_features")
    if features is not None:
        inputs = {name: tensor for name, tensor in inputs.items() if name != "image_features"}
        ids = inputs.pop("input_ids")
        embeds = model.get_input_embeddings()(ids)
        seen = (ids == model.config.image_token_id).unsqueeze(-1)
        inputs["inputs_embeds"] = embeds.masked_scatter(seen, features.to(embeds.dtype))
    hidden: Tensor = model.model(**inputs, use_cache=False)[0]
    return hidden


def chunked_sum(function: Callable[..., Tensor], *tensors: Tensor, size: int = CHUNK) -> Tensor:
    """Sum ``function`` over slices of ``size`` rows; more than one are computed again in the backward pass.

    So what a slice needs in between (the logits of its tokens) is held for one slice at a time.

    Args:
        function: from slices of the tensors to a scalar.
        tensors: of equal length in their first dimension.
        size: rows of a slice.
    """
    slices = list(zip(*(tensor.split(size) for tensor in tensors), strict=True))
    if len(slices) == 1:
        return function(*slices[0])
    parts = [checkpoint(function, *parts, use_reentrant=False) for parts in slices]
    return torch.stack(parts).sum()
