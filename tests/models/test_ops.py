"""Every recurrence behind every mixer: against its equations, against fla, in chunks, with decay of any strength."""

from itertools import pairwise

import pytest
import torch
from infinitevl_bench.models.ops.recurrence import Recurrence
from torch import Tensor

from .recurrences import (
    FLA_NAIVE,
    ORACLES,
    RECURRENCES,
    B,
    H,
    K,
    V,
    alone,
    assert_near,
    cut,
    each_token,
    every_length,
    every_recurrence,
    everything,
    fla_naive,
    input_names,
    make,
    moving,
    random_state,
    relative_error,
    with_and_without_state,
)


def test_every_recurrence_has_an_oracle() -> None:
    assert RECURRENCES.keys() == ORACLES.keys()


@every_recurrence
@every_length
@with_and_without_state
def test_reference_is_the_equation(recurrence: Recurrence, T: int, given: bool) -> None:
    inputs, state = make(recurrence, T, given)
    o, last = ORACLES[recurrence.name](*inputs, state=state)
    found = everything(recurrence, inputs, state, "reference", gradients=False)
    assert_near(found, {"o": o, "last state": last}, 1e-12)


@pytest.mark.parametrize("name", FLA_NAIVE)
@pytest.mark.parametrize("T", [1, 5, 64, 100], ids="T{}".format)
@with_and_without_state
def test_reference_is_flas(name: str, T: int, given: bool) -> None:
    recurrence = RECURRENCES[name]
    naive = fla_naive(recurrence.name)
    inputs, state = make(recurrence, T, given, torch.float32)
    state = None if state is None else state.float()
    o, last = naive(*inputs, state=None if state is None else state.clone())
    found = everything(recurrence, inputs, state, "reference", gradients=False)
    assert_near(found, {"o": o, "last state": last}, 2e-6)


@every_recurrence
def test_gradients_of_the_reference(recurrence: Recurrence) -> None:
    inputs = recurrence.random_inputs(1, 3, 2, 2, 3, dtype=torch.float64)
    state = random_state(shape=(1, 2, 2, 3))

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return recurrence(*tensors[:-1], state=tensors[-1], backend="reference")

    assert torch.autograd.gradcheck(function, [x.clone().requires_grad_() for x in (*inputs, state)])


# --- chunks -----------------------------------------------------------------------------------------------------------


@every_recurrence
@every_length
@with_and_without_state
def test_chunked_is_step_by_step(recurrence: Recurrence, T: int, given: bool) -> None:
    inputs, state = make(recurrence, T, given)
    expected = everything(recurrence, inputs, state, "reference")
    assert_near(everything(recurrence, inputs, state, "torch"), expected, 1e-10)


@every_recurrence
@pytest.mark.parametrize("T", [5, 64, 131], ids="T{}".format)
@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 5e-6), (torch.bfloat16, 6e-3)], ids=["float32", "bfloat16"]
)
def test_narrow_types_stay_within_their_rounding(
    recurrence: Recurrence, T: int, backend: str, dtype: torch.dtype, bound: float
) -> None:
    inputs, state = make(recurrence, T, dtype=dtype)
    expected = everything(recurrence, tuple(x.double() for x in inputs), state, "reference")
    found = everything(recurrence, inputs, state, backend)
    assert found["o"].dtype == dtype
    assert found["last state"].dtype == torch.float32
    assert_near(found, expected, bound)


@every_recurrence
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_wide_gates_beside_narrow_values(recurrence: Recurrence, backend: str) -> None:
    # Mixers compute their gates in float32 whatever the model's dtype.
    (q, k, v, *gates), state = make(recurrence, 70, dtype=torch.bfloat16)
    wide = tuple(gate.float() for gate in gates)
    o, last = recurrence(q, k, v, *wide, state=state, backend=backend)
    again, last_again = recurrence(q.float(), k.float(), v.float(), *wide, state=state, backend="reference")
    assert (o.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    assert relative_error(o, again) < 4e-3
    assert relative_error(last, last_again) < 5e-6


@every_recurrence
@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("where", [1, 2, 31, 63, 64, 65, 130])
def test_state_hands_over_at_any_cut(recurrence: Recurrence, backend: str, where: int) -> None:
    inputs, state = make(recurrence, 131)
    whole, last = recurrence(*inputs, state=state, backend=backend)
    first, middle = recurrence(*cut(recurrence, inputs, 0, where), state=state, backend=backend)
    second, end = recurrence(*cut(recurrence, inputs, where), state=middle, backend=backend)
    found = {"o": torch.cat([first, second], dim=1), "last state": end}
    assert_near(found, {"o": whole, "last state": last}, 1e-11)


@every_recurrence
def test_pieces_of_odd_lengths_then_single_tokens_equal_one_pass(recurrence: Recurrence) -> None:
    inputs, state = make(recurrence, 131)
    whole, last = recurrence(*inputs, state=state, backend="reference")
    outputs, start = [], 0
    for length in (1, 7, 64, 3, 29, *[1] * 27):
        o, state = recurrence(*cut(recurrence, inputs, start, start + length), state=state)
        outputs.append(o)
        start += length
    assert start == 131
    assert state is not None
    assert_near({"o": torch.cat(outputs, 1), "last state": state}, {"o": whole, "last state": last}, 1e-11)


@every_recurrence
def test_gradients_flow_through_a_hand_over(recurrence: Recurrence) -> None:
    inputs, state = make(recurrence, 70)
    results = []
    for cuts in ((0, 70), (0, 33, 70)):
        leaves = tuple(x.clone().requires_grad_() for x in inputs)
        S, outputs = state, []
        for low, high in pairwise(cuts):
            o, S = recurrence(*cut(recurrence, leaves, low, high), state=S, backend="torch")
            outputs.append(o)
        assert S is not None
        loss = torch.cat(outputs, 1).sin().sum() + S.cos().sum()
        results.append(dict(zip(input_names(len(leaves)), torch.autograd.grad(loss, leaves), strict=True)))
    assert_near(results[1], results[0], 1e-10)


@every_recurrence
@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("T", [1, 64, 70])
def test_nothing_given_is_modified(recurrence: Recurrence, backend: str, T: int) -> None:
    inputs, state = make(recurrence, T)
    assert state is not None
    before = [x.clone() for x in (*inputs, state)]
    _, last = recurrence(*inputs, state=state, backend=backend)
    last.zero_()
    for old, new in zip(before, (*inputs, state), strict=True):
        assert torch.equal(old, new)


@every_recurrence
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_the_future_does_not_reach_the_past(recurrence: Recurrence, backend: str) -> None:
    inputs, state = make(recurrence, 100)
    o, _ = recurrence(*inputs, state=state, backend=backend)
    others = recurrence.random_inputs(B, 100, H, K, V, 9, torch.float64)
    for where in (1, 50, 63, 64, 99):
        changed = [x.clone() for x in inputs]
        for x, other in zip(changed[: moving(recurrence, inputs)], others, strict=False):
            x[:, where:] = other[:, where:]
        again, _ = recurrence(*changed, state=state, backend=backend)
        torch.testing.assert_close(again[:, :where], o[:, :where], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(again[:, where:], o[:, where:])


@every_recurrence
def test_samples_and_heads_do_not_mix(recurrence: Recurrence) -> None:
    inputs, state = make(recurrence, 67)
    assert state is not None
    o, last = recurrence(*inputs, state=state, backend="torch")
    for b in range(B):
        for h in range(H):
            one, last_alone = recurrence(
                *alone(recurrence, inputs, b, h), state=state[b : b + 1, h : h + 1], backend="torch"
            )
            torch.testing.assert_close(one[0, :, 0], o[b, :, h], rtol=1e-11, atol=1e-12)
            torch.testing.assert_close(last_alone[0, 0], last[b, h], rtol=1e-11, atol=1e-12)


@every_recurrence
@pytest.mark.parametrize("T", [1, 3, 64, 131])
def test_memory_layout_does_not_matter(recurrence: Recurrence, T: int) -> None:
    inputs, state = make(recurrence, T)
    assert state is not None
    expected = everything(recurrence, inputs, state, "torch", gradients=False)
    # The same values, time innermost in memory.
    strided = each_token(recurrence, inputs, lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1))
    assert_near(everything(recurrence, strided, state.mT.contiguous().mT, "torch", gradients=False), expected, 1e-12)


# One channel, more heads than channels, and keys that are wide enough for the largest chunks.
UNUSUAL = [
    *[(1, 65, 1, 1, 1), (3, 17, 2, 16, 3), (1, 130, 5, 3, 16), (1, 100, 2, 33, 4)],
    *[(1, T, 1, 64, 3) for T in (63, 64, 65, 127, 200)],
]


@every_recurrence
@pytest.mark.parametrize("shape", UNUSUAL, ids="B{0[0]}-T{0[1]}-H{0[2]}-K{0[3]}-V{0[4]}".format)
def test_unusual_sizes(recurrence: Recurrence, shape: tuple[int, int, int, int, int]) -> None:
    inputs = recurrence.random_inputs(*shape, dtype=torch.float64)
    state = random_state(shape=(shape[0], shape[2], shape[3], shape[4]))
    expected = everything(recurrence, inputs, state, "reference")
    assert_near(everything(recurrence, inputs, state, "torch"), expected, 1e-10)


@every_recurrence
@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("T", [1, 63, 131])
@pytest.mark.usefixtures("poisoned_memory")
def test_nothing_unfilled_is_read(recurrence: Recurrence, backend: str, T: int) -> None:
    inputs, state = make(recurrence, T)
    for name, value in everything(recurrence, inputs, state, backend).items():
        assert value.isfinite().all(), name


# --- decay of any strength --------------------------------------------------------------------------------------------

DECAYING = {name: r for name, r in RECURRENCES.items() if name not in ("linear_attention", "delta_rule")}
every_decaying = pytest.mark.parametrize("recurrence", DECAYING.values(), ids=DECAYING)
# Channels that decay one by one go from token to token without a sum of logarithms, in which digits could be lost.
EXACT = ("gated_linear_attention", "kimi_delta_rule", "selective_scan")

STRENGTHS = {
    "none": [0.0],
    "strong": [-50.0],
    "strong and none": [-50.0, 0.0, 0.0],
    "strong and weak": [-37.3, -0.013, -0.31],
    "erasing": [-1e4],
    "erasing and weak": [-1e4, -0.1, -0.01, 0.0, -0.3],
    "erasing, strong, none": [-1e4, 0.0, -50.0, -1e-3, 0.0, -5.0, -0.1],
}


@every_decaying
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("T", [17, 131], ids="T{}".format)
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_decay_of_any_strength_in_float32(recurrence: Recurrence, strength: str, T: int, backend: str) -> None:
    # Keys of 64 channels take the largest chunks, over which the most decay adds up.
    inputs = recurrence.random_inputs(1, T, 2, 64, V, seed=T)
    q, k, v, gate, *rest = inputs
    state = random_state(shape=(1, 2, 64, V))
    pattern = torch.tensor(STRENGTHS[strength])
    which = (torch.arange(T) * 5 % 7) % len(pattern)
    log_decay = pattern[which].view(T, *[1] * (gate.ndim - 2)).expand_as(gate).contiguous()
    if recurrence.parameters:
        # A step of that strength, with a rate of one; it weighs the values too, which stay of order one.
        v, rest = v / log_decay.abs().mean().clamp(min=1), [-torch.ones_like(rest[0])]
        log_decay = -log_decay
    inputs = (q, k, v, log_decay, *rest)
    expected = everything(recurrence, tuple(x.double() for x in inputs), state, "reference")
    found = everything(recurrence, inputs, state, backend)
    for name, value in found.items():
        assert value.isfinite().all(), name
    if recurrence.parameters:
        # A sum over tokens of steps of 50 and more times what is all but zero.
        del expected["dsecond gate"], found["dsecond gate"]
    # Sums of a chunk's log decays lose digits to the steps that erase all; a dozen of those lose the most.
    summed = backend == "torch" and recurrence.name not in EXACT
    assert_near(found, expected, 2e-4 if summed and "erasing" in strength else 3e-5)


@every_recurrence
def test_a_token_that_neither_writes_nor_decays_changes_nothing(recurrence: Recurrence) -> None:
    # What mixers rely on for padding: a zero key and zero gates.
    inputs, state = make(recurrence, 40)
    hole = slice(11, 29)
    for x in (inputs[1], *inputs[3 : moving(recurrence, inputs)]):
        x[:, hole] = 0
    kept = each_token(recurrence, inputs, lambda x: torch.cat([x[:, :11], x[:, 29:]], dim=1))
    for backend in ("reference", "torch"):
        o, last = recurrence(*inputs, state=state, backend=backend)
        again, last_again = recurrence(*kept, state=state, backend=backend)
        torch.testing.assert_close(torch.cat([o[:, :11], o[:, 29:]], dim=1), again, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(last, last_again, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["delta_rule", "gated_delta_rule", "kimi_delta_rule"])
def test_a_delta_rule_replaces_what_a_key_held(name: str) -> None:
    recurrence = RECURRENCES[name]
    q, k, v, *decay, beta = recurrence.random_inputs(1, 2, 1, 4, 3, dtype=torch.float64)
    k[:, 1], q = k[:, 0], k.clone()
    q[:, 1] = k[:, 0]
    for backend in ("reference", "torch"):
        o, _ = recurrence(q, k, v, *map(torch.zeros_like, decay), torch.ones_like(beta), backend=backend)
        torch.testing.assert_close(o, v)


def test_the_selective_scan_keeps_no_state_a_token() -> None:
    T, keys, values = 2048, 16, 32
    inputs = [x.requires_grad_() for x in RECURRENCES["selective_scan"].random_inputs(1, T, 1, keys, values)]
    saved = []

    def count(x: Tensor) -> Tensor:
        saved.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        o, _ = RECURRENCES["selective_scan"](*inputs, backend="torch")
    assert sum(saved) < T * keys * values / 2
    expected = everything(RECURRENCES["selective_scan"], tuple(inputs), None, "reference")
    found = everything(RECURRENCES["selective_scan"], tuple(inputs), None, "torch")
    assert_near(found, expected, 1e-5)
    assert o.shape == (1, T, 1, values)
