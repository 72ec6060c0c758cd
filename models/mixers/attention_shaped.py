"""A mixer in the shape of attention: its projections and heads, the softmax replaced by a recurrence.

Every arm of a study therefore has the same heads, key and value widths and state size unless its options say otherwise,
and differs in what its own file holds: the gates of its recurrence.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..cache import MixerState
from ..ops.recurrence import Recurrence
from ..ops.short_convolution import short_convolution
from .base import HeadNorm, ShortConvolution, TokenMixer, attention_weights, let_pass


class AttentionShapedMixer(TokenMixer):
    """Projections into heads, short convolutions, a recurrence, norm and output gate.

    A subclass names its recurrence and its options, adds its gates and computes them in `gates`. Arguments and errors
    are those of `TokenMixer`.

    Attributes:
        conv_activation: whether SiLU follows the short convolutions.
        taken: which of the streams q, k, v start as the attention's, in `init_from_attention`.
    """

    recurrence: ClassVar[Recurrence]
    options: ClassVar[dict[str, Any]] = TokenMixer.options | {
        "conv_size": 4,  # width of the short convolutions on q, k and v; 0 for none
        "norm": True,  # RMSNorm of each head's output
        "gate": True,  # output gate
    }
    norm_eps: ClassVar[float] = 1e-5
    conv_activation: ClassVar[bool] = True
    taken: ClassVar[str] = "qkv"

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        chosen = self.chosen_options(config)
        D, H, K, V = self.geometry(config)
        self.H, self.K, self.V = H, K, V
        self.q_proj = nn.Linear(D, H * K, bias=False)
        self.k_proj = nn.Linear(D, H * K, bias=False)
        self.v_proj = nn.Linear(D, H * V, bias=False)
        self.o_proj = nn.Linear(H * V, D, bias=False)
        self.conv_size: int = chosen["conv_size"]
        if self.conv_size:
            self.q_conv1d = ShortConvolution(H * K, self.conv_size)
            self.k_conv1d = ShortConvolution(H * K, self.conv_size)
            self.v_conv1d = ShortConvolution(H * V, self.conv_size)
        self.g_proj = nn.Linear(D, H * V, bias=False) if chosen["gate"] else None
        self.o_norm = HeadNorm(V, self.norm_eps) if chosen["norm"] else None

    @classmethod
    def shape_of_state(cls, config: Any) -> tuple[int, int, int]:
        """``(H, K, V)`` of one layer's recurrent state."""
        _, H, K, V = cls.geometry(config)
        return H, K, V

    def mix(
        self, x: Tensor, mask: Tensor | None, state: MixerState | None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, MixerState]:
        """Project, convolve, run the recurrence, gate and project back; see `TokenMixer.mix`."""
        streams, conv = self._streams(x, mask, None if state is None else state.conv, cu_seqlens)
        q, k, v = (stream.unflatten(-1, (self.H, -1)) for stream in streams)
        q, k, written, gates = self.gates(x, q, k, v)
        if mask is not None:
            # Nothing is written without a key, nothing decays or is erased without a gate. Under autocast the mask, of
            # the residual stream's type, may be wider than keys, which kernels want in the type of queries.
            k = k * mask.unsqueeze(-1).to(k.dtype)
            moving = len(gates) - self.recurrence.parameters
            gates = (
                *(gate * mask.view(*mask.shape[:2], *[1] * (gate.ndim - 2)) for gate in gates[:moving]),
                *gates[moving:],
            )
        past = None if state is None else state.recurrent
        o, recurrent = self.recurrence(
            q, k, written, *gates, state=past, backend=self.backend, cu_seqlens=cu_seqlens
        )  # fmt: skip
        return self.o_proj(self.output(x, v, o).flatten(-2)), MixerState(conv, recurrent)

    def gates(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Scale and normalise the streams and compute what else the recurrence takes.

        Args:
            x: ``[B, T, D]``.
            q, k: ``[B, T, H, K]``.
            v: ``[B, T, H, V]``.

        Returns:
            q, k and v as the recurrence takes them, and its gates, for which 0 means that a token changes nothing (and
            last the recurrence's parameters, if it has any).
        """
        raise TypeError(f"{type(self).__name__} does not say what its recurrence takes")

    def output(self, x: Tensor, v: Tensor, o: Tensor) -> Tensor:
        """From the recurrence's output ``[B, T, H, V]`` (and the values v that went in) to what is projected."""
        if self.o_norm is None:
            return o if self.g_proj is None else o * self.gate_of(x)
        gate = None if self.g_proj is None else self.g_proj(x).unflatten(-1, (self.H, self.V))
        return self.o_norm(o, gate)

    def gate_of(self, x: Tensor) -> Tensor:
        """The output gate ``[B, T, H, V]``."""
        if self.g_proj is None:
            raise TypeError(f"{type(self).__name__} was made without an output gate")
        return nn.functional.silu(self.g_proj(x)).unflatten(-1, (self.H, self.V))

    def _streams(
        self, x: Tensor, mask: Tensor | None, conv: Tensor | None, cu_seqlens: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None]:
        """The q, k and v streams ``[B, T, H·K]``, ``[B, T, H·K]``, ``[B, T, H·V]``, and the convolutions' state."""
        streams = [self.q_proj(x), self.k_proj(x), self.v_proj(x)]
        if not self.conv_size:
            return streams, None
        filters = [self.q_conv1d.weight, self.k_conv1d.weight, self.v_conv1d.weight]
        # The three side by side are one tensor of state.
        pasts = [None] * 3 if conv is None else conv.split([stream.shape[-1] for stream in streams], dim=1)
        mask = None if mask is None else mask.squeeze(-1)
        mixed = [
            short_convolution(stream, weight, past, mask, cu_seqlens, activation=self.conv_activation)
            for stream, weight, past in zip(streams, filters, pasts, strict=True)
        ]
        return [stream for stream, _ in mixed], torch.cat([state for _, state in mixed], dim=1)

    @torch.no_grad()
    def init_from_attention(self, attention: nn.Module) -> None:
        """Take over q, k, v and o (see `attention_weights`); convolutions begin by passing every token on."""
        theirs = attention_weights(attention, self.q_proj.in_features, self.H, self.K, self.V)
        for stream in self.taken + "o":
            getattr(self, f"{stream}_proj").weight.copy_(getattr(theirs, stream))
        let_pass(self)
