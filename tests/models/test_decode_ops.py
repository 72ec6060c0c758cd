"""The kernels of a decode step against their definitions in torch, on a GPU or in Triton's interpreter on the CPU.

Triton decides at its import whether it interprets, so without a GPU these tests run in a process of their own.
"""

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from infinitevl_bench.models.ops import decode_attention as attention_op
from infinitevl_bench.models.ops import delta_step as delta_op
from infinitevl_bench.models.ops import matrix_vector as product_op
from infinitevl_bench.models.ops.matrix_vector import Around
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
device = "cpu" if INTERPRETED else "cuda"
of_kernels = [] if INTERPRETED else [pytest.mark.gpu]


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", __file__]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def random(*shape: int, seed: int = 0, dtype: torch.dtype | None = None) -> Tensor:
    # 16-bit types are what the kernels are for; the interpreter's arithmetic is numpy's, which has no bfloat16.
    chosen = dtype or (torch.bfloat16 if device == "cuda" else torch.float16)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, chosen)


def assert_close(found: Tensor, expected: Tensor, bound: float = 4e-3) -> None:
    bound *= 4 if found.dtype == torch.bfloat16 else 1
    error = (found.double() - expected.double()).norm() / expected.double().norm()
    assert error <= bound, f"relative error {error:.2e}"


@pytest.mark.parametrize("kernel_of", [pytest.param(device, marks=of_kernels)])
@pytest.mark.parametrize(("slots", "used"), [(64, 1), (300, 300), (300, 77), (1100, 513), (1024, 1024)])
@pytest.mark.parametrize(("B", "H", "G", "K"), [(1, 4, 2, 32), (2, 3, 1, 16)])
def test_decode_attention(kernel_of: str, slots: int, used: int, B: int, H: int, G: int, K: int) -> None:
    q = random(B, H, 1, K)
    # What lies in slots that are not used must not matter, unless it is no number.
    k, v = (random(B, G, slots, K, seed=i) for i in (1, 2))
    count = torch.tensor(used, device=device)
    found = attention_op.kernel(q, k, v, count, 0.3)
    wide = attention_op.reference(q.double(), k.double(), v.double(), count, 0.3)
    assert_close(found, wide)
    k[:, :, used:], v[:, :, used:] = 50.0, -50.0
    assert torch.equal(attention_op.kernel(q, k, v, count, 0.3), found)


ROWS, COLUMNS, HEAD = 50, 96, 32


def around(name: str) -> Around:
    vector = {size: random(size, seed=size) for size in (ROWS, COLUMNS, HEAD)}
    return {
        "nothing": Around(),
        "norm": Around(norm=vector[COLUMNS], eps=1e-3),
        "bias-norm": Around(norm=vector[COLUMNS], bias=vector[ROWS]),
        "heads": Around(norm=vector[HEAD], gate=random(COLUMNS, seed=5), eps=1e-5),
        "residual": Around(residual=vector[ROWS]),
        "swiglu": Around(norm=vector[COLUMNS], swiglu=True),
        "convolution": Around(
            norm=vector[COLUMNS],
            conv_state=random(40, 3, seed=6),
            filters=random(40, 4, seed=7),
        ),
    }[name]


@pytest.mark.parametrize("kernel_of", [pytest.param(device, marks=of_kernels)])
@pytest.mark.parametrize("name", ["nothing", "norm", "bias-norm", "heads", "residual", "swiglu", "convolution"])
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


@pytest.mark.parametrize("kernel_of", [pytest.param(device, marks=of_kernels)])
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
