"""A mixer's recurrence alone: q, k, v and gates in, outputs and the last state out.

What bounds it. Stepping through it, a token is a handful of small operations on a state of H·K·V numbers, so the time
is that of launching them T times, and in training also of recording them, keeping every state, and walking back. The
chunked form does about C·(K + V) multiply-adds a token and head inside chunks of C tokens and 2·K·V for the state, in a
few large matrix products. Its work is proportional to T. Where its time grows faster, the tensors of a pass have
outgrown the processor's caches, or something in it (such as the gradient of a slice, which is as large as what it was
cut from) is not proportional to T.
"""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from ...models.ops.kernels import Call, library_trouble
from ...models.ops.recurrence import Recurrence
from ...models.registry import get_recurrence
from ..floors import STATE_BYTES, Work, state_flops
from .contenders import Contender, Outputs, Pass, Subject, replayed, results
from .geometry import B, Geometry, float_type

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest relative RMS error against the reference, by the type of q, k and v."""

COMPILED_LIMIT = 1024
"""Most tokens of the compiled form: its loop over chunks is unrolled, and compiling takes minutes beyond this."""


def recurrence_subject(mixer: str, geometry: Geometry, device: str) -> Subject:
    """The recurrence of a mixer with everything that computes it here."""
    recurrence = get_recurrence(mixer)
    gates = len(recurrence.random_inputs(1, 1, 1, 2, 2)) - 3

    def inputs(T: int) -> tuple[Tensor, ...]:
        return geometry.recurrence_inputs(recurrence, T, device)

    subject = Subject(
        scope="recurrence",
        mixer=mixer,
        name=recurrence.name,
        inputs=inputs,
        output_names=("the output", "the last state"),
        input_names=("q", "k", "v", *(f"gate {n}" for n in range(1, gates + 1))),
        work=lambda what, T: recurrence_work(recurrence, geometry, device, what, T),
        contenders=_contenders(recurrence, geometry, device, inputs),
        judge=lambda x, T, gradients: judged(subject, recurrence, geometry, x, T, gradients),
        tolerance=TOLERANCE,
    )
    return subject


def judged(
    subject: Subject, recurrence: Recurrence, geometry: Geometry, inputs: tuple[Tensor, ...], T: int, gradients: bool
) -> dict[str, Tensor]:
    """What is taken to be right: the reference in float32, or, where T is too long to step through, the chunked form in
    float32 with the state handed over at an odd place."""
    wide = tuple(x.float() for x in inputs)
    if geometry.reference_limit >= T:
        return results(subject, recurrence.reference, wide, gradients)

    def in_two(*x: Tensor) -> Outputs:
        cut = T // 2 + 1
        moving = len(x) - recurrence.parameters
        first, state = recurrence.chunked(*(part[:, :cut] for part in x[:moving]), *x[moving:])
        second, state = recurrence.chunked(*(part[:, cut:] for part in x[:moving]), *x[moving:], state=state)
        return torch.cat([first, second], dim=1), state

    return results(subject, in_two, wide, gradients)


def recurrence_work(recurrence: Recurrence, geometry: Geometry, device: str, what: Pass, T: int) -> Work:
    """Inputs read and outputs written once, a state read and written; in training, gradients as well."""
    element = 2 if device == "cuda" else 4
    H, K, V = geometry.H, geometry.K, geometry.V
    gates = recurrence.random_inputs(1, 1, 1, K, V)[3:]
    moving = len(gates) - recurrence.parameters
    tokens = B * (1 if what == "decode" else T)
    read = tokens * H * (element * (2 * K + V) + 4 * sum(gate.numel() for gate in gates[:moving]))
    read += 4 * H * sum(gate.numel() for gate in gates[moving:])
    written = tokens * H * V * element
    state = B * H * K * V * STATE_BYTES
    flops = tokens * H * state_flops(recurrence.name, K, V)
    if what == "training":
        # The backward pass reads the inputs and the outputs' gradient, and writes a gradient for every input.
        return Work(3 * read + 2 * written, 3 * flops)
    return Work(read + written + (2 if what == "decode" else 1) * state, flops)


def _contenders(
    recurrence: Recurrence, geometry: Geometry, device: str, inputs: Callable[[int], tuple[Tensor, ...]]
) -> list[Contender]:
    stepped = recurrence.reference
    found = [
        Contender("reference", stepped, longest=geometry.compared, decode=_step(stepped, inputs)),
        Contender("torch", recurrence.chunked),
        Contender(
            "torch-compiled",
            when_called(lambda: torch.compile(recurrence.chunked, dynamic=False)),
            longest=COMPILED_LIMIT,
        ),
    ]
    if device == "cuda":
        step = _step(stepped, inputs, graph=True)
        found.append(Contender("torch-graph", recurrence.chunked, replayed=True, decode=step))
        for library, kernel in recurrence.kernels.items():
            call = Call(device, float_type(device), 2, geometry.K, geometry.V)
            if library_trouble(library, recurrence.name) is not None or kernel.limit(call) is not None:
                continue
            trainable = library_trouble(library, recurrence.name, True) is None
            passes: tuple[Pass, ...] = ("forward", "training", "decode") if trainable else ("forward", "decode")
            form = kernel.form
            found.append(Contender(library, form, ours=False, passes=passes, decode=_step(form, inputs)))
            step = _step(form, inputs, graph=True)
            found.append(Contender(f"{library}-graph", form, ours=False, passes=("decode",), decode=step))
    if recurrence.name == "gated_delta_rule":
        found.append(Contender("transformers", _transformers, ours=False))
    return found


def when_called(make: Callable[[], Callable[..., Outputs]]) -> Callable[..., Outputs]:
    """Something that is compiled when first called: whoever does not ask for it pays nothing."""
    compiled: list[Callable[..., Outputs]] = []

    def run(*inputs: Tensor) -> Outputs:
        if not compiled:
            compiled.append(make())
        return compiled[0](*inputs)

    return run


def _step(
    form: Callable[..., Outputs], inputs: Callable[[int], tuple[Tensor, ...]], graph: bool = False
) -> Callable[[], Callable[[], object]]:
    """One token after another, each from the state that the last one left, in a buffer that stays where it is."""

    def make() -> Callable[[], object]:
        token = inputs(1)
        with torch.no_grad():
            state = form(*token)[1].clone()

        def step() -> None:
            with torch.no_grad():
                state.copy_(form(*token, state=state)[1])

        return replayed(step) if graph else step

    return make


def _transformers(*inputs: Tensor) -> Outputs:
    """transformers' own chunked form of the gated delta rule, which scales q itself."""
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

    q, k, v, log_decay, beta = inputs
    scaled = q * q.shape[-1] ** 0.5
    # Newer releases wrap it in something that prefers a kernel, wherever one seems to be installed.
    form = inspect.unwrap(torch_chunk_gated_delta_rule)
    return form(scaled, k, v, log_decay, beta, output_final_state=True)
