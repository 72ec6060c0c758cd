"""The shapes at which operations are timed: those of one layer of a preset."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import unknown_name
from ...models.mixers.gated_deltanet import GatedDeltaNet
from ...models.ops.recurrence import Recurrence
from ...models.presets import get_preset

B = 1
"""Sequences at a time."""

DRAWN = 4096
"""Tokens of random inputs that are drawn; longer ones repeat them, since time does not depend on values."""


@dataclass(frozen=True)
class Geometry:
    """One layer of a preset.

    Attributes:
        name: The preset.
        D: Width of the decoder.
        H: Heads.
        K: Key width of a head.
        V: Value width of a head.
        key_value_heads: Heads of keys and values in attention.
        window: Tokens that sliding-window attention sees.
        lengths: Device → sequence lengths that are timed unless others are asked for.
        compared: Tokens at which all forms, the reference too, are timed, and gradients are checked.
        reference_limit: Most tokens for which stepping through the reference is affordable; longer results are
            compared with the chunked form in float32, which the reference has confirmed up to here.
    """

    name: str
    D: int
    H: int
    K: int
    V: int
    key_value_heads: int
    window: int
    lengths: Mapping[str, tuple[int, ...]]
    compared: int
    reference_limit: int

    def recurrence_inputs(self, recurrence: Recurrence, T: int, device: str) -> tuple[Tensor, ...]:
        """Random ``(q, k, v, *gates)``: on an accelerator q, k and v in bfloat16 beside gates in float32, as mixers
        give them; else float32. Parameters among the gates have no time."""
        drawn = recurrence.random_inputs(B, min(T, DRAWN), self.H, self.K, self.V)
        narrow = float_type(device)
        placed = [x.to(device, narrow if index < 3 else torch.float32) for index, x in enumerate(drawn)]
        moving = len(placed) - recurrence.parameters
        return (*(repeated(x, T) for x in placed[:moving]), *placed[moving:])

    def hidden_states(self, T: int, device: str, seed: int = 0) -> Tensor:
        """Random ``[B, T, D]`` of unit variance, as a norm gives them to a layer."""
        drawn = torch.randn(B, min(T, DRAWN), self.D, generator=torch.Generator().manual_seed(seed))
        return repeated(drawn.to(device, float_type(device)), T)

    def attention_inputs(self, T: int, device: str) -> tuple[Tensor, ...]:
        """Random q ``[B, H, T, K]`` and k, v ``[B, G, T, K]`` for G key-value heads."""
        generator = torch.Generator().manual_seed(0)
        drawn = (
            torch.randn(B, min(T, DRAWN), heads, self.K, generator=generator).to(device, float_type(device))
            for heads in (self.H, self.key_value_heads, self.key_value_heads)
        )
        return tuple(repeated(x, T).transpose(1, 2) for x in drawn)


def float_type(device: str) -> torch.dtype:
    """The type of activations: bfloat16 on an accelerator, else float32."""
    return torch.bfloat16 if device == "cuda" else torch.float32


def repeated(x: Tensor, T: int) -> Tensor:
    """``[B, t, …]`` repeated along time to T tokens, in memory of its own."""
    times = -(-T // x.shape[1])
    return x.repeat(1, times, *[1] * (x.ndim - 2))[:, :T].contiguous()


# Preset → lengths by device, tokens at which all forms are compared, most tokens of the reference.
GEOMETRIES: dict[str, tuple[Mapping[str, tuple[int, ...]], int, int]] = {
    "tiny": ({"cpu": (1024, 2048, 4096, 8192, 16384), "cuda": (1024, 8192, 65536)}, 1024, 16384),
    "infinitevl-4b": ({"cpu": (256, 1024), "cuda": (1024, 8192, 32768, 131072)}, 1024, 1024),
}


def get_geometry(name: str) -> Geometry:
    """A geometry by the name of its preset.

    Raises:
        UserError: for an unknown name, with the nearest ones.
    """
    if name not in GEOMETRIES:
        raise unknown_name("geometry", name, GEOMETRIES)
    lengths, compared, reference_limit = GEOMETRIES[name]
    text = get_preset(name).text_config
    D, H, K, V = GatedDeltaNet.geometry(text)
    return Geometry(
        name, D, H, K, V, text.num_key_value_heads, text.sliding_window or 0, lengths, compared, reference_limit
    )  # fmt: skip
