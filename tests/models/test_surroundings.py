"""What stands around a recurrence: kernels against their definitions in torch, values and gradients.

On a GPU, or in Triton's interpreter on the CPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from infinitevl_bench.models.ops import decoding, head_norm, short_convolution, unit_length
from infinitevl_bench.models.ops.packing import token_places
from torch import Tensor

from .interpreted import INTERPRETED, device, kernels, once, run_interpreted

# Interpreted arithmetic is numpy's, which has no bfloat16.
NARROW = torch.float16 if INTERPRETED else torch.bfloat16
BOUNDS = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}
dtypes = pytest.mark.parametrize("dtype", [torch.float32, NARROW])


@once
def test_kernels_in_the_interpreter() -> None:
    run_interpreted(__file__)


@pytest.fixture(autouse=True)
def _by_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter, kernels take what lies on the CPU."""
    if INTERPRETED:
        for module in (head_norm, short_convolution, unit_length):
            monkeypatch.setattr(module, "takes_kernels", lambda x: x.dtype != torch.float64 and x.numel() > 0)


def drawn(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def assert_agree(run: Callable[..., Tensor], define: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Results, and the gradient of every input for one random loss, against the definition in float64."""
    ours = [x.clone().requires_grad_() for x in inputs]
    theirs = [x.double().requires_grad_() for x in inputs]
    found, expected = run(*ours), define(*theirs)
    assert found.dtype == inputs[0].dtype
    loss = drawn(*found.shape, seed=9, dtype=found.dtype)
    pairs = zip(
        [found, *torch.autograd.grad(found, ours, loss)],
        [expected, *torch.autograd.grad(expected, theirs, loss.double())],
        strict=True,
    )
    for n, (actual, right) in enumerate(pairs):
        assert n == 0 or actual.dtype == inputs[n - 1].dtype
        error = (actual.double() - right).norm() / right.norm()
        assert error <= BOUNDS[inputs[0].dtype], f"result {n} is off by {error:.1e}"


@kernels
@dtypes
@pytest.mark.parametrize("activation", [True, False])
@pytest.mark.parametrize(
    ("T", "width", "past", "borders"),
    [(1, 4, 0, None), (1, 4, 3, None), (70, 4, 0, None), (70, 4, 3, None), (33, 2, 1, None), (40, 3, 0, None),
     (9, 1, 0, None), (70, 4, 0, [0, 1, 3, 35, 70]), (33, 2, 0, [0, 32, 33])],
)  # fmt: skip
def test_convolution(
    kernel_of: str, dtype: torch.dtype, activation: bool, T: int, width: int, past: int, borders: list[int] | None
) -> None:
    x = drawn(1 if borders else 2, T + past, 130, seed=1, dtype=dtype)
    filters = drawn(130, 1, width, seed=2, dtype=torch.float32)
    places = None if borders is None else token_places(torch.tensor(borders, device=device), T)

    def form(convolve: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, weight: convolve(x, weight, T, places, activation=activation)

    assert_agree(form(short_convolution.filtered), form(short_convolution.reference), x, filters)


@kernels
@dtypes
@pytest.mark.parametrize("shape", [(1, 1, 1, 16), (2, 37, 3, 24), (1, 5, 2, 128)])
def test_unit_length(kernel_of: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = drawn(*shape, seed=1, dtype=dtype)
    assert_agree(lambda x: unit_length.unit_length(x, 0.3), lambda x: unit_length.reference(x, 0.3), x)


@kernels
@dtypes
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 1, 16), (2, 37, 3, 24), (1, 5, 2, 256), (1, 8200, 1, 4)])
def test_head_norm(kernel_of: str, dtype: torch.dtype, gated: bool, shape: tuple[int, ...]) -> None:
    inputs = [drawn(*shape, seed=1, dtype=dtype), drawn(shape[-1], seed=2, dtype=torch.float32)]
    if gated:
        inputs.append(drawn(*shape, seed=3, dtype=dtype))

    def form(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda o, weight, *gate: norm(o, weight, 1e-5, *gate)

    assert_agree(form(head_norm.head_norm), form(head_norm.reference), *inputs)


def test_more_sequences_than_a_grid_holds_go_to_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_convolution, "takes_kernels", lambda x: True)
    monkeypatch.setattr(short_convolution._Filtered, "apply", lambda *_: pytest.fail("a kernel was launched"))
    monkeypatch.setattr(short_convolution, "MOST_SEQUENCES", 1)
    x, filters = torch.ones(2, 5, 8), torch.ones(8, 1, 3)
    assert torch.equal(short_convolution.filtered(x, filters, 5), short_convolution.reference(x, filters, 5))


def test_definitions_give_the_type_that_kernels_give() -> None:
    """Under autocast weights are float32 and what they are multiplied with is not."""
    x, weight = torch.ones(2, 5, 8, dtype=torch.bfloat16), torch.ones(8)
    assert head_norm.reference(x, weight, 1e-5, x).dtype == torch.bfloat16
    assert head_norm.reference(x, weight, 1e-5).dtype == torch.bfloat16
    assert unit_length.reference(x).dtype == torch.bfloat16
    assert short_convolution.reference(x, weight.view(8, 1, 1), 5).dtype == torch.bfloat16


@kernels
def test_a_gate_of_fewer_rows_is_repeated(kernel_of: str) -> None:
    o, weight, gate = (drawn(*shape, seed=n, dtype=torch.float32) for n, shape in enumerate([(2, 5, 8), (8,), (5, 8)]))
    assert_agree(
        lambda o, weight, gate: head_norm.head_norm(o, weight, 1e-5, gate),
        lambda o, weight, gate: head_norm.reference(o, weight, 1e-5, gate),
        o, weight, gate,
    )  # fmt: skip


@kernels
@pytest.mark.parametrize("rows", [16, 37, 64, 65])
def test_programs_of_a_norm_take_several_blocks_of_rows(
    kernel_of: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they do from 4,096 tokens at the 4B shape on; here with two programs, of which the last may run out."""
    monkeypatch.setattr(head_norm, "PROGRAMS", 2)
    inputs = [drawn(rows, 256, seed=1, dtype=torch.float32), drawn(256, seed=2, dtype=torch.float32)]
    inputs.append(drawn(rows, 256, seed=3, dtype=torch.float32))
    assert_agree(
        lambda o, weight, gate: head_norm.head_norm(o, weight, 1e-5, gate),
        lambda o, weight, gate: head_norm.reference(o, weight, 1e-5, gate),
        *inputs,
    )


@kernels
def test_kernels_are_launched_on_the_device_of_their_inputs(kernel_of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton takes the current device, be the inputs where they may."""
    from infinitevl_bench.models.ops import triton_surroundings

    current: list[Tensor] = []
    launched: list[str] = []

    @contextmanager
    def device_of(x: Tensor) -> Iterator[None]:
        current.append(x)
        yield
        current.pop()

    class Watched:
        def __init__(self, name: str, kernel: Any) -> None:
            self.name, self.kernel = name, kernel

        def __getitem__(self, grid: Any) -> Callable[..., None]:
            def launch(*args: Any, **options: Any) -> None:
                assert current, f"{self.name} is launched wherever torch is"
                assert current[-1].device == args[0].device
                launched.append(self.name)
                self.kernel[grid](*args, **options)

            return launch

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    names = {
        "convolve",
        "convolve_backward",
        "normalise",
        "normalise_backward",
        "norm_and_gate",
        "norm_and_gate_backward",
    }
    for name in names:
        monkeypatch.setattr(triton_surroundings, name, Watched(name, getattr(triton_surroundings, name)))
    x = drawn(1, 5, 16, seed=1, dtype=torch.float32).requires_grad_()
    filters, weight = drawn(16, 1, 4, seed=2, dtype=torch.float32), drawn(16, seed=3, dtype=torch.float32)
    y = unit_length.unit_length(short_convolution.filtered(x, filters, 5))
    head_norm.head_norm(y, weight, 1e-5).sum().backward()
    assert set(launched) == names


@kernels
def test_what_is_not_contiguous_is_read_in_its_own_order(kernel_of: str) -> None:
    x = drawn(2, 6, 16, seed=1, dtype=torch.float32).mT
    assert_agree(unit_length.unit_length, unit_length.reference, x)
    filters = drawn(6, 1, 3, seed=2, dtype=torch.float32)

    def form(convolve: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, weight: convolve(x, weight, 16)

    assert_agree(form(short_convolution.filtered), form(short_convolution.reference), x, filters)


@kernels
def test_nothing_is_computed_twice_over(kernel_of: str) -> None:
    """Gradients of gradients are refused, not wrong."""
    x = drawn(1, 2, 16, seed=1, dtype=torch.float32).requires_grad_()
    (once,) = torch.autograd.grad(unit_length.unit_length(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        once.sum().backward()


def test_without_triton_the_definitions_run(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu: Any = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, numel=lambda: 1)
    for found in (True, False):
        monkeypatch.setattr(decoding, "find_spec", lambda name, found=found: object() if found else None)
        decoding.has_triton.cache_clear()
        assert decoding.takes_kernels(on_gpu) is found
    decoding.has_triton.cache_clear()


@pytest.mark.parametrize("past", [False, True])
def test_no_tokens_leave_the_state_as_it_was(past: bool) -> None:
    state = torch.arange(36.0).view(2, 6, 3) if past else None
    for mask in (None, torch.ones(2, 0)):
        y, new = short_convolution.short_convolution(torch.empty(2, 0, 6), torch.ones(6, 1, 4), state, mask)
        assert y.shape == (2, 0, 6)
        assert torch.equal(new, torch.zeros(2, 6, 3) if state is None else state)
