"""What a student takes over from a full-attention teacher: everything but the token mixers, as the paper's students do.

Source: InfiniteVL, arXiv 2512.08829: vision tower, embeddings, norms, FFNs and head are inherited from Qwen2.5-VL, and
the projections of each new mixer start from those of the attention that it replaces.
"""

from functools import cache

import torch
from torch import nn

from ..errors import UserError
from .hybrid import HybridVLForConditionalGeneration
from .mixers.base import TokenMixer
from .shipped import TEACHER
from .shipped_models import load_shipped

STARTS_UNITS = ("mlp.gate_proj.weight", "mlp.up_proj.weight")
"""Whose rows are an FFN's units."""

ENDS_UNITS = "mlp.down_proj.weight"
"""Whose columns are."""


@cache
def shipped_teacher() -> HybridVLForConditionalGeneration:
    """One instance of the shipped teacher for all who only read it."""
    return load_shipped(TEACHER)


@torch.no_grad()
def inherit(student: HybridVLForConditionalGeneration, teacher: HybridVLForConditionalGeneration) -> None:
    """Give a student all that its teacher has but the token mixers, and start those from the teacher's attention.

    Args:
        student: of the teacher's depth and width; its linear layers keep what `TokenMixer.init_from_attention` leaves.
            Its FFNs may be wider: units beyond the teacher's give nothing until they are trained.
        teacher: with attention in every layer.

    Raises:
        UserError: if the two do not fit; nothing is changed then.
    """
    linear = student.config.text_config.linear_layers
    if teacher.config.text_config.linear_layers:
        raise UserError("a teacher has attention in every layer; this one has linear mixers; name another")
    mixers = tuple(f"model.language_model.layers.{index}.self_attn." for index in linear)
    theirs = teacher.state_dict()
    ours = {name: tensor for name, tensor in student.state_dict().items() if not name.startswith(mixers)}
    for name, tensor in ours.items():
        if name not in theirs or not _fits(name, theirs[name], tensor):
            found = list(theirs[name].shape) if name in theirs else "missing"
            raise UserError(
                f"the teacher does not fit the student: {name} is {list(tensor.shape)} here and {found} there; "
                "give both the same depth and widths"
            )
    surplus = [name for name in theirs if name not in ours and not name.startswith(mixers)]
    if surplus:
        raise UserError(f"the teacher has {surplus[0]}, which the student lacks; give both the same depth and widths")
    for index in linear:
        _mixer(student, index).init_from_attention(teacher.model.language_model.layers[index].self_attn)
    for name, tensor in ours.items():
        rows, *columns = theirs[name].shape
        if name.endswith(ENDS_UNITS):
            tensor.zero_()
        tensor[(slice(rows), *map(slice, columns))] = theirs[name]


def _fits(name: str, theirs: torch.Tensor, ours: torch.Tensor) -> bool:
    """Whether a tensor of the student takes that of the teacher: of its shape, or with more units of an FFN."""
    wider = list(theirs.shape)
    if ".language_model." in name and name.endswith(STARTS_UNITS):
        wider[0] = max(wider[0], ours.shape[0])
    elif ".language_model." in name and name.endswith(ENDS_UNITS):
        wider[1] = max(wider[1], ours.shape[1])
    return list(ours.shape) == wider


def _mixer(student: HybridVLForConditionalGeneration, index: int) -> TokenMixer:
    found: nn.Module = student.model.language_model.layers[index].self_attn
    if not isinstance(found, TokenMixer):
        raise TypeError(f"layer {index} is said to be linear and holds a {type(found).__name__}")
    return found
