"""Weights: new models from a preset, models from a folder or a hub, always safetensors and never remote code."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import UserError, unknown_name
from ..records import package_path
from .config import HybridVLConfig, layer_types_of
from .hybrid import HybridVLForConditionalGeneration
from .presets import PRESETS, get_preset, vision_tower_config
from .processor import load_processor
from .shipped import SHIPPED, VISION_TOWER

EMBEDDED_PRESETS = ("tiny", "small")


class LoadedModel(NamedTuple):
    """A model ready to answer, its processor, and what may be said of it.

    ``random_weights`` is True where no training stands behind the decoder: it is never shown as a trained model.
    """

    model: HybridVLForConditionalGeneration
    processor: Any
    name: str
    random_weights: bool


def new_model(config: HybridVLConfig, seed: int) -> HybridVLForConditionalGeneration:
    """Make a model with random weights from a seed; presets that use the shipped vision tower get it, frozen.

    Args:
        config: any configuration; the tower is loaded where its geometry is the shipped one's.
        seed: of torch's generator, which is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = HybridVLForConditionalGeneration(config)
    if uses_shipped_tower(config):
        try:
            model.model.visual.load_state_dict(load_file(package_path(*VISION_TOWER)))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"the shipped vision tower cannot be loaded ({error}); reinstall the package", 1) from None
        model.model.visual.requires_grad_(False)
    return model


def uses_shipped_tower(config: HybridVLConfig) -> bool:
    """Whether the vision configuration is that of the shipped tower."""
    ours = config.vision_config.to_dict()
    return all(ours[key] == value for key, value in vision_tower_config().items())


def load_model(reference: str, *, device: str = "cpu", dtype: torch.dtype | None = None, seed: int = 0) -> LoadedModel:
    """Load a model by preset name (random weights), folder, run folder or hub id.

    Args:
        reference: `SHIPPED`, a preset of `models.presets`, a folder with ``config.json`` and safetensors (or a run
            folder that holds one as ``model/``), or a hub id such as ``Qwen/Qwen2.5-VL-3B-Instruct``.
        device: torch device of the result.
        dtype: of the weights; the checkpoint's own if None.
        seed: for a preset's random weights.

    Raises:
        UserError: if there is no such model, or what is there cannot be read.
    """
    if reference == SHIPPED:
        from .teacher import load_teacher

        model = load_teacher()
        return LoadedModel(model.to(device=device, dtype=dtype or torch.float32), load_processor(), SHIPPED, False)
    if reference in PRESETS:
        model = new_model(get_preset(reference), seed)
        model = model.to(device=device, dtype=dtype) if dtype is not None else model.to(device)
        if reference not in EMBEDDED_PRESETS:
            raise UserError(
                f"preset {reference} has no weights here and no tokenizer; give a folder or a hub id, such as "
                "Qwen/Qwen2.5-VL-3B-Instruct"
            )
        return LoadedModel(model.eval(), load_processor(), reference, True)
    path = Path(reference)
    if (path / "model" / "config.json").exists():
        path = path / "model"
    if not path.exists() and (reference.count("/") != 1 or reference.startswith((".", "/", "~"))):
        if "/" in reference:
            raise UserError(f"no model at {reference}; give a folder with config.json and *.safetensors")
        raise unknown_name("model", reference, [SHIPPED, *PRESETS])
    source = str(path) if path.exists() else reference
    try:
        config = _hybrid_config(source)
        model = HybridVLForConditionalGeneration.from_pretrained(
            source, config=config, dtype=dtype or "auto", use_safetensors=True, trust_remote_code=False
        )
        processor = load_processor(source)
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"cannot load a model from {reference}: {reason}; save or download it again", 1) from error
    return LoadedModel(
        model.to(device).eval(), processor, path.parent.name if path.name == "model" else path.name, False
    )


def _hybrid_config(source: str) -> HybridVLConfig:
    """Read a checkpoint's configuration; Qwen2.5-VL's becomes a hybrid without a linear layer."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    if isinstance(config, HybridVLConfig):
        return config
    if config.model_type != "qwen2_5_vl":
        raise ValueError(f"its model_type is {config.model_type!r}; known: hybrid_vl, qwen2_5_vl")
    body = config.to_dict()
    text = dict(body.pop("text_config"))
    text["layer_types"] = layer_types_of("F", text["num_hidden_layers"])
    text.pop("model_type", None)
    body.pop("model_type", None)
    return HybridVLConfig(**body | {"text_config": text})
