"""What a hybrid model keeps between forward passes: transformers' cache, with the mixers' states in it.

transformers builds one cache layer for each entry of ``config.layer_types``: keys and values for attention, a window of
them for sliding attention, a convolution and a recurrent state for ``linear_attention``. The two functions here read
and write the latter, so that a mixer's arithmetic is a pure function ``(x, state) -> (y, state)`` and knows no cache.
"""

from typing import Any, NamedTuple

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, LinearAttentionCacheLayerMixin

from ..errors import UserError


class MixerState(NamedTuple):
    """All that a token mixer remembers of the past.

    Attributes:
        conv: ``[B, C, W - 1]``, the last inputs of the short convolutions of width W, all streams side by side along C,
            oldest first; None for a mixer without convolution.
        recurrent: ``[B, H, K, V]`` or whatever shape the mixer states, float32 or wider; None for a mixer whose only
            memory is its convolution.
    """

    conv: Tensor | None
    recurrent: Tensor | None


def read_state(cache: Cache | None, layer_idx: int) -> MixerState | None:
    """Return the state of one layer, or None before the first token (and without a cache)."""
    if cache is None or layer_idx >= len(cache.layers):
        return None
    layer = _linear_layer(cache, layer_idx)
    if not any(layer.has_previous_state.values()):
        return None
    return MixerState(layer.conv_states[0], layer.recurrent_states[0])


def write_state(cache: Cache, layer_idx: int, state: MixerState) -> None:
    """Store the state of one layer. Buffers keep their address once made, as CUDA graphs need.

    Args:
        cache: the model's cache, built from its configuration.
        layer_idx: which layer.
        state: the new state; its tensors are copied.
    """
    layer = _linear_layer(cache, layer_idx)
    for buffers, initialized, value, name in (
        (layer.conv_states, layer.is_conv_states_initialized, state.conv, "conv_states"),
        (layer.recurrent_states, layer.is_recurrent_states_initialized, state.recurrent, "recurrent_states"),
    ):
        if value is None:
            continue
        if not initialized[0]:
            layer.lazy_initialization(**{name: value})
        buffers[0].copy_(value)
    layer.has_previous_state[0] = True


def _linear_layer(cache: Cache, layer_idx: int) -> Any:
    layer = cache.layers[layer_idx]
    if not isinstance(layer, LinearAttentionCacheLayerMixin):
        raise UserError(
            f"layer {layer_idx} of this cache is a {type(layer).__name__}, not a recurrent state: the cache was made "
            "for another model; pass DynamicCache(config=model.config) or none at all"
        )
    return layer


class HybridCache(DynamicCache):
    """A `DynamicCache` that also counts tokens when no layer is an attention layer.

    transformers asks the first attention layer how many tokens were seen, and raises where there is none; a pattern of
    linear mixers alone (SWA ratio 0) needs the count all the same, for positions and for generation.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen_tokens = 0

    @property
    def _counts_tokens(self) -> bool:
        return bool(self.layers) and all(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in self.layers)

    def count(self, tokens: int) -> None:
        """Note that ``tokens`` more tokens were processed (the model calls this once a forward pass)."""
        self._seen_tokens += tokens

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen so far."""
        return self._seen_tokens if self._counts_tokens else super().get_seq_length(layer_idx)

    def reset(self) -> None:
        """Forget everything, keep the buffers."""
        super().reset()
        self._seen_tokens = 0
