"""Every recurrence behind every mixer: against its equations, against fla, in chunks, with decay of any strength."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.ops.kernels import kernel_trouble
from infinitevl_bench.models.ops.recurrence import BACKENDS, Recurrence
from infinitevl_bench.models.registry import MIXERS, get_mixer
from torch import Tensor

RECURRENCES = {get_mixer(name).recurrence.name: get_mixer(name).recurrence for name in MIXERS}
KERNELS = {name: recurrence for name, recurrence in RECURRENCES.items() if recurrence.kernel is not None}
# Around one and two chunks of 64, odd, prime, and shorter than a block.
LENGTHS = [1, 2, 3, 5, 17, 63, 64, 65, 100, 127, 131]
B, H, K, V = 2, 3, 8, 5

every_recurrence = pytest.mark.parametrize("recurrence", RECURRENCES.values(), ids=RECURRENCES)
every_kernel = pytest.mark.parametrize("recurrence", KERNELS.values(), ids=KERNELS)
every_length = pytest.mark.parametrize("T", LENGTHS, ids=lambda T: f"B{B}-T{T}-H{H}-K{K}")
with_and_without_state = pytest.mark.parametrize("given", [False, True], ids=["empty", "state"])


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of what was expected, or over 1e-3 where it is smaller.

    Inputs here are of order one; what is all but zero (the gradient of a decay of exp(−50), say) has no digits to tell.
    """
    actual, expected = actual.double().cpu(), expected.double().cpu()
    return float((actual - expected).norm() / expected.norm().clamp(min=1e-3 * expected.numel() ** 0.5))


def assert_near(actual: dict[str, Tensor], expected: dict[str, Tensor], bound: float) -> None:
    assert actual.keys() == expected.keys()
    errors = {name: relative_error(actual[name], expected[name]) for name in expected}
    # `not <=` also catches NaN.
    wrong = {name: error for name, error in errors.items() if not error <= bound}
    assert not wrong, f"relative RMS errors over {bound}: {wrong}"


def random_state(seed: int = 1, dtype: torch.dtype = torch.float64, shape: tuple[int, ...] = (B, H, K, V)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(
    recurrence: Recurrence, T: int, given: bool = True, dtype: torch.dtype = torch.float64
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Inputs of T tokens, drawn in float64 whatever the dtype, and a state that is large enough to matter."""
    inputs = recurrence.random_inputs(B, T, H, K, V, seed=T, dtype=torch.float64)
    return tuple(x.to(dtype) for x in inputs), random_state() if given else None


def input_names(count: int) -> list[str]:
    return ["q", "k", "v", "first gate", "second gate", "third gate"][:count]


def everything(
    recurrence: Recurrence,
    inputs: tuple[Tensor, ...],
    state: Tensor | None,
    backend: str,
    *,
    gradients: bool = True,
) -> dict[str, Tensor]:
    """Output, last state and all gradients, the given state's included, for one fixed random loss."""
    leaves = [x.detach().clone().requires_grad_(gradients) for x in inputs]
    start = None if state is None else state.detach().clone().requires_grad_(gradients)
    o, last = recurrence(*leaves, state=start, backend=backend)
    found = {"o": o.detach(), "last state": last.detach()}
    if gradients:
        g = torch.Generator().manual_seed(7)
        weights = [torch.randn(x.shape, generator=g, dtype=torch.float64).to(x) for x in (o, last)]
        targets = leaves if start is None else [*leaves, start]
        gradient = torch.autograd.grad([o, last], targets, weights)
        names = input_names(len(leaves)) + ([] if start is None else ["state"])
        found |= {f"d{name}": value for name, value in zip(names, gradient, strict=True)}
    return found


# --- oracles: the recurrences unrolled, in float64, from the equations of the papers ----------------------------------


def unrolled_decay(log_decay: Tensor) -> Tensor:
    """``[B, T, H, ...]`` → ``[B, H, ..., T + 1, T + 1]``: the product of the decays of tokens j + 1 … i; index 0 is the
    state before the first token. Multiplied up, without a logarithm or a difference of sums."""
    decay = log_decay.movedim(1, -1).exp()
    T = decay.shape[-1]
    factor = torch.ones(*decay.shape[:-1], T + 1, T + 1, dtype=decay.dtype)
    for i in range(1, T + 1):
        factor[..., i, :i] = decay[..., i - 1, None]
    return factor.cumprod(dim=-2).tril()


def decay_sum(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """o_i = Σ_{j ≤ i} Σ_κ q_iκ (Π_{j < s ≤ i} decay_sκ) k_jκ v_j, the T × T sum at once; decay ``[B, T, H, K]``."""
    weight = unrolled_decay(log_decay)
    o = torch.einsum("bihk,bhkij,bjhk,bjhv->bihv", q, weight[..., 1:, 1:], k, v)
    last = torch.einsum("bhkj,bjhk,bjhv->bhkv", weight[..., -1, 1:], k, v)
    if state is not None:
        o = o + torch.einsum("bihk,bhki,bhkv->bihv", q, weight[..., 1:, 0], state)
        last = last + weight[..., -1, 0].unsqueeze(-1) * state
    return o, last


def gated_delta_oracle(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """S_i = Σ_j (A_i … A_{j+1}) β_j k_j v_jᵀ + (A_i … A_1) S_0 with A_t = exp(log_decay_t) (1 − β_t k_t k_tᵀ)."""
    T = k.shape[1]
    erase = torch.eye(k.shape[-1], dtype=k.dtype) - beta[..., None, None] * k.unsqueeze(-1) * k.unsqueeze(-2)
    A = log_decay.exp()[..., None, None] * erase
    writes = beta[..., None, None] * k.unsqueeze(-1) * v.unsqueeze(-2)
    S_0 = torch.zeros_like(writes[:, 0]) if state is None else state
    # What each token (and the start, first) contributes to the state, moved on by one transition matrix a token.
    contributions = S_0.unsqueeze(1)
    states = []
    for t in range(T):
        contributions = torch.cat([A[:, t].unsqueeze(1) @ contributions, writes[:, t : t + 1]], dim=1)
        states.append(contributions.sum(dim=1))
    return torch.einsum("bthkv,bthk->bthv", torch.stack(states, dim=1), q), states[-1]


ORACLES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "gated_delta_rule": gated_delta_oracle,
    "gated_linear_attention": decay_sum,
    "state_space_dual": lambda q, k, v, decay, state: decay_sum(q, k, v, decay.unsqueeze(-1).expand_as(k), state),
    "linear_attention": lambda q, k, v, state: decay_sum(q, k, v, torch.zeros_like(k), state),
}


def fla_naive(name: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """fla's own reference of a recurrence, with our signature."""
    module, function = {
        "gated_delta_rule": ("gated_delta_rule", "naive_recurrent_gated_delta_rule"),
        "gated_linear_attention": ("gla", "naive_recurrent_gla"),
        "state_space_dual": ("simple_gla", "naive_recurrent_simple_gla"),
        "linear_attention": ("linear_attn", "naive_recurrent_linear_attn"),
    }[name]
    naive = getattr(pytest.importorskip(f"fla.ops.{module}.naive"), function)

    def call(q: Tensor, k: Tensor, v: Tensor, *gates: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        rest = {"initial_state": state, "output_final_state": True}
        if name == "gated_delta_rule":
            return naive(q, k, v, beta=gates[1], g=gates[0], scale=1.0, **rest)
        if name == "gated_linear_attention":
            # This one scales by K^-½ and cannot be told not to.
            return naive(q * q.shape[-1] ** 0.5, k, v, *gates, **rest)
        return naive(q, k, v, *gates, scale=1.0, **rest)

    return call


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


@every_recurrence
@pytest.mark.parametrize("T", [1, 5, 64, 100], ids="T{}".format)
@with_and_without_state
def test_reference_is_flas(recurrence: Recurrence, T: int, given: bool) -> None:
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
@pytest.mark.parametrize("cut", [1, 2, 31, 63, 64, 65, 130])
def test_state_hands_over_at_any_cut(recurrence: Recurrence, backend: str, cut: int) -> None:
    inputs, state = make(recurrence, 131)
    whole, last = recurrence(*inputs, state=state, backend=backend)
    first, middle = recurrence(*(x[:, :cut] for x in inputs), state=state, backend=backend)
    second, end = recurrence(*(x[:, cut:] for x in inputs), state=middle, backend=backend)
    found = {"o": torch.cat([first, second], dim=1), "last state": end}
    assert_near(found, {"o": whole, "last state": last}, 1e-11)


@every_recurrence
def test_pieces_of_odd_lengths_then_single_tokens_equal_one_pass(recurrence: Recurrence) -> None:
    inputs, state = make(recurrence, 131)
    whole, last = recurrence(*inputs, state=state, backend="reference")
    outputs, start = [], 0
    for length in (1, 7, 64, 3, 29, *[1] * 27):
        piece = (x[:, start : start + length] for x in inputs)
        o, state = recurrence(*piece, state=state)
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
        leaves = [x.clone().requires_grad_() for x in inputs]
        S, outputs = state, []
        for low, high in pairwise(cuts):
            o, S = recurrence(*(x[:, low:high] for x in leaves), state=S, backend="torch")
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
    for cut in (1, 50, 63, 64, 99):
        changed = [x.clone() for x in inputs]
        for x, other in zip(changed, recurrence.random_inputs(B, 100, H, K, V, 9, torch.float64), strict=True):
            x[:, cut:] = other[:, cut:]
        again, _ = recurrence(*changed, state=state, backend=backend)
        torch.testing.assert_close(again[:, :cut], o[:, :cut], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(again[:, cut:], o[:, cut:])


@every_recurrence
def test_samples_and_heads_do_not_mix(recurrence: Recurrence) -> None:
    inputs, state = make(recurrence, 67)
    assert state is not None
    o, last = recurrence(*inputs, state=state, backend="torch")
    for b in range(B):
        for h in range(H):
            one = (slice(b, b + 1), slice(None), slice(h, h + 1))
            alone, last_alone = recurrence(
                *(x[one] for x in inputs), state=state[b : b + 1, h : h + 1], backend="torch"
            )
            torch.testing.assert_close(alone, o[one], rtol=1e-11, atol=1e-12)
            torch.testing.assert_close(last_alone[0, 0], last[b, h], rtol=1e-11, atol=1e-12)


@every_recurrence
@pytest.mark.parametrize("T", [1, 3, 64, 131])
def test_memory_layout_does_not_matter(recurrence: Recurrence, T: int) -> None:
    inputs, state = make(recurrence, T)
    assert state is not None
    expected = everything(recurrence, inputs, state, "torch", gradients=False)
    # The same values, time innermost in memory.
    strided = tuple(x.movedim(1, -1).contiguous().movedim(-1, 1) for x in inputs)
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


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Memory that torch hands out without filling it holds NaN, so that reading it shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(4).isnan().all()
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


@every_recurrence
@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("T", [1, 63, 131])
@pytest.mark.usefixtures("poisoned_memory")
def test_nothing_unfilled_is_read(recurrence: Recurrence, backend: str, T: int) -> None:
    inputs, state = make(recurrence, T)
    for name, value in everything(recurrence, inputs, state, backend).items():
        assert value.isfinite().all(), name


# --- decay of any strength --------------------------------------------------------------------------------------------

DECAYING = {name: recurrence for name, recurrence in RECURRENCES.items() if name != "linear_attention"}
every_decaying = pytest.mark.parametrize("recurrence", DECAYING.values(), ids=DECAYING)

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
    q, k, v, log_decay, *rest = inputs
    state = random_state(shape=(1, 2, 64, V))
    pattern = torch.tensor(STRENGTHS[strength])
    which = (torch.arange(T) * 5 % 7) % len(pattern)
    log_decay = pattern[which].view(T, *[1] * (log_decay.ndim - 2)).expand_as(log_decay).contiguous()
    inputs = (q, k, v, log_decay, *rest)
    expected = everything(recurrence, tuple(x.double() for x in inputs), state, "reference")
    found = everything(recurrence, inputs, state, backend)
    for name, value in found.items():
        assert value.isfinite().all(), name
    # Sums of a chunk's log decays lose digits to the steps that erase all; a dozen of those lose the most.
    assert_near(found, expected, 2e-4 if backend == "torch" and "erasing" in strength else 3e-5)


@every_decaying
def test_a_token_that_neither_writes_nor_decays_changes_nothing(recurrence: Recurrence) -> None:
    # What mixers rely on for padding: a zero key and zero gates.
    (q, k, v, *gates), state = make(recurrence, 40)
    hole = slice(11, 29)
    k[:, hole] = 0
    for gate in gates:
        gate[:, hole] = 0
    kept = [torch.cat([x[:, :11], x[:, 29:]], dim=1) for x in (q, k, v, *gates)]
    for backend in ("reference", "torch"):
        o, last = recurrence(q, k, v, *gates, state=state, backend=backend)
        again, last_again = recurrence(*kept, state=state, backend=backend)
        torch.testing.assert_close(torch.cat([o[:, :11], o[:, 29:]], dim=1), again, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(last, last_again, rtol=1e-11, atol=1e-12)


def test_the_delta_rule_replaces_what_a_key_held() -> None:
    recurrence = RECURRENCES["gated_delta_rule"]
    q, k, v, log_decay, beta = recurrence.random_inputs(1, 2, 1, 4, 3, dtype=torch.float64)
    k[:, 1], q = k[:, 0], k.clone()
    q[:, 1] = k[:, 0]
    for backend in ("reference", "torch"):
        o, _ = recurrence(q, k, v, torch.zeros_like(log_decay), torch.ones_like(beta), backend=backend)
        torch.testing.assert_close(o, v)


# --- backends ---------------------------------------------------------------------------------------------------------


@every_recurrence
def test_unknown_backends_answer_with_the_nearest(recurrence: Recurrence) -> None:
    inputs, _ = make(recurrence, 2)
    with pytest.raises(UserError, match="did you mean torch"):
        recurrence(*inputs, backend="troch")


@every_recurrence
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_kernel_that_is_not_usable_says_why(recurrence: Recurrence) -> None:
    inputs, _ = make(recurrence, 2)
    with pytest.raises(UserError, match=r"backend fla cannot run .*; use torch or auto"):
        recurrence(*inputs, backend="fla")


@every_recurrence
@pytest.mark.parametrize(("T", "with_gradient"), [(1, False), (1, True), (64, False), (64, True)])
def test_auto_takes_only_kernels_that_were_compared(
    recurrence: Recurrence, T: int, with_gradient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infinitevl_bench.models.ops import kernels

    monkeypatch.setattr(kernels, "kernel_trouble", lambda *_: None)
    there = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32, shape=(1, T, 1, 8))
    chosen = recurrence.resolve("auto", there, with_gradient)
    compared = recurrence.name in kernels.COMPARED and not (T == 1 and with_gradient)
    assert chosen == ("fla" if compared else "reference" if T == 1 else "torch")


@every_recurrence
@pytest.mark.parametrize("T", [1, 2, 64])
def test_auto_is_a_backend_that_runs_here(recurrence: Recurrence, T: int) -> None:
    inputs, state = make(recurrence, T)
    chosen = recurrence.resolve("auto", inputs[2], with_gradient=True)
    assert chosen in BACKENDS
    assert chosen != "auto"
    expected, _ = recurrence(*inputs, state=state, backend="reference")
    o, _ = recurrence(*inputs, state=state)
    torch.testing.assert_close(o, expected, rtol=1e-10, atol=1e-11)


@every_recurrence
def test_random_inputs_are_valid_and_follow_the_seed(recurrence: Recurrence) -> None:
    first, again, other = (recurrence.random_inputs(B, 9, H, K, V, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(first, other, strict=True))
    if recurrence.unit_keys:
        torch.testing.assert_close(first[1].norm(dim=-1), torch.ones(B, 9, H))
    if len(first) > 3:
        assert (first[3] <= 0).all()


# --- on an accelerator ------------------------------------------------------------------------------------------------

GPU_LENGTHS = [1, 2, 63, 64, 131, 300]


def on_gpu(
    recurrence: Recurrence, T: int, sizes: tuple[int, int, int], dtype: torch.dtype
) -> tuple[tuple[Tensor, ...], Tensor]:
    heads, key, value = sizes
    inputs = recurrence.random_inputs(B, T, heads, key, value, seed=T, dtype=torch.float64)
    # Decay stays float32, as mixers hand it over; everything else in the model's type.
    narrow = tuple(x.to("cuda", torch.float32 if i == 3 else dtype) for i, x in enumerate(inputs))
    return narrow, random_state(shape=(B, heads, key, value)).to("cuda", torch.float32) * 0.1


@pytest.mark.gpu
@every_kernel
@pytest.mark.parametrize("T", GPU_LENGTHS, ids="T{}".format)
@pytest.mark.parametrize("sizes", [(3, 32, 64), (2, 64, 64), (2, 128, 256)], ids=lambda s: "H{}-K{}-V{}".format(*s))
@pytest.mark.usefixtures("poisoned_memory")
def test_kernel_forward(recurrence: Recurrence, T: int, sizes: tuple[int, int, int]) -> None:
    if trouble := kernel_trouble(recurrence.name):
        pytest.skip(trouble)
    inputs, state = on_gpu(recurrence, T, sizes, torch.bfloat16)
    with torch.no_grad():
        o, last = recurrence(*inputs, state=state, backend="fla")
        expected, expected_last = recurrence(*(x.double() for x in inputs), state=state.double(), backend="reference")
    assert (o.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    assert_near({"o": o, "last state": last}, {"o": expected, "last state": expected_last}, 1e-2)


@pytest.mark.gpu
@every_kernel
@pytest.mark.parametrize("T", GPU_LENGTHS, ids="T{}".format)
@pytest.mark.usefixtures("poisoned_memory")
def test_kernel_gradients(recurrence: Recurrence, T: int) -> None:
    if trouble := kernel_trouble(recurrence.name, with_gradient=True):
        pytest.skip(trouble)
    inputs, state = on_gpu(recurrence, T, (2, 64, 64), torch.bfloat16)
    expected = everything(recurrence, tuple(x.double() for x in inputs), state.double(), "reference")
    assert_near(everything(recurrence, inputs, state, "fla"), expected, 1.5e-2)


@pytest.mark.gpu
@every_kernel
@pytest.mark.parametrize("cut", [1, 64, 299])
def test_kernel_hands_its_state_over(recurrence: Recurrence, cut: int) -> None:
    if trouble := kernel_trouble(recurrence.name):
        pytest.skip(trouble)
    inputs, state = on_gpu(recurrence, 300, (2, 64, 64), torch.bfloat16)
    with torch.no_grad():
        whole, last = recurrence(*(x.double() for x in inputs), state=state.double(), backend="reference")
        first, middle = recurrence(*(x[:, :cut] for x in inputs), state=state, backend="fla")
        second, end = recurrence(*(x[:, cut:] for x in inputs), state=middle, backend="fla")
    found = {"o": torch.cat([first, second], dim=1), "last state": end}
    assert_near(found, {"o": whole, "last state": last}, 1e-2)


@pytest.mark.gpu
@every_recurrence
@pytest.mark.parametrize("T", [1, 64, 131], ids="T{}".format)
def test_auto_on_a_gpu_is_right_with_gradients(recurrence: Recurrence, T: int) -> None:
    inputs, state = on_gpu(recurrence, T, (2, 64, 64), torch.bfloat16)
    expected = everything(recurrence, tuple(x.double() for x in inputs), state.double(), "reference")
    assert_near(everything(recurrence, inputs, state, "auto"), expected, 1.5e-2)


@pytest.mark.gpu
@every_recurrence
def test_chunked_on_a_gpu_is_step_by_step(recurrence: Recurrence) -> None:
    inputs, state = on_gpu(recurrence, 131, (2, 64, 64), torch.float64)
    wide = tuple(x.double() for x in inputs)
    expected = everything(recurrence, wide, state.double(), "reference")
    assert_near(everything(recurrence, wide, state.double(), "torch"), expected, 1e-10)
