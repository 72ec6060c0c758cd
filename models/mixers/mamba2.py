"""Mamba-2 in attention's shape: C, B and x are the q, k and v of every head, and the step Δ gates writing and decay.

    Δ_t = softplus(W_Δ x_t + dt_bias),  S_t = exp(−exp(A_log) Δ_t) S_{t-1} + k_t ⊗ Δ_t v_t,  o_t = S_tᵀ q_t + D v_t

The output is gated before it is normed, as in Mamba-2.

Source: Dao, Gu, arXiv 2405.21060. The attention-shaped layer, with as many groups as heads, is what lets a student take
over its teacher's projections; it is the arm of InfiniteVL's ablation.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.selective_state_space import SELECTIVE_STATE_SPACE
from .attention_shaped import AttentionShapedMixer
from .base import decay_parameters, reset_decay, without_weight_decay


class Mamba2(AttentionShapedMixer):
    """The mixer; state ``[B, H, K, V]``."""

    recurrence = SELECTIVE_STATE_SPACE

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.dt_proj = nn.Linear(config.hidden_size, self.H, bias=False)
        self.A_log, self.dt_bias = decay_parameters(self.H)
        self.D = without_weight_decay(self.H)
        self.reset_parameters()

    def gates(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Compute the step ``[B, T, H]``, and A ``[H]``."""
        step = F.softplus(self.dt_proj(x).float() + self.dt_bias.float())
        return q, k, v, (step, -self.A_log.float().exp())

    def output(self, x: Tensor, v: Tensor, o: Tensor) -> Tensor:
        """Add what passes by the state, D·v; gate, then norm: all ``[B, T, H, V]``."""
        o = o + (self.D.unsqueeze(-1) * v).to(o.dtype)
        if self.g_proj is not None:
            o = o * self.gate_of(x)
        return o if self.o_norm is None else self.o_norm(o)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As the base does; decays as Mamba-2's, with A from 1 to 16."""
        super().reset_parameters()
        reset_decay(self.A_log, self.dt_bias, (1.0, 16.0))
        self.D.fill_(1.0)
