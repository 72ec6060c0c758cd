"""Plain linear attention: softmax replaced by a positive feature map, nothing forgotten and nothing gated.

    φ(x) = elu(x) + 1,  S_t = S_{t-1} + φ(k_t) ⊗ v_t,  z_t = z_{t-1} + φ(k_t),  o_t = S_tᵀ φ(q_t) / (z_tᵀ φ(q_t))

Source: Katharopoulos, Vyas, Pappas, Fleuret, arXiv 2006.16236. By default it is bare, as published: no convolution, no
norm, no output gate. The options ``conv_size``, ``norm`` and ``gate`` add what the other arms have; with ``norm`` the
normaliser z is left out, since the norm takes its place (Qin et al., arXiv 2210.10340).
"""

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..ops.linear_attention import LINEAR_ATTENTION
from .attention_shaped import AttentionShapedMixer

EPSILON = 1e-6


class LinearAttention(AttentionShapedMixer):
    """The mixer; state ``[B, H, K, V + 1]``, its last column the normaliser z, or ``[B, H, K, V]`` with a norm."""

    recurrence = LINEAR_ATTENTION
    options: ClassVar[dict[str, Any]] = AttentionShapedMixer.options | {"conv_size": 0, "norm": False, "gate": False}
    plain_variant = "bare"

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.reset_parameters()

    @classmethod
    def shape_of_state(cls, config: Any) -> tuple[int, int, int]:
        """``(H, K, V)`` of one layer's recurrent state, the normaliser's column included."""
        _, H, K, V = cls.geometry(config)
        return H, K, V if cls.chosen_options(config)["norm"] else V + 1

    def gates(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Map q and k to positive features; without a norm, give v a column of ones for the normaliser."""
        q, k = F.elu(q) + 1, F.elu(k) + 1
        return q, k, v if self.o_norm is not None else F.pad(v, (0, 1), value=1.0), ()

    def output(self, x: Tensor, v: Tensor, o: Tensor) -> Tensor:
        """Divide by the normaliser, where there is no norm; then as the base does."""
        if self.o_norm is None:
            o = o[..., :-1] / (o[..., -1:] + EPSILON)
        return super().output(x, v, o)
