"""The trained models that the package ships: a full-attention teacher, and a hybrid that inherits from it."""

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ..errors import UserError
from ..files import package_path
from .checkpoints import new_model
from .config import HybridVLConfig
from .hybrid import HybridVLForConditionalGeneration
from .presets import get_preset
from .shipped import HYBRID, SHIPPED, TEACHER

SHIPPED_PRESET = "tiny"
"""The size of all of them."""


def shipped_config(name: str) -> HybridVLConfig:
    """The configuration of a model of `SHIPPED`: the preset's own, and for the teacher attention throughout."""
    return get_preset(SHIPPED_PRESET, pattern={HYBRID: None, TEACHER: "F"}[name])


def load_shipped(name: str) -> HybridVLForConditionalGeneration:
    """A model of `SHIPPED`, in float32.

    Raises:
        UserError: if its file is missing or damaged.
    """
    model = new_model(shipped_config(name), seed=0)
    try:
        weights = load_file(package_path(*SHIPPED[name]))
        missing, surplus = model.load_state_dict(weights, strict=False)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"the shipped {name} cannot be loaded ({error}); reinstall the package", 1) from None
    unexplained = [one for one in missing if not _elsewhere(one)]
    if unexplained or surplus:
        raise UserError(f"the shipped {name} lacks or adds {[*unexplained, *surplus][0]}; reinstall the package", 1)
    return model.eval()


def shipped_bytes(model: HybridVLForConditionalGeneration) -> bytes:
    """A model's weights as they are shipped: safetensors, in float16."""
    weights = {
        name: tensor.to(torch.float16).contiguous().cpu()
        for name, tensor in model.state_dict().items()
        if not _elsewhere(name)
    }
    return save(weights)


def _elsewhere(name: str) -> bool:
    # The vision tower has a file of its own, and the head is the embedding.
    return "visual." in name or name == "lm_head.weight"
