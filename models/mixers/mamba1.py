"""Mamba: the selective scan (S6) over channels without heads, each with N states that decay at rates of their own.

    x_t = silu(conv(W_v u_t)),  (r_t, B_t, C_t) = W_x x_t,  Δ_t = softplus(W_Δ r_t + b)
    S_t = exp(Δ_t ⊗ A) ∘ S_{t-1} + B_t ⊗ Δ_t x_t,  o_t = S_tᵀ C_t + D x_t,  y_t = W_o (o_t · silu(W_g u_t))

with A = −exp(A_log), one rate a channel and state, and Δ one step a channel, of rank ⌈width/16⌉.

Source: Gu, Dao, arXiv 2312.00752, section 3.4. The published layer's convolution has a bias; here it has none, as in
the other arms.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cache import MixerState
from ..ops.selective_scan import SELECTIVE_SCAN
from ..ops.short_convolution import short_convolution
from .base import ShortConvolution, TokenMixer, attention_weights, let_pass, reset_step, without_weight_decay


class Mamba1(TokenMixer):
    """The mixer; state ``[B, 1, N, channels]``.

    A student takes over v and o of its teacher's attention, as the projections into and out of the channels. What is
    written and read, B and C, comes from the channels and not from keys and queries, so it starts anew, and so do the
    steps.
    """

    recurrence = SELECTIVE_SCAN
    options: ClassVar[dict[str, Any]] = TokenMixer.options | {
        "conv_size": 4,  # width of the short convolution; 0 for none
        "state_size": 16,  # N, states of a channel
    }
    read_directly: ClassVar[tuple[str, ...]] = ("dt_proj",)

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        D, self.heads, self.head_width, width = self.geometry(config)
        self.K, self.V = self.chosen_options(config)["state_size"], self.heads * width
        self.rank = -(-D // 16)
        self.v_proj = nn.Linear(D, self.V, bias=False)
        self.g_proj = nn.Linear(D, self.V, bias=False)
        self.conv_size: int = self.chosen_options(config)["conv_size"]
        if self.conv_size:
            self.v_conv1d = ShortConvolution(self.V, self.conv_size)
        self.x_proj = nn.Linear(self.V, self.rank + 2 * self.K, bias=False)
        self.dt_proj = nn.Linear(self.rank, self.V)
        self.A_log = without_weight_decay(self.V, self.K)
        self.D = without_weight_decay(self.V)
        self.o_proj = nn.Linear(self.V, D, bias=False)
        self.reset_parameters()

    @classmethod
    def shape_of_state(cls, config: Any) -> tuple[int, int, int]:
        """``(1, N, channels)`` of one layer's recurrent state."""
        _, H, _, V = cls.geometry(config)
        return 1, cls.chosen_options(config)["state_size"], H * V

    def mix(
        self, x: Tensor, mask: Tensor | None, state: MixerState | None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, MixerState]:
        """Project, convolve, scan, gate and project back; see `TokenMixer.mix`."""
        v, conv = self.v_proj(x), None
        if self.conv_size:
            past = None if state is None else state.conv
            padding = None if mask is None else mask.squeeze(-1)
            v, conv = short_convolution(v, self.v_conv1d.weight, past, padding, cu_seqlens)
        step, k, q = self.x_proj(v).split([self.rank, self.K, self.K], dim=-1)
        step = F.softplus(F.linear(step, self.dt_proj.weight).float() + self.dt_proj.bias.float())
        if mask is not None:
            # Without a step nothing is written and nothing decays.
            step = step * mask
        q, k, channels, step = (y.unsqueeze(2) for y in (q, k, v, step))
        o, recurrent = self.recurrence(
            q, k, channels, step, -self.A_log.float().exp().mT.unsqueeze(0),
            state=None if state is None else state.recurrent, backend=self.backend, cu_seqlens=cu_seqlens,
        )  # fmt: skip
        o = o.squeeze(2) + (self.D * v).to(v.dtype)
        return self.o_proj(o * F.silu(self.g_proj(x))), MixerState(conv, recurrent)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As the base does; A, D and steps as Mamba's."""
        super().reset_parameters()
        self.A_log.copy_(torch.arange(1, self.K + 1).log().expand_as(self.A_log))
        self.D.fill_(1.0)
        bound = 1 / math.sqrt(self.rank)
        self.dt_proj.weight.uniform_(-bound, bound)
        reset_step(self.dt_proj.bias)

    @torch.no_grad()
    def init_from_attention(self, attention: nn.Module) -> None:
        """Take over v and o (see `attention_weights`); the convolution begins by passing every token on."""
        theirs = attention_weights(
            attention, self.v_proj.in_features, self.heads, self.head_width, self.V // self.heads
        )  # fmt: skip
        self.v_proj.weight.copy_(theirs.v)
        self.o_proj.weight.copy_(theirs.o)
        let_pass(self)
