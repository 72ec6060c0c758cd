"""Gated linear attention (GLA): every key channel of the state decays at a rate that the token sets.

    log α_t = log sigmoid(W_2 W_1 x_t + b) / 16,  S_t = diag(α_t) S_{t-1} + k_t ⊗ v_t,  o_t = S_tᵀ q_t

Source: Yang, Wang, Shen, Panda, Kim, arXiv 2312.06635. The published layer has no short convolution: that is the option
``conv_size=0``. Here it has one by default, as the other arms have, so that arms differ in their recurrence.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.gated_linear_attention import GATED_LINEAR_ATTENTION
from .attention_shaped import AttentionShapedMixer

NORMALIZER = 16.0
"""Divides the log decay, so that a fresh layer forgets slowly."""

RANK = 16
"""Rank of the projection to the decays."""


class GatedLinearAttention(AttentionShapedMixer):
    """The mixer; state ``[B, H, K, V]``."""

    recurrence = GATED_LINEAR_ATTENTION

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.gk_proj = nn.Sequential(
            nn.Linear(config.hidden_size, RANK, bias=False), nn.Linear(RANK, self.H * self.K, bias=True)
        )
        self.reset_parameters()

    def gates(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Scale q and compute the log decay ``[B, T, H, K]``."""
        log_decay = F.logsigmoid(self.gk_proj(x).float()) / NORMALIZER
        return q * self.K**-0.5, k, v, (log_decay.unflatten(-1, (self.H, self.K)),)
