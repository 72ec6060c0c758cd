"""Models to profile: presets with random weights made where they will run, or checkpoints."""

from dataclasses import dataclass
from typing import Any

import torch

from ..errors import UserError, unknown_name
from ..models.checkpoints import EMBEDDED_PRESETS, load_model, new_model
from ..models.config import HybridVLConfig
from ..models.hybrid import HybridVLForConditionalGeneration
from ..models.presets import PRESETS, get_preset
from .floors import ModelWork

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
DEFAULTS = {"cuda": ("infinitevl-4b", "qwen2.5-vl-3b"), "cpu": ("tiny", "tiny:F")}
"""The hybrid and the Transformer that are compared unless others are named, by device."""


@dataclass(frozen=True)
class Profiled:
    """A model on its device, ready to run.

    Attributes:
        name: As records call it.
        model: In evaluation mode.
        work: Its bytes and operations.
        random_weights: Whether no training stands behind it: speed does not depend on that, answers do.
        scale: Its preset; None for a checkpoint.
    """

    name: str
    model: HybridVLForConditionalGeneration
    work: ModelWork
    random_weights: bool
    scale: str | None

    @property
    def config(self) -> HybridVLConfig:
        """Its configuration."""
        return self.work.config

    @property
    def full_attention(self) -> bool:
        """Whether some layer keeps every token."""
        return "full_attention" in self.config.text_config.layer_types


def parse_reference(reference: str) -> tuple[str, str | None]:
    """``preset``, ``preset:PATTERN``, or the path of a checkpoint → (name, pattern).

    Raises:
        UserError: for what is no preset and no path.
    """
    name, _, pattern = reference.partition(":")
    if name in PRESETS:
        return name, pattern.upper() or None
    if "/" not in reference:
        raise unknown_name("preset", name, PRESETS)
    return reference, None


def config_of(reference: str) -> HybridVLConfig | None:
    """The configuration of a preset; None for a checkpoint, which has to be read first."""
    name, pattern = parse_reference(reference)
    return get_preset(name, pattern=pattern) if name in PRESETS else None


def resolve_dtype(name: str | None, device: str) -> torch.dtype:
    """The type of the weights: bfloat16 on an accelerator, float32 on the processor, unless named.

    Raises:
        UserError: for an unknown name, or a GPU without bfloat16.
    """
    name = name or ("bfloat16" if device == "cuda" else "float32")
    if name not in DTYPES:
        raise unknown_name("dtype", name, DTYPES)
    if device == "cuda" and name == "bfloat16" and not torch.cuda.is_bf16_supported():
        raise UserError(f"{torch.cuda.get_device_name()} has no bfloat16; use --dtype float16 or float32")
    return DTYPES[name]


def profiled_model(reference: str, device: str, dtype: torch.dtype) -> Profiled:
    """Make or load a model.

    Raises:
        UserError: for an unknown reference, or a checkpoint that cannot be read.
    """
    name, pattern = parse_reference(reference)
    if name not in PRESETS:
        loaded = load_model(reference, device=device, dtype=dtype)
        return Profiled(loaded.name, loaded.model, _work(loaded.model.config, dtype), loaded.random_weights, None)
    config = get_preset(name, pattern=pattern)
    if name in EMBEDDED_PRESETS:
        model = new_model(config, 0).to(device=device, dtype=dtype)
    else:
        model = random_model(config, device, dtype)
    return Profiled(name, model.eval().requires_grad_(False), _work(config, dtype), True, name)


def described_model(reference: str, dtype: torch.dtype) -> Profiled | None:
    """A preset's name, configuration and work, its model on the meta device; None for a checkpoint."""
    config = config_of(reference)
    if config is None:
        return None
    with torch.device("meta"):
        model = HybridVLForConditionalGeneration(config)
    name = parse_reference(reference)[0]
    return Profiled(name, model, _work(config, dtype), True, name)


def random_model(config: HybridVLConfig, device: str, dtype: torch.dtype, seed: int = 0) -> Any:
    """A model whose weights are drawn on the device and in the type that they stay in: seconds, not minutes, at 4B."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
            torch.manual_seed(seed)
            with torch.device(device):
                return HybridVLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)


def _work(config: HybridVLConfig, dtype: torch.dtype) -> ModelWork:
    return ModelWork(config, weight_bytes=dtype.itemsize)
