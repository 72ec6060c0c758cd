"""What all token mixers share: projections into heads, short convolutions, norm, output gate, state, initialisation.

A mixer is Qwen2.5-VL's attention with the softmax replaced by a recurrence. Every arm of a study therefore has the same
heads, key and value widths and state size unless its options say otherwise, and differs in what its own file holds.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...errors import UserError, unknown_name
from ..cache import MixerState, read_state, write_state
from ..ops.recurrence import Recurrence
from ..ops.short_convolution import short_convolution


class ShortConvolution(nn.Module):
    """The filters of one stream: ``weight`` ``[C, 1, W]``, named as in fla's and the published checkpoints."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, width))


class HeadNorm(nn.Module):
    """RMSNorm over the value channels of each head, one weight for all heads."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[..., V]`` in float32 or wider."""
        wide = x if x.dtype == torch.float64 else x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return normed.to(x.dtype) * self.weight


class TokenMixer(nn.Module):
    """A linear token mixer in the place of ``self_attn`` of a decoder layer.

    A subclass names its recurrence and its options, adds its gates and computes them in `gates`.

    Args:
        config: the decoder's configuration: ``hidden_size`` D, ``num_attention_heads`` H, ``initializer_range``,
            ``mixer_args``.
        layer_idx: the layer's place, where the cache keeps its state.

    Raises:
        UserError: for an option that the mixer does not have, or heads that do not divide the width.
    """

    recurrence: ClassVar[Recurrence]
    options: ClassVar[dict[str, Any]] = {
        "backend": "auto",  # of `ops.recurrence.BACKENDS`
        "expand_v": 2,  # value width over key width
        "conv_size": 4,  # width of the short convolutions on q, k and v; 0 for none
        "norm": True,  # RMSNorm of each head's output
        "gate": True,  # output gate
    }
    norm_eps: ClassVar[float] = 1e-5
    plain_variant: ClassVar[str] = ""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.initializer_range = float(getattr(config, "initializer_range", 0.02))
        chosen = self.chosen_options(config)
        self.backend: str = chosen["backend"]
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
    def chosen_options(cls, config: Any) -> dict[str, Any]:
        """The mixer's options with the configuration's ``mixer_args`` in them."""
        chosen = dict(config.mixer_args or {})
        for name in chosen:
            if name not in cls.options:
                raise unknown_name(f"option of {cls.__name__}", name, cls.options)
        return cls.options | chosen

    @classmethod
    def geometry(cls, config: Any) -> tuple[int, int, int, int]:
        """Width D, heads H, key width K and value width V of a head."""
        D, H = config.hidden_size, config.num_attention_heads
        if H <= 0 or D % H:
            raise UserError(f"hidden size {D} does not divide into {H} heads; change num_attention_heads")
        K = D // H
        return D, H, K, round(K * cls.chosen_options(config)["expand_v"])

    @classmethod
    def state_elements(cls, config: Any) -> int:
        """Elements of one layer's recurrent state, for one sequence of any length."""
        _, H, K, V = cls.geometry(config)
        return H * K * V

    @classmethod
    def variant(cls, config: Any) -> str:
        """What tells this configuration of the mixer from the one that its name stands for; "" where nothing does."""
        chosen = cls.chosen_options(config)
        changed = {name: value for name, value in chosen.items() if name != "backend" and value != cls.options[name]}
        return ", ".join(f"{name}={value}" for name, value in sorted(changed.items())) or cls.plain_variant

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        """Mix tokens; called as transformers calls ``self_attn``.

        Args:
            hidden_states: ``[B, T, D]``.
            attention_mask: ``[B, T]``, 0 at padded tokens, which then neither write nor decay; None without padding.
            **kwargs: ``cache`` or ``past_key_values``, the model's cache; the rest is attention's and not used.

        Returns:
            ``[B, T, D]``, and None where attention returns its weights.
        """
        cache = kwargs.get("cache") if kwargs.get("cache") is not None else kwargs.get("past_key_values")
        mask = None if attention_mask is None else attention_mask.to(hidden_states.dtype).unsqueeze(-1)
        x = hidden_states if mask is None else hidden_states * mask
        output, state = self.mix(x, mask, read_state(cache, self.layer_idx))
        if cache is not None:
            write_state(cache, self.layer_idx, state)
        return output, None

    def mix(self, x: Tensor, mask: Tensor | None, state: MixerState | None) -> tuple[Tensor, MixerState]:
        """The mixer as a function of its input and its past.

        Args:
            x: ``[B, T, D]``, zero at padded tokens.
            mask: ``[B, T, 1]``, 0 at padded tokens; None without padding.
            state: what was left by the tokens before; None at the start.
        """
        streams, conv = self._streams(x, mask, None if state is None else state.conv)
        q, k, v = (stream.unflatten(-1, (self.H, -1)) for stream in streams)
        q, k, written, gates = self.gates(x, q, k, v)
        if mask is not None:
            # Nothing is written without a key, nothing decays or is erased without a gate.
            k = k * mask.unsqueeze(-1)
            gates = tuple(gate * mask.view(*mask.shape[:2], *[1] * (gate.ndim - 2)) for gate in gates)
        past = None if state is None else state.recurrent
        o, recurrent = self.recurrence(q, k, written, *gates, state=past, backend=self.backend)
        return self.o_proj(self.output(x, v, o).flatten(-2)), MixerState(conv, recurrent)

    def training_backend(self) -> str:
        """The backend that this mixer trains with where it now is."""
        weight = self.o_proj.weight
        return self.recurrence.resolve(self.backend, weight.new_empty(1, 2, 1, 1), with_gradient=True)

    def gates(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Scale and normalise the streams and compute what else the recurrence takes.

        Args:
            x: ``[B, T, D]``.
            q, k: ``[B, T, H, K]``.
            v: ``[B, T, H, V]``.

        Returns:
            q, k and v as the recurrence takes them, and its gates, for which 0 means that a token changes nothing.
        """
        raise TypeError(f"{type(self).__name__} does not say what its recurrence takes")

    def output(self, x: Tensor, v: Tensor, o: Tensor) -> Tensor:
        """From the recurrence's output ``[B, T, H, V]`` (and the values v that went in) to what is projected."""
        if self.o_norm is not None:
            o = self.o_norm(o)
        return o if self.g_proj is None else o * self.gate_of(x)

    def gate_of(self, x: Tensor) -> Tensor:
        """The output gate ``[B, T, H, V]``."""
        if self.g_proj is None:
            raise TypeError(f"{type(self).__name__} was made without an output gate")
        return nn.functional.silu(self.g_proj(x)).unflatten(-1, (self.H, self.V))

    def _streams(
        self, x: Tensor, mask: Tensor | None, conv: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None]:
        """The q, k and v streams ``[B, T, H·K]``, ``[B, T, H·K]``, ``[B, T, H·V]``, and the convolutions' state."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if not self.conv_size:
            return (q, k, v), None
        widths = [stream.shape[-1] for stream in (q, k, v)]
        weight = torch.cat([self.q_conv1d.weight, self.k_conv1d.weight, self.v_conv1d.weight])
        # One pass over the three streams side by side, and one tensor of state.
        mask = None if mask is None else mask.squeeze(-1)
        mixed, conv = short_convolution(torch.cat([q, k, v], dim=-1), weight, conv, mask)
        q, k, v = mixed.split(widths, dim=-1)
        return (q, k, v), conv

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise everything, as transformers does for linear layers and fla for convolutions."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0.0, self.initializer_range)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, ShortConvolution):
                bound = module.weight.shape[-1] ** -0.5
                module.weight.uniform_(-bound, bound)
            elif isinstance(module, HeadNorm):
                module.weight.fill_(1.0)

    @torch.no_grad()
    def init_from_attention(self, attention: nn.Module) -> None:
        """Take over the projections of the attention that this mixer replaces, as the paper's students do.

        Short convolutions begin by passing every token on. Grouped key and value heads are repeated. Where the mixer's
        values are wider than the attention's, the repeated copies share the output projection between them, so that
        the sum over copies is the attention's own.

        Args:
            attention: with ``q_proj``, ``k_proj``, ``v_proj``, ``o_proj`` of the same width and heads of width K.

        Raises:
            UserError: if its heads do not fit.
        """
        q, k, v, o = (getattr(attention, f"{name}_proj").weight for name in "qkvo")
        width = getattr(attention, "head_dim", self.K)
        groups, remainder = divmod(q.shape[0], k.shape[0])
        copies, rest = divmod(self.V, self.K)
        if q.shape != self.q_proj.weight.shape or width != self.K or remainder or rest:
            raise UserError(
                f"attention with q {list(q.shape)}, k {list(k.shape)} and heads of {width} does not fit a mixer with q "
                f"{list(self.q_proj.weight.shape)} and {self.H} heads of {self.K}; give both the same heads"
            )

        def repeated(weight: Tensor, times: int) -> Tensor:
            heads = weight.unflatten(0, (-1, self.K)).repeat_interleave(groups, dim=0)
            return heads.repeat(1, times, 1).flatten(0, 1)

        self.q_proj.weight.copy_(q)
        self.k_proj.weight.copy_(repeated(k, 1))
        self.v_proj.weight.copy_(repeated(v, copies))
        for module in self.modules():
            if isinstance(module, ShortConvolution):
                # Let each token through as it is: attention has no convolution.
                module.weight.zero_()
                module.weight[:, :, -1] = 1.0
        shared = o.unflatten(1, (self.H, self.K)).repeat(1, 1, copies) / copies
        self.o_proj.weight.copy_(shared.flatten(1))


def unit_length(x: Tensor) -> Tensor:
    """l2-normalise the last dimension as fla's kernels and the published model do: x / sqrt(Σ x² + 1e-6)."""
    wide = x if x.dtype == torch.float64 else x.float()
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + 1e-6)).to(x.dtype)


def decay_parameters(H: int) -> tuple[nn.Parameter, nn.Parameter]:
    """``A_log`` and ``dt_bias`` ``[H]`` of a decay −exp(A_log)·softplus(· + dt_bias), without weight decay."""
    A_log, dt_bias = nn.Parameter(torch.empty(H)), nn.Parameter(torch.empty(H))
    for parameter in (A_log, dt_bias):
        parameter._no_weight_decay = True  # type: ignore[attr-defined]
    return A_log, dt_bias


@torch.no_grad()
def reset_decay(A_log: Tensor, dt_bias: Tensor, A_range: tuple[float, float]) -> None:
    """Initialise decays as Mamba-2 does: A uniform in a range, the step log-uniform from 0.001 to 0.1."""
    A_log.uniform_(*A_range).clamp_(min=1e-4).log_()
    step = torch.empty_like(dt_bias).uniform_(math.log(1e-3), math.log(1e-1)).exp_()
    # The inverse of softplus, so that softplus(dt_bias) is the step.
    dt_bias.copy_(step + torch.log(-torch.expm1(-step)))
