"""What the decoder and its cache ask of a token mixer, whatever is inside; and the parts that several mixers share."""

import math
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ...errors import UserError, unknown_name
from ..cache import MixerState, read_state, write_state
from ..ops.head_norm import head_norm
from ..ops.kernels import Call
from ..ops.packing import packing_of
from ..ops.precision import autocast_type
from ..ops.recurrence import BACKENDS, Recurrence


class ShortConvolution(nn.Module):
    """The filters of one stream: ``weight`` ``[C, 1, W]``, named as in fla's and the published checkpoints."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, width))


class HeadNorm(nn.Module):
    """RMSNorm over the value channels of each head, one weight for all heads; see `ops.head_norm`."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """Normalise ``[..., V]`` and, if a gate of that shape is given, multiply with its SiLU."""
        return head_norm(x, self.weight, self.eps, gate)


class TokenMixer(nn.Module):
    """A linear token mixer in the place of ``self_attn`` of a decoder layer.

    A subclass says what its state is, mixes in `mix`, and starts from a teacher's attention in `init_from_attention`.
    Most are `attention_shaped.AttentionShapedMixer`, and say less.

    Args:
        config: the decoder's configuration: ``hidden_size`` D, ``num_attention_heads`` H, ``initializer_range``,
            ``mixer_args``.
        layer_idx: the layer's place, where the cache keeps its state.

    Attributes:
        recurrence: what mixes over time; None for a mixer without one.
        options: what ``mixer_args`` may hold, with the defaults.
        plain_variant: what `variant` says when nothing is changed.

    Raises:
        UserError: for an option that the mixer does not have, or heads that do not divide the width.
    """

    recurrence: ClassVar[Recurrence | None] = None
    options: ClassVar[dict[str, Any]] = {
        "backend": "auto",  # of `ops.recurrence.BACKENDS`
        "expand_v": 2,  # value width over key width
    }
    plain_variant: ClassVar[str] = ""
    read_directly: ClassVar[tuple[str, ...]] = ()
    """Projections whose weight the mixer reads instead of calling them: nothing can be put beside those (LoRA)."""
    K: int
    V: int
    o_proj: nn.Linear

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.initializer_range = float(getattr(config, "initializer_range", 0.02))
        self.backend: str = self.chosen_options(config)["backend"]
        self.state_shape = self.shape_of_state(config)

    @classmethod
    def chosen_options(cls, config: Any) -> dict[str, Any]:
        """The mixer's options with the configuration's ``mixer_args`` in them."""
        chosen = dict(config.mixer_args or {})
        for name in chosen:
            if name not in cls.options:
                raise unknown_name(f"option of {cls.__name__}", name, cls.options)
            wanted = _wanted(name, chosen[name], cls.options[name])
            if wanted:
                raise UserError(f"option {name} of {cls.__name__} is {wanted}, not {chosen[name]!r}; change mixer_args")
        return cls.options | chosen

    @classmethod
    def geometry(cls, config: Any) -> tuple[int, int, int, int]:
        """Width D, heads H, key width K and value width V of a head."""
        D, H = config.hidden_size, config.num_attention_heads
        if H <= 0 or D % H:
            raise UserError(f"hidden size {D} does not divide into {H} heads; change num_attention_heads")
        K, expand_v = D // H, cls.chosen_options(config)["expand_v"]
        V = round(K * expand_v)
        if V < 1:
            raise UserError(f"expand_v {expand_v} leaves values of {K} channels none; use {1 / K:g} or more")
        return D, H, K, V

    @classmethod
    def shape_of_state(cls, config: Any) -> tuple[int, int, int] | None:
        """``(H, K, V)`` of one layer's recurrent state; None for a mixer without a recurrence."""
        raise TypeError(f"{cls.__name__} does not say what its state is")

    @classmethod
    def state_elements(cls, config: Any) -> int:
        """Elements of one layer's recurrent state, for one sequence of any length."""
        shape = cls.shape_of_state(config)
        return 0 if shape is None else math.prod(shape)

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
            **kwargs: ``cache`` or ``past_key_values``, the model's cache; ``cu_seq_lens_q`` ``[N + 1]``, where each of
                N sequences packed into a batch of one begins, and the end: each then gives what it gives alone. The
                rest is attention's and not used.

        Returns:
            ``[B, T, D]``, and None where attention returns its weights.

        Raises:
            UserError: for packed sequences with a cache or padding, or that do not fill the batch; for a cache of
                another model.
        """
        cache = kwargs.get("cache") if kwargs.get("cache") is not None else kwargs.get("past_key_values")
        cu_seqlens = kwargs.get("cu_seq_lens_q")
        if cu_seqlens is not None and (cache is not None or attention_mask is not None):
            raise UserError("packed sequences take neither a cache nor an attention mask; pass cu_seq_lens_q alone")
        if cu_seqlens is not None:
            packing_of(cu_seqlens, hidden_states)
        mask = None if attention_mask is None else attention_mask.to(hidden_states.dtype).unsqueeze(-1)
        x = hidden_states if mask is None else hidden_states * mask
        past = read_state(cache, self.layer_idx)
        self._check(past, x.shape[0])
        output, state = self.mix(x, mask, past, cu_seqlens)
        if cache is not None:
            write_state(cache, self.layer_idx, state)
        return output, None

    def mix(
        self, x: Tensor, mask: Tensor | None, state: MixerState | None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, MixerState]:
        """The mixer as a function of its input and its past.

        Args:
            x: ``[B, T, D]``, zero at padded tokens.
            mask: ``[B, T, 1]``, 0 at padded tokens; None without padding.
            state: what was left by the tokens before; None at the start.
            cu_seqlens: ``[N + 1]``, borders of packed sequences, each of which starts anew; None without packing.

        Returns:
            ``[B, T, D]``, and the state after the last token (of each packed sequence).
        """
        raise TypeError(f"{type(self).__name__} does not mix")

    def training_backend(self) -> str | None:
        """The backend that this mixer trains with where it now is; None without a recurrence."""
        if self.recurrence is None:
            return None
        weight = self.o_proj.weight
        call = Call(
            weight.device.type, autocast_type(weight) or weight.dtype, T=2, K=self.K, V=self.V, with_gradient=True
        )
        return self.recurrence.resolve(self.backend, call)

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

    def init_from_attention(self, attention: nn.Module) -> None:
        """Take over what corresponds in the attention that this mixer replaces, as the paper's students do.

        Args:
            attention: with ``q_proj``, ``k_proj``, ``v_proj``, ``o_proj`` of the same width and the same heads.

        Raises:
            UserError: if its heads do not fit; nothing is changed then.
        """
        raise TypeError(f"{type(self).__name__} does not say how it starts from attention")

    def _check(self, past: MixerState | None, B: int) -> None:
        """Refuse a cache whose state is not this mixer's."""
        if past is None:
            return
        compared: list[tuple[str, Tensor | None, tuple[int, ...] | None]] = [
            ("a state", past.recurrent, self.state_shape)
        ]
        if self._conv_shape is not None:
            compared.append(("inputs of convolutions", past.conv, self._conv_shape or None))
        for what, held, shape in compared:
            found = None if held is None else tuple(held.shape)
            expected = None if shape is None else (B, *shape)
            if found != expected:
                raise UserError(
                    f"layer {self.layer_idx} of the cache holds {what} of shape {found}, {type(self).__name__} has "
                    f"{expected}: the cache was made for another model or batch; pass a fresh one or none at all"
                )

    @cached_property
    def _conv_shape(self) -> tuple[int, ...] | None:
        """``(C, W − 1)`` of what short convolutions remember, see `MixerState`; ``()`` without any.

        None where that is not known: a mixer of another package may have convolutions of its own.
        """
        filters = [module.weight for module in self.modules() if isinstance(module, ShortConvolution)]
        if filters:
            return sum(one.shape[0] for one in filters), filters[0].shape[-1] - 1
        return () if getattr(self, "conv_size", None) == 0 else None


def _wanted(name: str, value: Any, default: Any) -> str:
    """What an option must be, in words, if a value is not that; "" if it is, or the option is not one of ours."""
    if name == "backend":
        return "" if isinstance(value, str) else f"one of {', '.join(BACKENDS)}"
    if name in ("norm", "gate") and isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if name == "expand_v":
        return "" if number and value > 0 else "a number above 0"
    least = {"conv_size": 0, "state_size": 1}.get(name)
    if least is None or not isinstance(default, int):
        return ""
    return "" if number and isinstance(value, int) and value >= least else f"a whole number of {least} or more"


class AttentionWeights(NamedTuple):
    """An attention's projections in the shapes of a mixer: q, k ``[H·K, D]``, v ``[H·V, D]``, o ``[D, H·V]``."""

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor


def attention_weights(attention: nn.Module, D: int, H: int, K: int, V: int) -> AttentionWeights:
    """What a mixer with H heads of width K and values of width V can take over from an attention.

    Grouped key and value heads are repeated. Where the values are wider than the attention's, repeated copies of these
    share the output projection between them, so that the sum over copies is the attention's own.

    Raises:
        UserError: if the heads do not fit, or V is no multiple of K.
    """
    q, k, v, o = (getattr(attention, f"{name}_proj").weight for name in "qkvo")
    width = getattr(attention, "head_dim", K)
    groups, remainder = divmod(q.shape[0], k.shape[0])
    copies, rest = divmod(V, K)
    if q.shape != (H * K, D) or width != K or remainder or rest:
        raise UserError(
            f"attention with q {list(q.shape)}, k {list(k.shape)} and heads of {width} does not fit a mixer with q "
            f"{[H * K, D]} and {H} heads of {K}, values of {V}; give both the same heads, and values a multiple of them"
        )

    def repeated(weight: Tensor, times: int) -> Tensor:
        heads = weight.unflatten(0, (-1, K)).repeat_interleave(groups, dim=0)
        return heads.repeat(1, times, 1).flatten(0, 1)

    shared = o.unflatten(1, (H, K)).repeat(1, 1, copies) / copies
    return AttentionWeights(q, repeated(k, 1), repeated(v, copies), shared.flatten(1))


@torch.no_grad()
def let_pass(mixer: nn.Module) -> None:
    """Have short convolutions begin by passing every token on as it is: attention has none."""
    for module in mixer.modules():
        if isinstance(module, ShortConvolution):
            module.weight.zero_()
            module.weight[:, :, -1] = 1.0


def without_weight_decay(*shape: int) -> nn.Parameter:
    """An empty parameter that optimisers leave out of weight decay."""
    parameter = nn.Parameter(torch.empty(shape))
    parameter._no_weight_decay = True  # type: ignore[attr-defined]
    return parameter


def decay_parameters(H: int, steps: int | None = None) -> tuple[nn.Parameter, nn.Parameter]:
    """``A_log`` ``[H]`` and ``dt_bias`` ``[H]`` or ``[steps]`` of a decay −exp(A_log)·softplus(· + dt_bias)."""
    return without_weight_decay(H), without_weight_decay(H if steps is None else steps)


@torch.no_grad()
def reset_decay(A_log: Tensor, dt_bias: Tensor, A_range: tuple[float, float]) -> None:
    """Initialise decays as Mamba-2 does: A uniform in a range, the step log-uniform from 0.001 to 0.1."""
    A_log.uniform_(*A_range).clamp_(min=1e-4).log_()
    reset_step(dt_bias)


@torch.no_grad()
def reset_step(dt_bias: Tensor) -> None:
    """Initialise a bias so that softplus of it is log-uniform from 0.001 to 0.1."""
    step = torch.empty_like(dt_bias).uniform_(math.log(1e-3), math.log(1e-1)).exp_()
    # The inverse of softplus.
    dt_bias.copy_(step + torch.log(-torch.expm1(-step)))
