"""The kernels of a decode step against their definitions in torch, on a GPU or in Triton's interpreter on the CPU."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from infinitevl_bench.models.fast.slots import KeyValueSlots
from infinitevl_bench.models.graph import GraphedDecoder
from infinitevl_bench.models.ops import delta_inputs as inputs_op
from infinitevl_bench.models.ops import delta_step as delta_op
from infinitevl_bench.models.ops import matrix_vector as product_op
from infinitevl_bench.models.ops import slot_attention as attention_op
from infinitevl_bench.models.ops.matrix_vector import Around
from torch import Tensor

from .interpreted import INTERPRETED, device, kernels, once, run_interpreted


@once
def test_kernels_in_the_interpreter() -> None:
    run_interpreted(__file__)


def random(*shape: int, seed: int = 0, dtype: torch.dtype | None = None) -> Tensor:
    # 16-bit types are what the kernels are for; the interpreter's arithmetic is numpy's, which has no bfloat16.
    chosen = dtype or (torch.bfloat16 if device == "cuda" else torch.float16)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, chosen)


def assert_close(found: Tensor, expected: Tensor, bound: float = 4e-3) -> None:
    bound *= 4 if found.dtype == torch.bfloat16 else 1
    error = (found.double() - expected.double()).norm() / expected.double().norm()
    assert error <= bound, f"relative error {error:.2e}"


GEOMETRY = pytest.mark.parametrize(("B", "H", "G", "K"), [(1, 4, 2, 32), (2, 3, 1, 16)])


@kernels
@pytest.mark.parametrize(("slots", "seen"), [(64, 0), (300, 299), (300, 76), (1100, 512), (64, 64), (300, 1001)])
@GEOMETRY
def test_decode_attention(kernel_of: str, slots: int, seen: int, B: int, H: int, G: int, K: int) -> None:
    projected, cos, sin = random(B, H + 2 * G, K), random(B, K, seed=3), random(B, K, seed=4)
    cos, sin = (torch.cat([x[:, : K // 2]] * 2, dim=1).contiguous() for x in (cos, sin))
    ours = [random(B, G, slots, K, seed=i) for i in (1, 2)]
    # What lies in slots that hold no token must not matter.
    for x in ours:
        x[:, :, seen + 1 :] = 50.0
    theirs = [x.double() for x in ours]
    count = torch.tensor(seen, device=device)
    found = attention_op.decode_kernel(projected, cos, sin, *ours, count, 0.3)
    expected = attention_op.decode_reference(projected.double(), cos.double(), sin.double(), *theirs, count, 0.3)
    assert_close(found, expected)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b)


@kernels
@pytest.mark.parametrize(
    ("T", "slots", "seen", "window"),
    [(5, 64, 0, 64), (20, 64, 40, 64), (70, 64, 1000, 64), (33, 200, 200, 200), (150, 40, 77, 40), (9, 64, 30, None)],
)
@GEOMETRY
def test_chunk_attention(
    kernel_of: str, T: int, slots: int, seen: int, window: int | None, B: int, H: int, G: int, K: int
) -> None:
    q, k, v = (random(B, T, heads, K, seed=i) for i, heads in enumerate((H, G, G)))
    keys, values = (random(B, G, slots, K, seed=i) for i in (5, 6))
    keys[:, :, seen:] = values[:, :, seen:] = 50.0
    count = torch.tensor(seen, device=device)
    found = attention_op.chunk_kernel(q, k, v, keys, values, count, window, 0.3)
    wide = (x.double() for x in (q, k, v, keys, values))
    assert_close(found, attention_op.chunk_reference(*wide, count, window, 0.3))


def test_the_definition_of_attention_over_slots_is_attention_over_the_whole_past() -> None:
    """Chunks and single tokens through a ring, against one pass with the window's mask written out."""
    T, window, H, G, K = 50, 12, 4, 2, 8
    q, k, v = (torch.randn(1, T, heads, K, dtype=torch.float64) for heads in (H, G, G))
    position = torch.arange(T)
    seen_by = (position[:, None] >= position) & (position[:, None] - position < window)
    wide = (x.transpose(1, 2).repeat_interleave(H // x.shape[2], dim=1) for x in (q, k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(*wide, seen_by, scale=0.3).transpose(1, 2)
    slots = KeyValueSlots(*(torch.zeros(1, G, window, K, dtype=torch.float64) for _ in range(2)), window)
    cos, sin = torch.ones(1, K, dtype=torch.float64), torch.zeros(1, K, dtype=torch.float64)
    start = 0
    for length in (3, 1, 5, 20, 1, 1, 19):
        piece = slice(start, start + length)
        if length == 1:
            merged = torch.cat([q[:, start], k[:, start], v[:, start]], dim=1)
            o = slots.attend_one(merged, cos, sin, torch.tensor(start), 0.3).unsqueeze(1)
        else:
            o = slots.attend(q[:, piece], k[:, piece], v[:, piece], torch.tensor(start), 0.3)
        torch.testing.assert_close(o, expected[:, piece])
        start += length
    assert start == T


ROWS, COLUMNS = 50, 96


def around(name: str) -> Around:
    vector = {size: random(size, seed=size) for size in (ROWS, COLUMNS)}
    return {
        "nothing": Around(),
        "norm": Around(norm=vector[COLUMNS], eps=1e-3),
        "bias-norm": Around(norm=vector[COLUMNS], bias=vector[ROWS]),
        "residual": Around(residual=vector[ROWS]),
        "swiglu": Around(norm=vector[COLUMNS], swiglu=True),
        "convolution": Around(
            norm=vector[COLUMNS],
            conv_state=random(40, 3, seed=6),
            filters=random(40, 4, seed=7),
        ),
    }[name]


@kernels
@pytest.mark.parametrize("name", ["nothing", "norm", "bias-norm", "residual", "swiglu", "convolution"])
def test_matrix_vector(kernel_of: str, name: str) -> None:
    x, matrix = random(COLUMNS, seed=8), random(ROWS, COLUMNS, seed=9)
    ours, theirs = around(name), around(name)
    for _ in range(3):
        # More than once: a convolution's past is what the calls before left.
        found = product_op.kernel(x, matrix, ours)
        expected = product_op.reference(x, matrix, theirs)
        assert found.shape == expected.shape
        assert_close(found, expected)
        x = torch.roll(x, 1)
    if ours.conv_state is not None:
        assert_close(ours.conv_state, theirs.conv_state)  # type: ignore[arg-type]


def test_the_definition_of_matrix_vector_is_torch() -> None:
    x, matrix = torch.randn(COLUMNS, dtype=torch.float64), torch.randn(ROWS, COLUMNS, dtype=torch.float64)
    norm = torch.nn.RMSNorm(COLUMNS, eps=1e-3, dtype=torch.float64)
    torch.nn.init.uniform_(norm.weight)
    simple = Around(norm=norm.weight.detach(), eps=1e-3)
    first, second = (matrix @ norm(x)).chunk(2)
    gated = torch.nn.functional.silu(first) * second
    torch.testing.assert_close(product_op.reference(x, matrix, simple), matrix @ norm(x))
    torch.testing.assert_close(product_op.reference(x, matrix, replace(simple, swiglu=True)), gated)


@kernels
@pytest.mark.parametrize(("H", "K", "V"), [(2, 16, 32), (3, 32, 64)])
def test_delta_step(kernel_of: str, H: int, K: int, V: int) -> None:
    size = H * (2 * K + 2 * V) + 2 * H
    states: dict[Any, Tensor] = {
        form: random(1, H, K, V, seed=3, dtype=torch.float32) for form in (delta_op.kernel, delta_op.reference)
    }
    A_log, dt_bias = (random(H, seed=i, dtype=torch.float32) for i in (1, 2))
    for seed in range(4):
        # A step far into softplus' linear part is among them.
        projected = random(size, seed=seed) * (1 if seed else 20)
        found, expected = (form(projected, A_log, dt_bias, state) for form, state in states.items())
        assert_close(found, expected)
    assert_close(states[delta_op.kernel], states[delta_op.reference], 1e-5)


@kernels
@pytest.mark.parametrize("T", [1, 2, 3, 9])
@pytest.mark.parametrize(("B", "H", "K", "V"), [(1, 2, 16, 32), (2, 3, 32, 16)])
def test_delta_inputs(kernel_of: str, T: int, B: int, H: int, K: int, V: int) -> None:
    channels = H * (2 * K + V)
    projected = random(B, T, channels + H * V + 2 * H)
    past, filters = random(B, channels, 3, seed=1), random(channels, 4, seed=2)
    A_log, dt_bias = (random(H, seed=i, dtype=torch.float32) for i in (3, 4))
    found = inputs_op.kernel(projected, past, filters, A_log, dt_bias, H, K, V)
    wide = (x.double() for x in (projected, past, filters, A_log, dt_bias))
    for ours, theirs in zip(found, inputs_op.reference(*wide, H, K, V), strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("cuts", [[1] * 7, [2, 5], [3, 4], [7]], ids=str)
def test_the_past_that_is_handed_on_is_the_convolutions(cuts: list[int]) -> None:
    """In pieces of any size as in one, and the last inputs of all at the end."""
    H, K, V = 2, 8, 16
    channels = H * (2 * K + V)
    projected, filters = torch.randn(1, 7, channels + H * V + 2 * H), torch.randn(channels, 4)
    gates = torch.randn(H), torch.randn(H)
    past = start = torch.randn(1, channels, 3)
    pieces = []
    for piece in projected.split(cuts, dim=1):
        *results, past = inputs_op.delta_inputs(piece, past, filters, *gates, H, K, V)
        pieces.append(results)
    whole = inputs_op.reference(projected, start, filters, *gates, H, K, V)
    for ours, theirs in zip(zip(*pieces, strict=True), whole, strict=True):
        torch.testing.assert_close(torch.cat(ours, dim=1), theirs)
    assert torch.equal(past, projected[:, -3:, :channels].mT)


@kernels
@pytest.mark.parametrize("pattern", ["SLLL", "F"])
def test_a_whole_step_by_kernels(
    kernel_of: str, pattern: str, make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the prompt on, every operation of a layer by its kernel, over more tokens than the window holds.

    Each kernel may be right on tensors made for its test and wrong on those of a model, which lie as they lie.
    """
    for module in (product_op, delta_op, inputs_op, attention_op):
        monkeypatch.setattr(module, "takes_kernels", lambda x: True)
    model = make_model(pattern=pattern).to(device)
    ids = torch.randint(5, 60, (1, 20), generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        expected = model(input_ids=ids).logits
    decoder = GraphedDecoder(model, max_length=24, chunk=4)
    # The two ways to multiply float32, with all of its bits and as TF32, are both a kernel's right.
    bound = 1e-5 if INTERPRETED else 5e-3
    found = [decoder.prefill(ids[:, :9]).clone(), *(decoder.decode(ids[:, t : t + 1]).clone() for t in range(9, 20))]
    assert_close(torch.cat(found), expected[0, 8:], bound)


def test_kernels_refuse_tensors_that_lie_otherwise() -> None:
    state = torch.zeros(3, 40).T
    with pytest.raises(ValueError, match="conv_state is not contiguous"):
        product_op.kernel(torch.zeros(8), torch.zeros(50, 8), Around(conv_state=state, filters=torch.zeros(40, 4)))
