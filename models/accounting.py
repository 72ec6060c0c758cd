"""How large a model is: parameters, recurrent state, cache. Counted from the code, on the meta device, in elements."""

from dataclasses import dataclass

import torch

from .config import HybridVLConfig
from .registry import get_mixer


@dataclass(frozen=True)
class Size:
    """Sizes of a model, in elements (multiply by the bytes of the dtype)."""

    parameters: int
    state_elements: int
    cache_elements: int


def count_parameters(config: HybridVLConfig) -> int:
    """Number of parameters, tied weights counted once; nothing is allocated."""
    from .hybrid import HybridVLForConditionalGeneration

    with torch.device("meta"):
        model = HybridVLForConditionalGeneration(config)
    model.tie_weights()
    return sum(parameter.numel() for parameter in {id(p): p for p in model.parameters()}.values())


def state_elements(config: HybridVLConfig) -> int:
    """Elements of all recurrent states of one sequence, whatever its length."""
    text = config.text_config
    return len(text.linear_layers) * get_mixer(text.mixer).state_elements(text) if text.linear_layers else 0


def cache_elements(config: HybridVLConfig, context: int) -> int:
    """Elements kept between tokens after ``context`` tokens of one sequence: keys and values, and recurrent states.

    The short convolutions' last inputs (a few per channel) are left out, as in the published count.
    """
    text = config.text_config
    per_token = 2 * text.num_key_value_heads * (text.hidden_size // text.num_attention_heads)
    kept = {"F": context, "S": min(context, text.sliding_window or context), "L": 0}
    tokens = sum(kept[letter] for letter in text.pattern) * text.num_hidden_layers // len(text.pattern)
    return per_token * tokens + state_elements(config)


def size_of(config: HybridVLConfig, context: int = 32768) -> Size:
    """All sizes of a configuration at a context length."""
    return Size(count_parameters(config), state_elements(config), cache_elements(config, context))


def forward_bytes(config: HybridVLConfig, tokens: int, chunk: int, element_bytes: int = 4) -> int:
    """Memory beyond the weights, about, that one sequence needs: its cache, and what a layer works on.

    Args:
        config: of the model.
        tokens: of the sequence.
        chunk: of them that pass through the model at a time.
        element_bytes: bytes of an element.
    """
    text = config.text_config
    # Inputs and outputs of a layer's parts.
    working = min(tokens, chunk) * (24 * text.hidden_size + 4 * text.intermediate_size)
    return element_bytes * (cache_elements(config, tokens) + working)
