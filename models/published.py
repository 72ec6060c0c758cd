"""Foreign checkpoints: the names and configurations of Qwen2.5-VL and of the published InfiniteVL; nowhere else.

Both lay their tensors out as Qwen2.5-VL did when it was published (``visual.…``, ``model.layers.…``); newer releases of
transformers write ``model.visual.…`` and ``model.language_model.…``, which are our names. The published InfiniteVL
(``model_type: infinite_vl``, code of its own that is never run here) names the parameters of Gated DeltaNet as ours.

A checkpoint saved by the released training code calls every layer ``full_attention``, and one without ``layer_types``
leaves them to a default, so layer types are read off the tensors: attention has a bias on q, k and v, and nothing else.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError
from .config import LETTERS, HybridVLConfig

INFINITE_VL = "infinite_vl"
QWEN = "qwen2_5_vl"
MODEL_TYPES = (QWEN, INFINITE_VL)

INFINITE_VL_CLASS = "InfiniteVLQwen2_5_VLForConditionalGeneration"
INFINITE_VL_WINDOW = 8192
"""Sliding window, in tokens, where a configuration does not say it."""

PIXEL_LIMITS = (128 * 28 * 28, 2304 * 28 * 28)
"""Smallest and largest area of a picture, in pixels, as the paper evaluates."""

KEY_MAPPING = {r"^visual\.": "model.visual.", r"^model\.(?!language_model\.|visual\.)": "model.language_model."}
"""Their names → ours, as transformers' ``key_mapping`` takes it."""

ATTENTION = {*(f"{name}_proj.weight" for name in "qkvo"), *(f"{name}_proj.bias" for name in "qkv")}
"""Parameters of an attention layer: its biases tell it from every mixer of ours."""

_LAYERS = "model.language_model.layers"
_logger = logging.getLogger(__name__)


def our_name(name: str) -> str:
    """Our name of a foreign tensor; one of ours stays."""
    if name.startswith("visual."):
        return f"model.{name}"
    if name.startswith("model.") and not name.startswith(("model.language_model.", "model.visual.")):
        return f"model.language_model.{name.removeprefix('model.')}"
    return name


def their_name(name: str) -> str:
    """The name that the published checkpoints give to one of our tensors."""
    if name.startswith("model.visual."):
        return name.removeprefix("model.")
    return name.replace("model.language_model.", "model.", 1)


def foreign_config(body: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> HybridVLConfig:
    """Our configuration of a foreign checkpoint.

    Args:
        body: its ``config.json``.
        shapes: shapes of its tensors, by our names.

    Raises:
        UserError: for another model type, or geometry that the tensors contradict.
    """
    from transformers import Qwen2_5_VLConfig

    if body.get("model_type") not in MODEL_TYPES:
        raise UserError(
            f"its model_type is {body.get('model_type')!r}; those that can be read: hybrid_vl, {', '.join(MODEL_TYPES)}"
        )
    kept = {key: value for key, value in body.items() if key not in ("model_type", "auto_map", "architectures")}
    for part in ("text_config", "vision_config"):
        if isinstance(kept.get(part), dict):
            kept[part] = {key: value for key, value in kept[part].items() if key not in ("model_type", "architectures")}
    own_text = kept.get("text_config") or kept
    claimed, window = own_text.get("layer_types"), own_text.get("sliding_window")
    if not own_text.get("use_sliding_window") or not window:
        window = INFINITE_VL_WINDOW
    own_text = own_text | {"layer_types": None, "use_sliding_window": False}
    theirs = Qwen2_5_VLConfig(**(kept | {"text_config": own_text} if kept.get("text_config") else own_text)).to_dict()
    theirs.pop("model_type")
    theirs["vision_config"].pop("model_type")
    text = {key: value for key, value in theirs["text_config"].items() if key != "model_type"}
    text["layer_types"] = layer_types_of_tensors(shapes, text["num_hidden_layers"], claimed, windowed=True)
    linear = [index for index, layer_type in enumerate(text["layer_types"]) if layer_type == "linear_attention"]
    text["sliding_window"] = window if "sliding_attention" in text["layer_types"] else None
    # Training switches the cache off and saves that; whoever loads a model to use it wants it on.
    text["use_cache"] = True
    if linear:
        text |= {"mixer": "gated_deltanet", "mixer_args": mixer_args_of_tensors(shapes, linear[0])}
    tied = body.get("tie_word_embeddings", own_text.get("tie_word_embeddings"))
    tied = "lm_head.weight" not in shapes if tied is None else bool(tied)
    return HybridVLConfig(**theirs | {"text_config": text, "tie_word_embeddings": tied})


def layer_types_of_tensors(
    shapes: Mapping[str, Sequence[int]], depth: int, claimed: Sequence[str] | None, *, windowed: bool
) -> list[str]:
    """Layer types as the tensors show them; a line is logged where the configuration says otherwise.

    Args:
        shapes: shapes of the tensors, by our names.
        depth: number of layers.
        claimed: what the configuration says; None where it says nothing.
        windowed: whether attention between linear layers has a window where the configuration cannot be trusted.

    Raises:
        UserError: if the tensors are those of fewer or more layers.
    """
    layers = {int(name.split(".")[3]) for name in shapes if name.startswith(f"{_LAYERS}.")}
    if layers != set(range(depth)):
        raise UserError(f"its config.json says {depth} layers, its tensors are those of {len(layers)}", 1)
    mixing: dict[int, set[str]] = {index: set() for index in range(depth)}
    for name in shapes:
        if name.startswith(f"{_LAYERS}.") and ".self_attn." in name:
            mixing[int(name.split(".")[3])].add(name.partition(".self_attn.")[2])
    linear = [mixing[index] != ATTENTION for index in range(depth)]
    if claimed is not None and [kind == "linear_attention" for kind in claimed] == linear:
        return list(claimed)
    attention = "sliding_attention" if windowed and any(linear) else "full_attention"
    found = ["linear_attention" if is_linear else attention for is_linear in linear]
    if claimed is None and not any(linear):
        return found
    _logger.warning(
        "layer types are taken from the tensors: %s; config.json %s",
        _letters(found),
        "names none" if claimed is None else f"says {_letters(claimed)}, which the tensors contradict",
    )
    return found


def mixer_args_of_tensors(shapes: Mapping[str, Sequence[int]], layer: int) -> dict[str, Any]:
    """Options of a Gated DeltaNet layer that differ from the published ones, read off its tensors."""
    prefix = f"{_LAYERS}.{layer}.self_attn."
    own = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    if not {"q_proj.weight", "v_proj.weight", "a_proj.weight", "b_proj.weight", "A_log"} <= own.keys():
        raise UserError(f"layer {layer} is neither attention nor Gated DeltaNet: it has {', '.join(sorted(own))}", 1)
    convolution = own.get("q_conv1d.weight")
    found = {
        "expand_v": own["v_proj.weight"][0] / own["q_proj.weight"][0],
        "conv_size": 0 if convolution is None else convolution[-1],
        "norm": "o_norm.weight" in own,
        "gate": "g_proj.weight" in own,
    }
    published = {"expand_v": 2, "conv_size": 4, "norm": True, "gate": True}
    return {name: value for name, value in found.items() if value != published[name]}


def infinite_vl_config(config: HybridVLConfig, dtype: str) -> dict[str, Any]:
    """The ``config.json`` with which the released modeling code loads our weights.

    Raises:
        UserError: for a model that this code cannot express.
    """
    text = config.text_config
    if text.mixer != "gated_deltanet" or not text.linear_layers:
        what = text.mixer if text.linear_layers else "attention only"
        raise UserError(f"the released code knows Gated DeltaNet only, this model has {what}; convert it to ours")
    if "full_attention" in text.layer_types:
        raise UserError("the released code has a window in every attention layer; this model has layers without one")
    options = {"expand_v": 2, "conv_size": 4, "norm": True, "gate": True} | dict(text.mixer_args or {})
    if not options["norm"]:
        raise UserError("the released code has a norm in every Gated DeltaNet layer; this model has none")
    rope = dict(text.rope_parameters)
    head_dim = text.hidden_size // text.num_attention_heads
    shared = ("bos_token_id", "eos_token_id", "pad_token_id")
    copied = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
        "attention_dropout", "sliding_window", *shared,
    )  # fmt: skip
    body: dict[str, Any] = {name: getattr(text, name) for name in copied}
    body |= {
        "model_type": "infinite_vl_text",
        "layer_types": list(text.layer_types),
        "head_dim": head_dim,
        "linear_head_dim": head_dim,
        "num_linear_heads": text.num_attention_heads,
        "num_linear_key_value_heads": text.num_attention_heads,
        "expand_v": options["expand_v"],
        "use_short_conv": options["conv_size"] > 0,
        "conv_size": options["conv_size"] or 4,
        "use_gate": options["gate"],
        "use_sliding_window": True,
        "max_window_layers": text.num_hidden_layers,
        "tie_word_embeddings": bool(config.tie_word_embeddings),
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": list(rope["mrope_section"])},
        "torch_dtype": dtype,
    }
    vision = config.vision_config.to_dict()
    kept_vision = (
        "depth", "hidden_size", "hidden_act", "intermediate_size", "num_heads", "in_channels", "patch_size",
        "spatial_merge_size", "temporal_patch_size", "tokens_per_second", "window_size", "out_hidden_size",
        "fullatt_block_indexes", "initializer_range",
    )  # fmt: skip
    return {
        "architectures": [INFINITE_VL_CLASS],
        "model_type": INFINITE_VL,
        "torch_dtype": dtype,
        "text_config": body,
        "vision_config": {name: vision[name] for name in kept_vision if name in vision} | {"model_type": INFINITE_VL},
        **{name: getattr(config, name) for name in _TOKEN_IDS},
        **{name: body[name] for name in (*shared, "tie_word_embeddings")},
    }


_TOKEN_IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def _letters(layer_types: Sequence[str]) -> str:
    return "".join(LETTERS.get(kind, "?") for kind in layer_types)
