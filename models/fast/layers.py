"""The token mixers and the FFN of a decoder layer on the fast path.

Each works on ``[B, T, D]`` and a layer's slots in a `FixedCache`, and has a form for one token of one sequence, in
which everything around a matrix product is part of its kernel. Mixers without a form of their own run through
`TokenMixer.mix`, the one they are trained with.
"""

from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor

from ..cache import MixerState
from ..mixers.base import TokenMixer
from ..mixers.gated_deltanet import GatedDeltaNet
from ..ops.decoding import power_of_two
from ..ops.delta_inputs import delta_inputs
from ..ops.delta_step import delta_step
from ..ops.head_norm import reference as gated_head_norm
from ..ops.matrix_vector import Around, matrix_vector
from .merge import merged
from .pointwise import fused, rms_norm, rotated, swiglu
from .slots import KeyValueSlots, StateSlots


class FastMixer(Protocol):
    """What stands in the place of ``self_attn``; ``norm`` and ``eps`` are those of the RMSNorm before it."""

    norm: Tensor
    eps: float

    def chunk(self, normed: Tensor, slots: Any, seen: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Mix T tokens ``[B, T, D]`` that were normed; the result is not yet added to the residual."""

    def step(self, x: Tensor, slots: Any, seen: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Norm and mix one token ``[D]`` of one sequence, and add the residual; ``[D]``."""


class FastAttention:
    """Qwen2.5-VL's attention, full or over a window; q, k and v in one product."""

    def __init__(self, attention: Any, norm: Any) -> None:
        projections = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.weight = merged([projection.weight for projection in projections])
        self.bias = merged([projection.bias for projection in projections])
        self.out = attention.o_proj.weight
        self.width = attention.head_dim
        self.heads = [projection.out_features // self.width for projection in projections]
        self.scale = attention.scaling
        self.norm, self.eps = norm.weight, norm.variance_epsilon

    def chunk(self, normed: Tensor, slots: KeyValueSlots, seen: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """As `FastMixer.chunk` says."""
        projected = F.linear(normed, self.weight, self.bias).unflatten(-1, (-1, self.width))
        if projected.shape[1] == 1:
            o = slots.attend_one(projected[:, 0], cos[:, 0], sin[:, 0], seen, self.scale).unsqueeze(1)
        else:
            q, k, v = projected.split(self.heads, dim=2)
            o = slots.attend(fused(rotated, q, cos, sin), fused(rotated, k, cos, sin), v, seen, self.scale)
        return F.linear(o.flatten(2), self.out)

    def step(self, x: Tensor, slots: KeyValueSlots, seen: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """As `FastMixer.step` says."""
        projected = matrix_vector(x, self.weight, Around(norm=self.norm, eps=self.eps, bias=self.bias))
        o = slots.attend_one(projected.view(1, -1, self.width), cos[:, 0], sin[:, 0], seen, self.scale)
        return matrix_vector(o.flatten(), self.out, Around(residual=x))


class FastGatedDeltaNet:
    """Gated DeltaNet with convolutions, gate and norm; its six projections in one product."""

    def __init__(self, mixer: Any, norm: Any) -> None:
        names = ("q_proj", "k_proj", "v_proj", "g_proj", "a_proj", "b_proj")
        self.weight = merged([getattr(mixer, name).weight for name in names])
        self.filters = merged([getattr(mixer, f"{name}_conv1d").weight for name in "qkv"]).squeeze(1)
        self.mixer = mixer
        self.norm, self.eps = norm.weight, norm.variance_epsilon

    @staticmethod
    def fits(mixer: Any) -> bool:
        """Whether a layer is of this kind, with the options of the published model."""
        return type(mixer) is GatedDeltaNet and bool(
            mixer.conv_size and mixer.g_proj is not None and mixer.o_norm is not None and mixer.backend != "reference"
            and power_of_two(mixer.K) == mixer.K and power_of_two(mixer.V) == mixer.V
        )  # fmt: skip

    def chunk(self, normed: Tensor, slots: StateSlots, seen: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """As `FastMixer.chunk` says."""
        mixer = self.mixer
        if slots.conv is None:
            raise TypeError("these slots were not laid out for this mixer")
        projected = F.linear(normed, self.weight)
        channels = self.filters.shape[0]
        gate = projected[..., channels : channels + mixer.H * mixer.V].unflatten(-1, (mixer.H, mixer.V))
        q, k, v, log_decay, beta, conv = delta_inputs(
            projected, slots.conv, self.filters, mixer.A_log, mixer.dt_bias, mixer.H, mixer.K, mixer.V
        )
        o, state = mixer.recurrence(q, k, v, log_decay, beta, state=slots.recurrent, backend=mixer.backend)
        slots.store(conv, state)
        o = fused(gated_head_norm, o, mixer.o_norm.weight, mixer.o_norm.eps, gate)
        return F.linear(o.flatten(2), mixer.o_proj.weight)

    def step(self, x: Tensor, slots: StateSlots, seen: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """As `FastMixer.step` says."""
        mixer = self.mixer
        channels = self.filters.shape[0]
        if slots.conv is None or slots.recurrent is None:
            raise TypeError("these slots were not laid out for this mixer")
        around = Around(norm=self.norm, eps=self.eps, conv_state=slots.conv[0], filters=self.filters)
        projected = matrix_vector(x, self.weight, around)
        o = delta_step(projected, mixer.A_log, mixer.dt_bias, slots.recurrent)
        gate = projected[channels : channels + mixer.H * mixer.V]
        # A kernel of its own: each program of the product would norm all heads again.
        o, gate = o.view(mixer.H, mixer.V), gate.view(mixer.H, mixer.V)
        o = fused(gated_head_norm, o, mixer.o_norm.weight, mixer.o_norm.eps, gate)
        return matrix_vector(o.flatten(), mixer.o_proj.weight, Around(residual=x))


class AnyMixer:
    """A mixer through its own `TokenMixer.mix`."""

    def __init__(self, mixer: TokenMixer, norm: Any) -> None:
        self.mixer = mixer
        self.norm, self.eps = norm.weight, norm.variance_epsilon

    def chunk(self, normed: Tensor, slots: StateSlots, seen: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """As `FastMixer.chunk` says."""
        y, state = self.mixer.mix(normed, None, MixerState(slots.conv, slots.recurrent))
        slots.store(*state)
        return y

    def step(self, x: Tensor, slots: StateSlots, seen: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """As `FastMixer.step` says."""
        normed = fused(rms_norm, x, self.norm, self.eps)
        return x + self.chunk(normed.view(1, 1, -1), slots, seen, cos, sin).flatten()


class FastFeedForward:
    """The FFN; gate and up in one product."""

    def __init__(self, mlp: Any, norm: Any) -> None:
        self.gate_and_up = merged([mlp.gate_proj.weight, mlp.up_proj.weight])
        self.down = mlp.down_proj.weight
        self.norm, self.eps = norm.weight, norm.variance_epsilon

    def chunk(self, normed: Tensor) -> Tensor:
        """T tokens ``[B, T, D]`` that were normed; not yet added to the residual."""
        return F.linear(fused(swiglu, F.linear(normed, self.gate_and_up)), self.down)

    def step(self, x: Tensor) -> Tensor:
        """One token ``[D]``, normed, with its residual."""
        hidden = matrix_vector(x, self.gate_and_up, Around(norm=self.norm, eps=self.eps, swiglu=True))
        return matrix_vector(hidden, self.down, Around(residual=x))


def fast_mixer(layer: Any) -> FastMixer:
    """The fast form of a decoder layer's mixer."""
    mixer, norm = layer.self_attn, layer.input_layernorm
    if not isinstance(mixer, TokenMixer):
        return FastAttention(mixer, norm)
    return FastGatedDeltaNet(mixer, norm) if FastGatedDeltaNet.fits(mixer) else AnyMixer(mixer, norm)
