"""RetNet's retention: every head forgets at a constant rate of its own, whatever the token.

    γ_h = 1 − 2^(−5−h),  S_t = γ_h S_{t-1} + k_t ⊗ v_t,  o_t = S_tᵀ q_t

Source: Sun, Dong, Huang, Ma, Xia, Xue, Wang, Wei, arXiv 2307.08621, section 2. The published layer also rotates q and k
by their position (xPos) and has no short convolution (``conv_size=0``). Here no arm knows positions, which are left to
the attention layers, and every arm has the convolution, so that arms differ in their recurrence.
"""

from typing import Any

import torch
from torch import Tensor

from ..ops.state_space_dual import STATE_SPACE_DUAL
from .attention_shaped import AttentionShapedMixer


class RetNet(AttentionShapedMixer):
    """The mixer; state ``[B, H, K, V]``."""

    recurrence = STATE_SPACE_DUAL

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.reset_parameters()

    def gates(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Scale q; the log decay ``[B, T, H]`` is the same for all tokens."""
        log_decay = torch.log1p(-torch.exp2(-5.0 - torch.arange(self.H, device=x.device)))
        return q * self.K**-0.5, k, v, (log_decay.expand(*x.shape[:2], self.H),)
