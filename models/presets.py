"""Model sizes by name. A preset is a function that returns a configuration; weights are another matter.

tiny             that of the studies              128 wide, 8 layers, FFN of 256, the shipped vision tower
small            a wider one                      as tiny, with an FFN of 512
infinitevl-4b    the published hybrid             arXiv 2512.08829, section 3
qwen2.5-vl-3b    its teacher, full attention      Qwen/Qwen2.5-VL-3B-Instruct
"""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from ..errors import UserError, unknown_name
from ..records import package_path
from .config import HybridVLConfig, layer_types_of

# The decoder of Qwen2.5-VL-3B; InfiniteVL keeps all of it but the token mixers.
_QWEN_3B_TEXT: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128000,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "pad_token_id": 151643,
    "tie_word_embeddings": True,
}
_QWEN_3B_VISION: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "tokens_per_second": 2,
    "window_size": 112,
    "out_hidden_size": 2048,
    "fullatt_block_indexes": [7, 15, 23, 31],
}


def infinitevl_4b(mixer: str, pattern: str, mixer_args: dict[str, Any]) -> HybridVLConfig:
    """InfiniteVL-4B: nine blocks of one SWA layer and three Gated DeltaNet layers, window 8192."""
    return _config(_QWEN_3B_TEXT | {"sliding_window": 8192}, _QWEN_3B_VISION, mixer, pattern, mixer_args)


def qwen2_5_vl_3b(mixer: str, pattern: str, mixer_args: dict[str, Any]) -> HybridVLConfig:
    """Qwen2.5-VL-3B: full attention in all 36 layers."""
    return _config(_QWEN_3B_TEXT | {"sliding_window": 8192}, _QWEN_3B_VISION, mixer, pattern, mixer_args)


def tiny(mixer: str, pattern: str, mixer_args: dict[str, Any]) -> HybridVLConfig:
    """Eight layers of 128; the window is shorter than a page, so what lies behind it must pass through the state."""
    return _embedded_config(256, mixer, pattern, mixer_args)


def small(mixer: str, pattern: str, mixer_args: dict[str, Any]) -> HybridVLConfig:
    """As tiny, with an FFN twice as wide. Studies of scale small take `tiny`, which can inherit from the teacher."""
    return _embedded_config(512, mixer, pattern, mixer_args)


# name → (function, default pattern)
PRESETS: dict[str, tuple[Callable[[str, str, dict[str, Any]], HybridVLConfig], str]] = {
    "tiny": (tiny, "SLLL"),
    "small": (small, "SLLL"),
    "infinitevl-4b": (infinitevl_4b, "SLLL"),
    "qwen2.5-vl-3b": (qwen2_5_vl_3b, "F"),
}


def preset_names() -> list[str]:
    """All preset names."""
    return list(PRESETS)


def get_preset(
    name: str, *, mixer: str = "gated_deltanet", pattern: str | None = None, mixer_args: dict[str, Any] | None = None
) -> HybridVLConfig:
    """Build the configuration of a preset.

    Args:
        name: one of `preset_names`.
        mixer: a name in the mixer registry.
        pattern: a layer pattern (see `models.config`); the preset's own if None.
        mixer_args: arguments of the mixer beyond its defaults.

    Raises:
        UserError: for an unknown preset, or a pattern that does not tile its depth.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    build, default_pattern = PRESETS[name]
    return build(mixer, default_pattern if pattern is None else pattern, dict(mixer_args or {}))


def _config(
    text: dict[str, Any], vision: dict[str, Any], mixer: str, pattern: str, mixer_args: dict[str, Any], **ids: int
) -> HybridVLConfig:
    layers = layer_types_of(pattern, text["num_hidden_layers"])
    return HybridVLConfig(
        text_config=text | {"layer_types": layers, "mixer": mixer, "mixer_args": mixer_args},
        vision_config=vision,
        tie_word_embeddings=True,
        **ids,
    )


def _embedded_config(intermediate_size: int, mixer: str, pattern: str, mixer_args: dict[str, Any]) -> HybridVLConfig:
    """A configuration around the tokenizer and the vision tower that the package ships."""
    tokens = _special_tokens()
    text = {
        "vocab_size": tokens["vocab_size"],
        "hidden_size": 128,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        # The default of 0.02 is meant for widths of thousands.
        "initializer_range": 0.05,
        "max_position_embeddings": 32768,
        "sliding_window": 16,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
        "bos_token_id": tokens["<|endoftext|>"],
        "eos_token_id": tokens["<|im_end|>"],
        "pad_token_id": tokens["<|endoftext|>"],
        "tie_word_embeddings": True,
    }
    return _config(
        text,
        vision_tower_config(),
        mixer,
        pattern,
        mixer_args,
        image_token_id=tokens["<|image_pad|>"],
        video_token_id=tokens["<|video_pad|>"],
        vision_start_token_id=tokens["<|vision_start|>"],
        vision_end_token_id=tokens["<|vision_end|>"],
    )


@cache
def _special_tokens() -> dict[str, int]:
    path = package_path("models", "assets", "tokenizer", "tokenizer.json")
    try:
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the shipped tokenizer {path} cannot be read ({error}); reinstall the package", 1) from None
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    size = 1 + max(*special.values(), *tokenizer["model"]["vocab"].values())
    # Kernels like multiples of 64; the spare rows are never used.
    return special | {"vocab_size": -(-size // 64) * 64}


@cache
def vision_tower_config() -> dict[str, Any]:
    """Geometry of the vision tower that the package ships."""
    path = package_path("models", "assets", "vision_tower", "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the shipped vision tower {path} cannot be read ({error}); reinstall the package", 1) from None
    return {key: config[key] for key in _QWEN_3B_VISION}
