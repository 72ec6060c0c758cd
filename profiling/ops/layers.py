"""A mixer's whole layer: hidden states in, hidden states out, with projections, convolutions, norm and gate.

A decode step moves every weight of the layer and its state once, so its floor is those bytes over the copy bandwidth.
It is timed over `DECODE_LAYERS` layers one after the other, as in a model, so that their weights do not stay in the
processor's cache from one step to the next.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...models.cache import MixerState
from ...models.mixers.base import TokenMixer
from ...models.ops.kernels import library_trouble
from ...models.registry import get_mixer
from ..floors import STATE_BYTES, Work, layer_state_flops
from .contenders import Contender, Outputs, Pass, Subject, replayed, results
from .geometry import B, Geometry, float_type
from .recurrences import COMPILED_LIMIT, when_called

DECODE_LAYERS = 8
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-2}
"""Largest relative RMS error against the layer in float32, by the type of activations."""


def layer_subject(mixer: str, geometry: Geometry, device: str) -> Subject:
    """The layer of a mixer: ours, and flash-linear-attention's with the same weights where it has one."""
    layer = make_layer(mixer, geometry, device)
    right = make_layer(mixer, geometry, device, backend="torch").float()

    def inputs(T: int) -> tuple[Tensor, ...]:
        return (geometry.hidden_states(T, device),)

    subject = Subject(
        scope="layer",
        mixer=mixer,
        name=mixer,
        inputs=inputs,
        output_names=("the output",),
        input_names=("the hidden states",),
        work=lambda what, T: layer_work(layer, geometry, what, T),
        contenders=_contenders(mixer, layer, geometry, device),
        judge=lambda x, T, gradients: results(subject, _forward(right), tuple(y.float() for y in x), gradients),
        tolerance=TOLERANCE,
    )
    return subject


def make_layer(mixer: str, geometry: Geometry, device: str, backend: str = "auto", layer_idx: int = 0) -> TokenMixer:
    """A mixer's layer with random weights, the same for the same mixer, of the device's activation type."""
    from ...models.presets import get_preset

    config = get_preset(geometry.name, mixer=mixer, pattern="L", mixer_args={"backend": backend}).text_config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(layer_idx)
        layer = get_mixer(mixer)(config, layer_idx)
    return layer.to(device=device, dtype=float_type(device)).requires_grad_()


def layer_work(layer: TokenMixer, geometry: Geometry, what: Pass, T: int) -> Work:
    """Weights once, hidden states in and out; the state in a decode step; twice as much again in training."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in layer.parameters())
    products = sum(parameter.numel() for parameter in layer.parameters() if parameter.ndim > 1)
    tokens = B * (1 if what == "decode" else T)
    element = next(layer.parameters()).element_size()
    state = B * math.prod(layer.state_shape or (0,))
    flops = tokens * (2 * products + layer_state_flops(layer.recurrence, layer.state_shape))
    moved = weights + 2 * tokens * geometry.D * element
    if what == "decode":
        return Work(moved + 2 * state * STATE_BYTES, flops)
    return Work(3 * moved, 3 * flops) if what == "training" else Work(moved, flops)


def _contenders(mixer: str, layer: TokenMixer, geometry: Geometry, device: str) -> list[Contender]:
    parameters = list(layer.parameters())
    ours = Contender(
        "ours", _forward(layer), parameters=parameters, layers=DECODE_LAYERS,
        decode=lambda: decode_step(mixer, geometry, device, graph=False),
    )  # fmt: skip
    found = [ours]
    if device != "cuda":
        return found
    found.append(
        Contender(
            "ours-graph",
            _forward(layer),
            parameters=parameters,
            replayed=True,
            layers=DECODE_LAYERS,
            decode=lambda: decode_step(mixer, geometry, device, graph=True),
        )
    )
    recurrence = layer.recurrence
    if recurrence is not None and layer.training_backend() != "torch":
        found += _without_kernels(mixer, geometry, device)
    if mixer in FLA_LAYERS and recurrence is not None and library_trouble("fla", recurrence.name, True) is None:
        theirs = FLA_LAYERS[mixer](layer, geometry)
        found.append(
            Contender(
                "fla-layer",
                lambda x: (theirs(x)[0],),
                ours=False,
                parameters=list(theirs.parameters()),
                passes=("forward", "training"),
            )
        )
    return found


def _without_kernels(mixer: str, geometry: Geometry, device: str) -> list[Contender]:
    """The layer with its recurrence in plain torch, in a CUDA graph; compiled too, where that is affordable."""
    layer = make_layer(mixer, geometry, device, backend="torch")
    parameters = list(layer.parameters())
    passes: tuple[Pass, ...] = ("forward", "training")
    return [
        Contender("torch-graph", _forward(layer), parameters=parameters, passes=passes, replayed=True),
        Contender(
            "torch-compiled", when_called(lambda: torch.compile(_forward(layer), dynamic=False)),
            parameters=parameters, passes=passes, replayed=True, longest=COMPILED_LIMIT,
        ),
    ]  # fmt: skip


def _forward(layer: TokenMixer) -> Callable[..., Outputs]:
    return lambda x: (layer(x)[0],)


def decode_step(mixer: str, geometry: Geometry, device: str, graph: bool) -> Callable[[], object]:
    """One token through `DECODE_LAYERS` layers, each with its state in buffers that stay where they are."""
    layers = [
        make_layer(mixer, geometry, device, layer_idx=index).requires_grad_(False) for index in range(DECODE_LAYERS)
    ]
    x = geometry.hidden_states(1, device)
    with torch.no_grad():
        states = [layer.mix(x, None, None)[1] for layer in layers]

    def step() -> Tensor:
        y = x
        with torch.no_grad():
            for layer, state in zip(layers, states, strict=True):
                y, new = layer.mix(y, None, state)
                _keep(state, new)
        return y

    return replayed(step) if graph else step


def _keep(state: MixerState, new: MixerState) -> None:
    for buffer, value in zip(state, new, strict=True):
        if buffer is not None and value is not None:
            buffer.copy_(value)


def _fla_gated_deltanet(layer: TokenMixer, geometry: Geometry) -> nn.Module:
    from fla.layers import GatedDeltaNet

    theirs = GatedDeltaNet(
        hidden_size=geometry.D, head_dim=layer.K, num_heads=geometry.H, expand_v=layer.V / layer.K, layer_idx=0
    )
    return _with_weights(theirs, layer, {})


def _fla_gla(layer: TokenMixer, geometry: Geometry) -> nn.Module:
    from fla.layers import GatedLinearAttention

    theirs = GatedLinearAttention(
        hidden_size=geometry.D, expand_k=1.0, expand_v=layer.V / layer.K, num_heads=geometry.H, use_short_conv=True,
        layer_idx=0,
    )  # fmt: skip
    return _with_weights(theirs, layer, {"o_norm.weight": "g_norm_swish_gate.weight"})


def _fla_deltanet(layer: TokenMixer, geometry: Geometry) -> nn.Module:
    from fla.layers import DeltaNet

    theirs = DeltaNet(
        hidden_size=geometry.D, expand_k=1.0, expand_v=layer.V / layer.K, num_heads=geometry.H, use_gate=True,
        layer_idx=0,
    )  # fmt: skip
    return _with_weights(theirs, layer, {})


def _with_weights(theirs: nn.Module, layer: TokenMixer, names: dict[str, str]) -> nn.Module:
    """Give their layer the weights of ours, some under other names; every one must find its place."""
    weights: dict[str, Any] = {names.get(name, name): value.detach() for name, value in layer.state_dict().items()}
    theirs.load_state_dict(weights)
    example = next(layer.parameters())
    return theirs.to(device=example.device, dtype=example.dtype)


FLA_LAYERS: dict[str, Callable[[TokenMixer, Geometry], nn.Module]] = {
    "gated_deltanet": _fla_gated_deltanet,
    "gla": _fla_gla,
    "deltanet": _fla_deltanet,
}
"""Mixers whose layer flash-linear-attention has too, with the same weights."""
