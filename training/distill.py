"""Stage 1: a student learns its new token mixers from the full-attention teacher that it inherits the rest from.

Layer to layer, every layer that holds a new mixer is given what its teacher's layer was given, and learns to put out
the same:

    loss = 1000 / depth · Σ_layers mean_{tokens, channels} (student_layer(x) − teacher_layer(x))²

where x is the teacher's own input to that layer, so that no layer learns from another's mistakes. Layers without a new
mixer have nothing to learn and only a constant to add; they are left out, the divisor stays the depth.

End to end, the student's next-token distribution is drawn to the teacher's, both at temperature τ:

    loss = τ² · mean_tokens KL( softmax(z_teacher / τ) ‖ softmax(z_student / τ) )

Source: InfiniteVL, arXiv 2512.08829, section on training; factor 1000 and τ = 2 as released.
"""

from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import UserError
from ..models.hybrid import HybridVLForConditionalGeneration, padding_of_new_tokens
from ..models.mixers.base import TokenMixer
from .batch import IGNORED, PADDING, TEXT, Batch, Objective, chunked_sum, hidden_states

MSE_FACTOR = 1000.0
TEMPERATURE = 2.0
LearntOn = Literal["text", "answers"]


class _Distillation(Objective):
    """A student beside its teacher, who is frozen and stays in evaluation mode."""

    def __init__(self, student: HybridVLForConditionalGeneration, teacher: HybridVLForConditionalGeneration) -> None:
        super().__init__(student)
        check_teacher(student, teacher)
        self.teacher = teacher.requires_grad_(False)

    def train(self, mode: bool = True) -> "_Distillation":
        """Set the student's mode."""
        super().train(mode)
        self.teacher.eval()
        return self


class LayerDistillation(_Distillation):
    """Layer to layer: the squared error of each new mixer's layer, summed over tokens, averaged over channels.

    The teacher runs once without a graph. A hook on each of its layers runs the student's layer on the same input at
    once, and keeps of it the input and the output alone, which the neighbouring layers hold anyway: activations are
    computed again, one layer at a time, in the backward pass.

    Args:
        student: whose layers of type ``linear_attention`` hold new mixers.
        teacher: of the same depth and width.
        factor: of the loss.
    """

    def __init__(
        self,
        student: HybridVLForConditionalGeneration,
        teacher: HybridVLForConditionalGeneration,
        factor: float = MSE_FACTOR,
    ) -> None:
        super().__init__(student, teacher)
        self.linear_layers = student.config.text_config.linear_layers
        self.scale = factor / student.config.text_config.num_hidden_layers

    def count(self, batch: Batch) -> Tensor:
        """Tokens that are not padding."""
        return (batch.kinds != PADDING).sum()

    def forward(self, inputs: dict[str, Tensor], labels: Tensor, kinds: Tensor) -> Tensor:
        """Return the loss summed over tokens, a scalar."""
        losses: list[Tensor] = []
        student, teacher = (model.model.language_model.layers for model in (self.model, self.teacher))
        padding = inputs.get("attention_mask")
        hooks = [
            teacher[index].register_forward_hook(
                partial(_compare, student[index], padding, kinds != PADDING, losses), with_kwargs=True
            )
            for index in self.linear_layers
        ]
        try:
            with torch.no_grad():
                hidden_states(self.teacher, inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(losses).sum() * self.scale


def _compare(
    layer: nn.Module,
    padding: Tensor | None,
    real: Tensor,
    losses: list[Tensor],
    teacher_layer: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
) -> None:
    """A forward hook of a teacher's layer: what the student's layer makes of the same input, as an error."""
    given = args[0] if args else kwargs["hidden_states"]
    wanted = output[0] if isinstance(output, tuple) else output
    # The teacher's mask is that of attention; a mixer is told which tokens are padding.
    around = {name: value for name, value in kwargs.items() if name != "hidden_states"}
    around["attention_mask"] = padding_of_new_tokens(given, padding)

    def error(x: Tensor, y: Tensor) -> Tensor:
        found = layer(x, **around)
        found = found[0] if isinstance(found, tuple) else found
        return ((found - y).float().square().mean(-1) * real).sum()

    with torch.enable_grad():
        losses.append(checkpoint(error, given, wanted, use_reentrant=False))


class LogitDistillation(_Distillation):
    """End to end: τ² times the divergence of the student's next-token distribution from the teacher's, in nats, summed.

    Args:
        student: any hybrid.
        teacher: with the same vocabulary.
        temperature: τ.
        learnt_on: "text": where the next token is one of an answer or other text; "answers": of an answer alone. What
            stands for a picture is never predicted.
    """

    def __init__(
        self,
        student: HybridVLForConditionalGeneration,
        teacher: HybridVLForConditionalGeneration,
        temperature: float = TEMPERATURE,
        learnt_on: LearntOn = "text",
    ) -> None:
        super().__init__(student, teacher)
        self.temperature, self.learnt_on = temperature, learnt_on

    def count(self, batch: Batch) -> Tensor:
        """Tokens that are predicted."""
        return self._learnt(batch.labels, batch.kinds).sum()

    def forward(self, inputs: dict[str, Tensor], labels: Tensor, kinds: Tensor) -> Tensor:
        """Return the summed loss, a scalar."""
        learnt = self._learnt(labels, kinds)
        with torch.no_grad():
            wanted = hidden_states(self.teacher, inputs)[:, :-1][learnt]
        return chunked_sum(self._divergence, hidden_states(self.model, inputs)[:, :-1][learnt], wanted)

    def _learnt(self, labels: Tensor, kinds: Tensor) -> Tensor:
        return labels[:, 1:] != IGNORED if self.learnt_on == "answers" else kinds[:, 1:] == TEXT

    def _divergence(self, hidden: Tensor, teacher_hidden: Tensor) -> Tensor:
        with torch.no_grad():
            log_wanted = F.log_softmax(self.teacher.lm_head(teacher_hidden).float() / self.temperature, dim=-1)
        log_found = F.log_softmax(self.model.lm_head(hidden).float() / self.temperature, dim=-1)
        return F.kl_div(log_found, log_wanted, reduction="sum", log_target=True) * self.temperature**2


def check_teacher(student: HybridVLForConditionalGeneration, teacher: HybridVLForConditionalGeneration) -> None:
    """Refuse a teacher that a student cannot be compared with.

    Raises:
        UserError: naming what differs.
    """
    for name in ("num_hidden_layers", "hidden_size", "vocab_size"):
        ours, theirs = (getattr(model.config.text_config, name) for model in (student, teacher))
        if ours != theirs:
            raise UserError(f"the teacher has {name} {theirs}, the student {ours}; name a teacher of the same geometry")


def train_mixers(model: HybridVLForConditionalGeneration) -> None:
    """Freeze everything but the token mixers."""
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, TokenMixer):
            module.requires_grad_(True)


@torch.no_grad()
def share_frozen(student: nn.Module, teacher: nn.Module) -> int:
    """Let the student's frozen weights that equal the teacher's take the same memory; the bytes that this frees.

    Both must already be where they are trained and in the type that they are held in.
    """
    theirs, freed = dict(teacher.named_parameters()), 0
    for name, parameter in student.named_parameters():
        same = theirs.get(name)
        if same is None or parameter.requires_grad or same.data_ptr() == parameter.data_ptr():
            continue
        if same.dtype == parameter.dtype and same.shape == parameter.shape and torch.equal(same, parameter):
            parameter.data = same.data
            freed += parameter.numel() * parameter.element_size()
    return freed
