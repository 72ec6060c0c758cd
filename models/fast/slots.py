"""A cache of fixed size at fixed addresses, as CUDA graphs need: what a hybrid remembers of the past, layer by layer.

A graph replays the same kernels on the same addresses, so nothing here may depend on a Python number that changes: how
many tokens were seen is a tensor on the device, and everything that follows from it (the slot to write, which slots
hold tokens, where the window begins) is computed there. A window of W tokens really holds W, from the first token to
the last of any stream.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError
from ..config import HybridVLTextConfig
from ..mixers.base import TokenMixer
from ..ops.slot_attention import chunk_attention, decode_attention


@dataclass
class KeyValueSlots:
    """Keys and values of an attention layer; a ring where there is a window, which the newest token then overwrites.

    Attributes:
        keys, values: ``[B, G, slots, K]`` for G groups of heads; a ring has as many slots as the window has tokens.
        window: tokens that a query sees, its own included; None for all.
    """

    keys: Tensor
    values: Tensor
    window: int | None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float) -> Tensor:
        """Let T new tokens look at all they may see, then store them.

        Args:
            query: ``[B, T, H, K]``, with its rotary positions.
            key, value: ``[B, T, G, K]``, likewise.
            seen: ``[]`` int64 on the device, tokens before these.
            scale: factor of the scores.

        Returns:
            ``[B, T, H, K]``.
        """
        o = chunk_attention(
            query.contiguous(), key.contiguous(), value.contiguous(), self.keys, self.values, seen, self.window, scale
        )
        T, size = key.shape[1], self.keys.shape[2]
        kept = min(T, size)
        slots = (seen + torch.arange(T - kept, T, device=seen.device)) % size
        self.keys.index_copy_(2, slots, key[:, T - kept :].transpose(1, 2).to(self.keys.dtype))
        self.values.index_copy_(2, slots, value[:, T - kept :].transpose(1, 2).to(self.values.dtype))
        return o

    def attend_one(self, projected: Tensor, cos: Tensor, sin: Tensor, seen: Tensor, scale: float) -> Tensor:
        """Store one new token and let it look; see `slot_attention.decode_attention`, also for the shapes."""
        return decode_attention(projected, cos, sin, self.keys, self.values, seen, scale)


@dataclass
class StateSlots:
    """What a token mixer remembers.

    Attributes:
        conv: ``[B, C, W − 1]``, the last inputs of the short convolutions; None without.
        recurrent: ``[B, …]`` float32 or wider; None without.
    """

    conv: Tensor | None
    recurrent: Tensor | None

    def store(self, conv: Tensor | None, recurrent: Tensor | None) -> None:
        """Overwrite in place."""
        if self.conv is not None and conv is not None:
            self.conv.copy_(conv)
        if self.recurrent is not None and recurrent is not None:
            self.recurrent.copy_(recurrent)


@torch.no_grad()
def _empty_state(mixer: TokenMixer, token: Tensor) -> StateSlots:
    """The slots of a mixer, laid out as the state that it leaves after one token ``[B, 1, D]``."""
    _, state = mixer.mix(token, None, None)
    # Not zeros_like, which would keep the strides of a transposed view: kernels count on rows that follow each other.
    return StateSlots(*(None if x is None else torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in state))


class FixedCache:
    """The slots of every layer, and how many tokens were seen.

    Args:
        model: the decoder, a `HybridVLTextModel`, on its device.
        batch_size: sequences B.
        max_length: tokens that layers of full attention have room for; None where there is no such layer.

    Raises:
        UserError: if full attention has no ``max_length``.
    """

    def __init__(self, model: Any, batch_size: int = 1, max_length: int | None = None) -> None:
        config: HybridVLTextConfig = model.config
        weight = model.embed_tokens.weight
        self.max_length = max_length if "full_attention" in config.layer_types else None
        if "full_attention" in config.layer_types and (max_length is None or max_length < 1):
            raise UserError("full-attention layers need room that is laid out beforehand; give max_length in tokens")
        self.seen = torch.zeros((), dtype=torch.int64, device=weight.device)
        self.length = 0
        self.layers: list[KeyValueSlots | StateSlots] = []
        for layer, layer_type in zip(model.layers, config.layer_types, strict=True):
            if layer_type == "linear_attention":
                self.layers.append(_empty_state(layer.self_attn, weight.new_zeros(batch_size, 1, config.hidden_size)))
                continue
            window = config.sliding_window if layer_type == "sliding_attention" else None
            slots = (max_length or 0) if window is None else window
            shape = (batch_size, config.num_key_value_heads, slots, config.hidden_size // config.num_attention_heads)
            keys, values = (torch.zeros(shape, dtype=weight.dtype, device=weight.device) for _ in range(2))
            self.layers.append(KeyValueSlots(keys, values, window))

    @property
    def tensors(self) -> list[Tensor]:
        """All that is held, the count of seen tokens first."""
        held = [(x.keys, x.values) if isinstance(x, KeyValueSlots) else (x.conv, x.recurrent) for x in self.layers]
        return [self.seen, *(tensor for pair in held for tensor in pair if tensor is not None)]

    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def check_room(self, tokens: int) -> None:
        """Refuse tokens that layers of full attention have no room for.

        Raises:
            UserError: naming both numbers.
        """
        if self.max_length is not None and self.length + tokens > self.max_length:
            raise UserError(
                f"{self.length} tokens were seen and {tokens} more do not fit into the {self.max_length} that were "
                "laid out for full attention; give a larger max_length"
            )

    def reset(self) -> None:
        """Forget everything, keep the addresses."""
        self.length = 0
        for tensor in self.tensors:
            tensor.zero_()

    def set_length(self, tokens: int) -> None:
        """Count ``tokens`` as seen, whatever the slots hold: for measuring how fast a long past is read."""
        self.length = tokens
        self.seen.fill_(tokens)

    def snapshot(self) -> tuple[int, list[Tensor]]:
        """A copy of everything, for `restore`."""
        return self.length, [tensor.clone() for tensor in self.tensors]

    def restore(self, snapshot: tuple[int, list[Tensor]]) -> None:
        """Go back to a snapshot of this cache, in place."""
        self.length = snapshot[0]
        for tensor, value in zip(self.tensors, snapshot[1], strict=True):
            tensor.copy_(value)
