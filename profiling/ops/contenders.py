"""What is compared: a subject (a recurrence, a layer, an attention) and the contenders that implement it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..floors import Work

Pass = Literal["forward", "training", "decode"]
PASSES: tuple[Pass, ...] = ("forward", "training", "decode")
SCOPES = ("recurrence", "layer", "attention")
Outputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Contender:
    """One implementation.

    Attributes:
        name: What tables and records call it, such as ``torch`` or ``fla``.
        run: From a subject's inputs to its outputs, the main one first.
        ours: Whether a wrong result is a mistake of ours that ends the command; a library's is left out and named.
        parameters: What gets a gradient in training beside the inputs.
        decode: ``() -> a call`` of one decode step after the first token; None where it has no such step.
        longest: Most tokens that it is run with; None without limit.
        passes: What of it is timed.
        replayed: Whether passes are captured into a CUDA graph and replayed.
        layers: Layers that one call of ``decode`` runs through.
    """

    name: str
    run: Callable[..., Outputs]
    ours: bool = True
    parameters: Sequence[Tensor] = ()
    decode: Callable[[], Callable[[], object]] | None = None
    longest: int | None = None
    passes: tuple[Pass, ...] = PASSES
    replayed: bool = False
    layers: int = 1

    def runs(self, what: Pass, T: int) -> bool:
        """Whether it takes this pass at this length."""
        return what in self.passes and (what != "decode" or self.decode is not None) and (self.longest or T) >= T


@dataclass(frozen=True)
class Subject:
    """One thing to time, at every length.

    Attributes:
        scope: One of `SCOPES`.
        mixer: The mixer that it belongs to; None for attention.
        name: Of the recurrence, the layer or the attention.
        inputs: ``T -> tensors``, the same on every call.
        output_names: What the outputs of a contender are called.
        input_names: What the inputs are called.
        work: ``(pass, T) -> Work``: what cannot be avoided.
        contenders: What is compared.
        judge: ``(inputs, T, gradients) -> named results`` that are taken to be right.
        tolerance: Largest relative RMS error against them, by the type of the inputs.
        check_limit: Most tokens at which results are compared; None without limit.
    """

    scope: str
    mixer: str | None
    name: str
    inputs: Callable[[int], tuple[Tensor, ...]]
    output_names: tuple[str, ...]
    input_names: tuple[str, ...]
    work: Callable[[Pass, int], Work]
    contenders: list[Contender]
    judge: Callable[[tuple[Tensor, ...], int, bool], dict[str, Tensor]] = field(repr=False)
    tolerance: dict[torch.dtype, float]
    check_limit: int | None = None

    @property
    def label(self) -> str:
        """Mixer, or the name where there is none."""
        return self.mixer or self.name


def results(
    subject: Subject, run: Callable[..., Outputs], inputs: tuple[Tensor, ...], gradients: bool
) -> dict[str, Tensor]:
    """Outputs by name and, if asked for, the gradient of each input for a fixed random loss."""
    leaves = [x.detach().requires_grad_(gradients) for x in inputs]
    with torch.set_grad_enabled(gradients):
        outputs = run(*leaves)
    named = dict(zip(subject.output_names, outputs, strict=True))
    found = {name: value.detach() for name, value in named.items()}
    if gradients:
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(x.shape, generator=generator).to(x) for x in outputs]
        gradient = torch.autograd.grad(list(outputs), leaves, weights)
        found |= {f"the gradient of {name}": x for name, x in zip(subject.input_names, gradient, strict=True)}
    return found


def one_pass(contender: Contender, what: Pass, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    """A call to time; inputs and incoming gradients are made beforehand."""
    if what == "decode":
        if contender.decode is None:
            raise ValueError(f"{contender.name} has no decode step")
        return contender.decode()
    if what == "forward":

        def forward() -> None:
            with torch.no_grad():
                contender.run(*inputs)

        return replayed(forward) if contender.replayed else forward
    leaves = [x.detach().requires_grad_() for x in inputs]
    wanted = [*leaves, *contender.parameters]
    with torch.no_grad():
        incoming = torch.ones_like(contender.run(*inputs)[0])

    def training() -> None:
        torch.autograd.grad(contender.run(*leaves)[0], wanted, incoming)

    return replayed(training) if contender.replayed else training


def replayed(run: Callable[[], object], warmups: int = 3) -> Callable[[], None]:
    """Capture a call into a CUDA graph, and give the call that replays it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warmups):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay
