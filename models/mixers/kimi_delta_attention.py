"""Kimi Delta Attention (KDA): Gated DeltaNet with a decay of its own for every key channel.

    log α_t = −exp(A_log) · softplus(W_2 W_1 x_t + dt_bias),  β_t = sigmoid(W_b x_t)
    S_t = (I − β_t k_t k_tᵀ) diag(α_t) S_{t-1} + β_t k_t ⊗ v_t,  o_t = S_tᵀ q_t

with l2-normalised q and k, and no positional encoding; A_log is one number a head, W_2 W_1 of rank K.

Source: Kimi Team, arXiv 2510.26692, section 3. The published layer's output gate is a sigmoid of low rank; here it is
that of the other arms, so that arms differ in their recurrence.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.kimi_delta_rule import KIMI_DELTA_RULE
from ..ops.unit_length import unit_length
from .attention_shaped import AttentionShapedMixer
from .base import decay_parameters, reset_decay


class KimiDeltaAttention(AttentionShapedMixer):
    """The mixer; state ``[B, H, K, V]``."""

    recurrence = KIMI_DELTA_RULE

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        D = config.hidden_size
        self.f_proj = nn.Sequential(nn.Linear(D, self.K, bias=False), nn.Linear(self.K, self.H * self.K, bias=False))
        self.b_proj = nn.Linear(D, self.H, bias=False)
        self.A_log, self.dt_bias = decay_parameters(self.H, self.H * self.K)
        self.reset_parameters()

    def gates(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Normalise q and k, scale q, and compute the log decay ``[B, T, H, K]`` and write strength ``[B, T, H]``."""
        q, k = unit_length(q, self.K**-0.5), unit_length(k)
        rate = F.softplus(self.f_proj(x).float() + self.dt_bias.float()).unflatten(-1, (self.H, self.K))
        return q, k, v, (-self.A_log.float().exp().unsqueeze(-1) * rate, self.b_proj(x).float().sigmoid())

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As the base does; decays as Mamba-2's, with A from 1 to 16."""
        super().reset_parameters()
        reset_decay(self.A_log, self.dt_bias, (1.0, 16.0))
