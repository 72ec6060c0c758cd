"""Recurrences over many tokens and many shapes: no drift, no shape left out, and the speed of the chunked form."""

import inspect
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from infinitevl_bench.models.ops.recurrence import Recurrence
from torch import Tensor

from .recurrences import RECURRENCES, assert_near, cut, every_recurrence, everything, random_state, relative_error

TOKENS, DECODED, PIECE = 100_000, 50, 9_973


@every_recurrence
def test_no_drift_over_a_hundred_thousand_tokens(recurrence: Recurrence) -> None:
    # As a model in bfloat16 runs it: narrow q, k and v, wide gates, a float32 state handed from piece to piece.
    drawn = recurrence.random_inputs(1, TOKENS, 1, 4, 4, seed=5)
    inputs = tuple(x.bfloat16() if n < 3 else x for n, x in enumerate(drawn))
    with torch.no_grad():
        expected, expected_last = recurrence(*(x.double() for x in inputs), backend="torch")
        outputs, state = [], None
        ends = [*range(0, TOKENS - DECODED, PIECE), *range(TOKENS - DECODED, TOKENS + 1)]
        for low, high in pairwise(ends):
            o, state = recurrence(*cut(recurrence, inputs, low, high), state=state)
            outputs.append(o)
    assert state is not None
    assert state.dtype == torch.float32
    assert relative_error(state, expected_last) < 1e-5
    o = torch.cat(outputs, dim=1)
    # bfloat16 rounds to 2⁻⁹, at the end of the text as at its beginning.
    for part in (slice(0, 1000), slice(TOKENS - 1000, TOKENS)):
        assert relative_error(o[:, part], expected[:, part]) < 3e-3


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(RECURRENCES)),
    shape=st.tuples(*(st.integers(1, most) for most in (3, 90, 3, 20, 20))),
    given_state=st.booleans(),
)
def test_any_shape(name: str, shape: tuple[int, int, int, int, int], given_state: bool) -> None:
    recurrence = RECURRENCES[name]
    B, _, H, K, V = shape
    inputs = recurrence.random_inputs(*shape, dtype=torch.float64)
    state = random_state(shape=(B, H, K, V)) if given_state else None
    expected = everything(recurrence, inputs, state, "reference")
    assert_near(everything(recurrence, inputs, state, "torch"), expected, 1e-10)


@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
def test_the_gated_delta_rule_is_not_slower_than_transformers(training: bool) -> None:
    modeling = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    # Newer releases wrap it in a choice of kernels.
    theirs = inspect.unwrap(modeling.torch_chunk_gated_delta_rule)
    recurrence = RECURRENCES["gated_delta_rule"]
    inputs = [x.requires_grad_(training) for x in recurrence.random_inputs(1, 1024, 4, 32, 64)]

    def run(form: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        q, k, v, log_decay, beta = inputs
        with torch.set_grad_enabled(training):
            o, _ = form(q, k, v, log_decay, beta)
            if training:
                torch.autograd.grad(o.sum(), inputs)
        return o.detach()

    forms = [
        lambda q, k, v, g, beta: recurrence(q, k, v, g, beta, backend="torch"),
        lambda q, k, v, g, beta: theirs(q, k, v, g=g, beta=beta),
    ]
    # Theirs scales queries, ours leaves that to the caller.
    assert relative_error(run(forms[0]) * 32**-0.5, run(forms[1])) < 1e-5
    seconds: list[list[float]] = [[], []]
    for _ in range(9):
        for form, samples in zip(forms, seconds, strict=True):
            # The processor's time, in turns: other processes are not measured.
            start = time.process_time()
            run(form)
            samples.append(time.process_time() - start)
    ours, others = map(statistics.median, seconds)
    assert ours <= others
