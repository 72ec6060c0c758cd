"""Identity: a control that passes nothing between tokens; what a hybrid can do, its attention layers do.

    y_t = W_o (norm(W_v x_t) · silu(W_g x_t))

Every head returns the value of its own token: attention with a window of one. There is no query, no key, no convolution
and no state. The projections, norm and gate of the other arms stay, so that it differs from them in its recurrence,
which it lacks.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cache import MixerState
from .base import HeadNorm, TokenMixer, attention_weights


class Identity(TokenMixer):
    """The mixer; its state has no elements."""

    options: ClassVar[dict[str, Any]] = TokenMixer.options | {
        "norm": True,  # RMSNorm of each head's values
        "gate": True,  # output gate
    }
    norm_eps: ClassVar[float] = 1e-5

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        chosen = self.chosen_options(config)
        D, self.H, self.K, self.V = self.geometry(config)
        self.v_proj = nn.Linear(D, self.H * self.V, bias=False)
        self.g_proj = nn.Linear(D, self.H * self.V, bias=False) if chosen["gate"] else None
        self.o_norm = HeadNorm(self.V, self.norm_eps) if chosen["norm"] else None
        self.o_proj = nn.Linear(self.H * self.V, D, bias=False)
        self.reset_parameters()

    @classmethod
    def shape_of_state(cls, config: Any) -> None:
        """None: there is no state."""
        cls.geometry(config)

    def mix(
        self, x: Tensor, mask: Tensor | None, state: MixerState | None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, MixerState]:
        """Return each token's own value, normed, gated and projected; see `TokenMixer.mix`."""
        o = self.v_proj(x)
        if self.o_norm is not None:
            o = self.o_norm(o.unflatten(-1, (self.H, self.V))).flatten(-2)
        if self.g_proj is not None:
            o = o * F.silu(self.g_proj(x))
        return self.o_proj(o), MixerState(None, None)

    @torch.no_grad()
    def init_from_attention(self, attention: nn.Module) -> None:
        """Take over v and o (see `attention_weights`): what attention gives a token that looks at itself alone."""
        theirs = attention_weights(attention, self.v_proj.in_features, self.H, self.K, self.V)
        self.v_proj.weight.copy_(theirs.v)
        self.o_proj.weight.copy_(theirs.o)
