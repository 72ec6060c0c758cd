"""The small language model of multi-query recall: our decoder, as near to zoology's as it comes.

As zoology's (HazyResearch/zoology, configuration of figure 2): one head in every layer; norm, token mixer and residual;
no FFN, in whose place a second norm is added to the residual; embedding and head share their weights; weights begin
with a deviation of 0.02.

Otherwise than zoology's: two layers for every arm, where zoology gives attention two and all others four, since most of
ours hold their short convolution in the same layer; RMSNorm for LayerNorm, no biases and no dropout; and attention
knows positions by rotation, where zoology's learns an embedding of each position.
"""

from typing import Any

from torch import nn

from .checkpoints import new_model
from .config import HybridVLConfig, layer_types_of
from .hybrid import HybridVLForConditionalGeneration
from .presets import get_preset, vision_tower_config

LAYERS = 2


def recall_config(
    mixer: str, pattern: str, mixer_args: dict[str, Any], *, width: int, vocabulary: int, window: int
) -> HybridVLConfig:
    """The configuration of a recall model, around the shipped vision tower.

    Args:
        mixer, pattern, mixer_args: as of `presets.get_preset`.
        width: D, zoology's d_model; a multiple of 16.
        vocabulary: tokens.
        window: of sliding-window layers.

    Raises:
        UserError: for a pattern that does not tile the layers.
    """
    angles = width // 2
    text = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        # Never used; see `new_recall_model`.
        "intermediate_size": 8,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.02,
        "max_position_embeddings": 32768,
        "sliding_window": window,
        # The sections' shares of Qwen2.5-VL; in text all three count alike.
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [angles - 2 * (3 * angles // 8), 3 * angles // 8, 3 * angles // 8],
        },
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "tie_word_embeddings": True,
        "layer_types": layer_types_of(pattern, LAYERS),
        "mixer": mixer,
        "mixer_args": mixer_args,
    }
    return HybridVLConfig(text_config=text, vision_config=vision_tower_config(), tie_word_embeddings=True)


def new_recall_model(config: HybridVLConfig, seed: int) -> HybridVLForConditionalGeneration:
    """A recall model with random weights from a seed; its vision tower is the shipped one, frozen."""
    model = new_model(config, seed)
    for layer in model.model.language_model.layers:
        layer.mlp = nn.Identity()
    return model


def shipped_tower() -> nn.Module:
    """The vision tower that the package ships."""
    tower: nn.Module = new_model(get_preset("tiny"), 0).model.visual
    return tower


def trained_parameters(model: nn.Module) -> int:
    """Parameters that are trained, the embedding that is the head too counted once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
