"""What a hybrid model keeps between forward passes: transformers' cache, with the mixers' states in it.

transformers builds one cache layer for each entry of ``config.layer_types``: keys and values for attention, a window of
them for sliding attention, a convolution and a recurrent state for ``linear_attention``. The two functions here read
and write the latter, so that a mixer's arithmetic is a pure function ``(x, state) -> (y, state)`` and knows no cache.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicSlidingWindowLayer, LinearAttentionCacheLayerMixin

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

    A new tensor takes the buffer's place where a gradient flows through the state, since the backward pass of the
    tokens that read the old one still needs it; where a cache that was reset is given another batch; and where the old
    one was made in inference mode, which is over.

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
        held = buffers[0]
        over = held.is_inference() and not torch.is_inference_mode_enabled()
        if value.requires_grad or over or held.shape != value.shape:
            buffers[0] = value.to(held.dtype, copy=True)
        else:
            held.copy_(value)
    layer.has_previous_state[0] = True


def _linear_layer(cache: Cache, layer_idx: int) -> Any:
    layer = cache.layers[layer_idx] if layer_idx < len(cache.layers) else None
    if not isinstance(layer, LinearAttentionCacheLayerMixin):
        found = "missing" if layer is None else f"a {type(layer).__name__}, not a recurrent state"
        raise _foreign(f"layer {layer_idx} of this cache is {found}")
    return layer


def check_cache(cache: Any, config: Any, B: int | None = None, *, counting: bool = False) -> None:
    """Refuse a cache that was made for another model or batch, before anything is written into it.

    Args:
        cache: what the user or `generate` passed.
        config: the decoder's configuration.
        B: sequences of the batch; None where they are not to be compared.
        counting: whether it will be asked how many tokens were seen.

    Raises:
        UserError: naming the layer, and what it holds.
    """
    if not isinstance(cache, Cache):
        raise _foreign(f"this is a {type(cache).__name__}, not a cache")
    if not cache.layers and not config.linear_layers:
        # transformers fills one that was made without a configuration as layers of attention ask for theirs.
        return
    if len(cache.layers) != len(config.layer_types):
        raise _foreign(f"this cache has {len(cache.layers)} layers, the model {len(config.layer_types)}")
    if counting and len(config.linear_layers) == len(cache.layers) and not isinstance(cache, HybridCache):
        raise _foreign(f"a {type(cache).__name__} does not count tokens where no layer is an attention layer")
    made_for = getattr(cache, "mixer", None)
    if config.linear_layers and made_for not in (None, config.mixer):
        raise _foreign(f"this cache holds states of {made_for}, the model has {config.mixer}")
    head = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
    for index, (layer, layer_type) in enumerate(zip(cache.layers, config.layer_types, strict=True)):
        if layer_type == "linear_attention":
            # What it holds is compared by the mixer itself.
            _linear_layer(cache, index)
            continue
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            raise _foreign(f"layer {index} of this cache is a recurrent state, not keys and values")
        held = getattr(layer, "sliding_window", None) if isinstance(layer, DynamicSlidingWindowLayer) else None
        if held is not None and (layer_type == "full_attention" or held < config.sliding_window):
            raise _foreign(f"layer {index} of this cache keeps a window of {held} tokens, fewer than the model's sees")
        keys = getattr(layer, "keys", None)
        if keys is None or keys.ndim != 4:
            continue
        found, expected = (keys.shape[0], keys.shape[1], keys.shape[3]), (keys.shape[0] if B is None else B, *head)
        if found != expected:
            raise _foreign(
                f"layer {index} of this cache holds keys of (sequences, heads, width) {found}, not {expected}"
            )


def _foreign(what: str) -> UserError:
    return UserError(
        f"{what}: it was made for another model or batch; pass a fresh HybridCache(config=model.config), of "
        "infinitevl_bench.models.cache, or none at all"
    )


class HybridCache(DynamicCache):
    """A `DynamicCache` that also counts tokens when no layer is an attention layer.

    transformers asks the first attention layer how many tokens were seen, and raises where there is none; a pattern of
    linear mixers alone (SWA ratio 0) needs the count all the same, for positions and for generation.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen_tokens = 0
        config = kwargs.get("config")
        self.mixer: str | None = (
            None if config is None else getattr(config.get_text_config(decoder=True), "mixer", None)
        )

    @property
    def _counts_tokens(self) -> bool:
        return bool(self.layers) and all(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in self.layers)

    def count(self, tokens: int) -> None:
        """Note that ``tokens`` more tokens were processed (the model calls this once a forward pass)."""
        self._seen_tokens += tokens

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen so far."""
        return self._seen_tokens if self._counts_tokens else super().get_seq_length(layer_idx)

    def crop(self, *args: Any, **kwargs: Any) -> None:
        """Forget the newest tokens, as transformers' caches do.

        Raises:
            UserError: where a layer keeps a recurrent state, which cannot give a token back; nothing is changed then.
        """
        if any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in self.layers):
            raise UserError(
                "a recurrent state cannot give tokens back, so this cache cannot be cropped; keep a copy.deepcopy of "
                "it from before them, made under torch.no_grad()"
            )
        super().crop(*args, **kwargs)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence of the batch ``repeats`` times."""
        self._each(lambda x: x.repeat_interleave(repeats, dim=0), "batch_repeat_interleave", repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the sequences of the batch that ``indices`` names, in its order."""
        self._each(lambda x: x[indices.to(x.device)], "batch_select_indices", indices)

    def _each(self, change: Callable[[Tensor], Tensor], method: str, argument: Any) -> None:
        """Change all recurrent states along the batch; layers of attention have a method for theirs."""
        for layer in self.layers:
            if not isinstance(layer, LinearAttentionCacheLayerMixin):
                getattr(layer, method)(argument)
                continue
            for buffers in (layer.conv_states, layer.recurrent_states):
                for place, held in buffers.items():
                    buffers[place] = None if held is None else change(held)

    def reset(self) -> None:
        """Forget everything, keep the buffers."""
        super().reset()
        self._seen_tokens = 0
