"""DeltaNet: the delta rule between short convolutions and a gated norm; nothing decays.

    β_t = sigmoid(W_b x_t),  S_t = (I − β_t k_t k_tᵀ) S_{t-1} + β_t k_t ⊗ v_t,  o_t = S_tᵀ q_t

with l2-normalised q and k, and no positional encoding.

Source: Yang, Wang, Zhang, Shen, Kim, arXiv 2406.06484. The published layer has no output gate: that is the option
``gate=False``. Here it has one by default, as the other arms have, so that arms differ in their recurrence.
"""

from typing import Any

from torch import Tensor, nn

from ..ops.delta_rule import DELTA_RULE
from ..ops.unit_length import unit_length
from .attention_shaped import AttentionShapedMixer


class DeltaNet(AttentionShapedMixer):
    """The mixer; state ``[B, H, K, V]``."""

    recurrence = DELTA_RULE

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.b_proj = nn.Linear(config.hidden_size, self.H, bias=False)
        self.reset_parameters()

    def gates(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Normalise q and k, scale q, and compute the write strength ``[B, T, H]``."""
        return unit_length(q, self.K**-0.5), unit_length(k), v, (self.b_proj(x).float().sigmoid(),)
