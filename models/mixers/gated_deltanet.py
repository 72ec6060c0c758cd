"""Gated DeltaNet: the gated delta rule between short convolutions and a gated norm; InfiniteVL's token mixer.

    α_t = exp(−exp(A_log) · softplus(W_a x_t + dt_bias)),  β_t = sigmoid(W_b x_t)
    S_t = α_t (I − β_t k_t k_tᵀ) S_{t-1} + β_t k_t ⊗ v_t,  o_t = S_tᵀ q_t

with l2-normalised q and k, and no positional encoding.

Source: Yang, Kautz, Hatamizadeh, arXiv 2412.06464; geometry and parameter names of InfiniteVL, arXiv 2512.08829.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.gated_delta_rule import GATED_DELTA_RULE
from ..ops.unit_length import unit_length
from .attention_shaped import AttentionShapedMixer
from .base import decay_parameters, reset_decay


class GatedDeltaNet(AttentionShapedMixer):
    """The mixer; state ``[B, H, K, V]``."""

    recurrence = GATED_DELTA_RULE

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.a_proj = nn.Linear(config.hidden_size, self.H, bias=False)
        self.b_proj = nn.Linear(config.hidden_size, self.H, bias=False)
        self.A_log, self.dt_bias = decay_parameters(self.H)
        self.reset_parameters()

    def gates(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Normalise q and k, scale q, and compute the log decay and write strength ``[B, T, H]``."""
        q, k = unit_length(q, self.K**-0.5), unit_length(k)
        rate = F.softplus(self.a_proj(x).float() + self.dt_bias.float())
        return q, k, v, (-self.A_log.float().exp() * rate, self.b_proj(x).float().sigmoid())

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As the base does; decays as Mamba-2's, with A from 0 to 16."""
        super().reset_parameters()
        reset_decay(self.A_log, self.dt_bias, (0.0, 16.0))
