"""HGRN-2: gated linear attention whose keys are what the forget gate lets go.

    f_t = γ + (1 − γ) sigmoid(k̃_t),  S_t = diag(f_t) S_{t-1} + (1 − f_t) ⊗ v_t,  o_t = S_tᵀ silu(q̃_t)

with q̃, k̃ and v from projections (and convolutions without SiLU), and q scaled by K^−½. The lower bound γ of the forget
gate, one number a key channel, is 0 in the first layer and starts at layer/depth in the others, so that deeper layers
remember longer.

Source: Qin, Yang, Sun, Shen, Li, Sun, Zhong, arXiv 2404.07904. There γ is a cumulative softmax over the layers of one
shared parameter, so that it rises with depth; here each layer learns its own, from the same start, since a mixer knows
its layer alone. The published layer has neither short convolution nor output gate: ``conv_size=0, gate=False``.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.gated_linear_attention import GATED_LINEAR_ATTENTION
from .attention_shaped import AttentionShapedMixer
from .base import without_weight_decay


class HGRN2(AttentionShapedMixer):
    """The mixer; state ``[B, H, K, V]``.

    A student takes over q, v and o of its teacher's attention; k̃ decides what is forgotten, for which attention has
    nothing, and starts anew.
    """

    recurrence = GATED_LINEAR_ATTENTION
    conv_activation: ClassVar[bool] = False
    taken: ClassVar[str] = "qv"

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.depth = layer_idx / config.num_hidden_layers
        self.lower_bound_logit = without_weight_decay(self.H * self.K) if layer_idx else None
        self.reset_parameters()

    def gates(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Compute the forget gate's log ``[B, T, H, K]``, and the key from it."""
        logit = k.float()
        log_forget, key = F.logsigmoid(logit), torch.sigmoid(-logit)
        if self.lower_bound_logit is not None:
            bound = self.lower_bound_logit.float().view(self.H, self.K)
            key = torch.sigmoid(-bound) * key
            log_forget = torch.logaddexp(F.logsigmoid(bound), F.logsigmoid(-bound) + log_forget)
        return F.silu(q) * self.K**-0.5, key.to(v.dtype), v, (log_forget,)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As the base does; lower bounds at the layer's share of the depth."""
        super().reset_parameters()
        if self.lower_bound_logit is not None:
            self.lower_bound_logit.fill_(math.log(self.depth / (1 - self.depth)))
