"""A cache of fixed size at fixed addresses, as CUDA graphs need: what a hybrid remembers of the past, layer by layer.

A graph replays the same kernels on the same addresses, so nothing here may depend on a Python number that changes: how
many tokens were seen is a tensor on the device, and everything that follows from it (the slot to write, which slots
hold tokens, where the window begins) is computed there. A window of W tokens really holds W, from the first token to
the last of any stream.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import UserError
from ..attention import blocked_attention, flash_attention, has_flash_kernels
from ..config import HybridVLTextConfig
from ..mixers.base import TokenMixer
from ..ops.decode_attention import decode_attention


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
        """Store T new tokens and let them look at all they may see.

        Args:
            query: ``[B, T, H, K]``, with its rotary positions.
            key, value: ``[B, T, G, K]``.
            seen: ``[]`` int64 on the device, tokens before these.
            scale: factor of the scores.

        Returns:
            ``[B, T, H, K]``.
        """
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        T, size = key.shape[2], self.keys.shape[2]
        if T == 1:
            self._write(key, value, seen)
            used = (seen + 1).clamp(max=size)
            return decode_attention(query, self.keys, self.values, used, scale).transpose(1, 2)
        if self.window is None:
            self._write(key, value, seen)
            return _attend_prefix(query, self.keys, self.values, seen + T, scale, None).transpose(1, 2)
        # The past in its order, then the new tokens; only then may the ring be overwritten.
        past = seen.clamp(max=size)
        place = torch.arange(size + T, device=seen.device)
        source = torch.where(place < past, (seen - past + place) % size, size + place - past).clamp(max=size + T - 1)
        keys, values = (
            torch.cat([ring, new], dim=2).index_select(2, source)
            for ring, new in ((self.keys, key), (self.values, value))
        )
        o = _attend_prefix(query, keys, values, past + T, scale, self.window)
        kept = min(T, size)
        self._write(key[:, :, T - kept :], value[:, :, T - kept :], seen + (T - kept))
        return o.transpose(1, 2)

    def _write(self, key: Tensor, value: Tensor, seen: Tensor) -> None:
        slots = (seen + torch.arange(key.shape[2], device=seen.device)) % self.keys.shape[2]
        self.keys.index_copy_(2, slots, key.to(self.keys.dtype))
        self.values.index_copy_(2, slots, value.to(self.values.dtype))


def _attend_prefix(
    query: Tensor, keys: Tensor, values: Tensor, used: Tensor, scale: float, window: int | None
) -> Tensor:
    """Causal attention of T queries, the last of which stands at key ``used − 1``; later keys do not count."""
    B = query.shape[0]
    if has_flash_kernels(query):
        return flash_attention(query, keys, values, scale, window, used=used.to(torch.int32).expand(B).contiguous())
    # Without kernels: the used keys are brought to the end, where `blocked_attention` aligns, and the rest is padding.
    S = keys.shape[2]
    place = torch.arange(S, device=used.device)
    source = (place + used) % S
    real = (place >= S - used).expand(B, S)
    keys, values = keys.index_select(2, source), values.index_select(2, source)
    return blocked_attention(query, keys, values, scale, window, real)


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
    return StateSlots(*(None if tensor is None else torch.zeros_like(tensor) for tensor in state))


class FixedCache:
    """The slots of every layer, and how many tokens were seen.

    Args:
        model: the decoder, a `HybridVLTextModel`, on its device.
        batch_size: sequences B.
        max_length: tokens that layers of full attention have room for; None where there is no such layer.

    Raises:
        UserError: if full attention has no ``max_length``.
    """

    def __init__(self, model: torch.nn.Module, batch_size: int = 1, max_length: int | None = None) -> None:
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
            slots = window if window is not None else max_length
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
