"""What the tests of the recurrences share: inputs, all results of a call, error bounds, and oracles."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from infinitevl_bench.models.ops.kernels import Call
from infinitevl_bench.models.ops.recurrence import Recurrence
from infinitevl_bench.models.registry import MIXERS, get_mixer
from torch import Tensor

RECURRENCES: dict[str, Recurrence] = {
    recurrence.name: recurrence for name in MIXERS if (recurrence := get_mixer(name).recurrence) is not None
}
# Each kernel of each recurrence: its id → (recurrence, backend).
KERNELS = {
    f"{name}-{backend}": (recurrence, backend)
    for name, recurrence in RECURRENCES.items()
    for backend in recurrence.kernels
}
# Around one and two chunks of 64, odd, prime, and shorter than a block.
LENGTHS = [1, 2, 3, 5, 17, 63, 64, 65, 100, 127, 131]
B, H, K, V = 2, 3, 8, 5

every_recurrence = pytest.mark.parametrize("recurrence", RECURRENCES.values(), ids=RECURRENCES)
every_kernel = pytest.mark.parametrize(("recurrence", "backend"), KERNELS.values(), ids=KERNELS)
every_length = pytest.mark.parametrize("T", LENGTHS, ids=lambda T: f"B{B}-T{T}-H{H}-K{K}")
with_and_without_state = pytest.mark.parametrize("given", [False, True], ids=["empty", "state"])


def call_of(inputs: tuple[Tensor, ...], with_gradient: bool = False, device: str | None = None) -> Call:
    """The call that these inputs make, or would make on another device."""
    _, k, v = inputs[:3]
    return Call(device or v.device.type, v.dtype, v.shape[1], k.shape[-1], v.shape[-1], with_gradient)


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


def moving(recurrence: Recurrence, inputs: tuple[Tensor, ...]) -> int:
    """How many of the inputs have a batch and time; behind them come the recurrence's parameters."""
    return len(inputs) - recurrence.parameters


def each_token(
    recurrence: Recurrence, inputs: tuple[Tensor, ...], change: Callable[[Tensor], Tensor]
) -> tuple[Tensor, ...]:
    """Inputs of which all that have a batch and time are changed."""
    count = moving(recurrence, inputs)
    return (*(change(x) for x in inputs[:count]), *inputs[count:])


def cut(recurrence: Recurrence, inputs: tuple[Tensor, ...], low: int, high: int | None = None) -> tuple[Tensor, ...]:
    """The tokens from ``low`` to ``high``."""
    return each_token(recurrence, inputs, lambda x: x[:, low:high])


def alone(recurrence: Recurrence, inputs: tuple[Tensor, ...], b: int, h: int) -> tuple[Tensor, ...]:
    """One head of one sequence."""
    count = moving(recurrence, inputs)
    return (*(x[b : b + 1, :, h : h + 1] for x in inputs[:count]), *(x[h : h + 1] for x in inputs[count:]))


def input_names(count: int) -> list[str]:
    return ["q", "k", "v", "first gate", "second gate", "third gate"][:count]


def everything(
    recurrence: Recurrence,
    inputs: tuple[Tensor, ...],
    state: Tensor | None,
    backend: str,
    *,
    gradients: bool = True,
    through_state: bool = True,
    cu_seqlens: Tensor | None = None,
) -> dict[str, Tensor]:
    """Output, last state and all gradients, the given state's included, for one fixed random loss.

    ``through_state`` says whether the last state is part of the loss.
    """
    leaves = [x.detach().clone().requires_grad_(gradients) for x in inputs]
    start = None if state is None else state.detach().clone().requires_grad_(gradients)
    o, last = recurrence(*leaves, state=start, backend=backend, cu_seqlens=cu_seqlens)
    found = {"o": o.detach(), "last state": last.detach()}
    if gradients:
        g = torch.Generator().manual_seed(7)
        results = [o, last] if through_state else [o]
        weights = [torch.randn(x.shape, generator=g, dtype=torch.float64).to(x) for x in results]
        targets = leaves if start is None else [*leaves, start]
        gradient = torch.autograd.grad(results, targets, weights)
        names = input_names(len(leaves)) + ([] if start is None else ["state"])
        found |= {f"d{name}": value for name, value in zip(names, gradient, strict=True)}
    return found


def one_after_another(
    recurrence: Recurrence, inputs: tuple[Tensor, ...], state: Tensor | None, ends: list[int], backend: str
) -> tuple[Tensor, Tensor]:
    """What packed sequences must give: each run by itself, from its own state ``[N, H, K, V]``."""
    results = [
        recurrence(
            *cut(recurrence, inputs, low, high), state=None if state is None else state[n : n + 1], backend=backend
        )
        for n, (low, high) in enumerate(pairwise(ends))
    ]
    return torch.cat([o for o, _ in results], dim=1), torch.cat([last for _, last in results])


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


def one_rate_a_head(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    return decay_sum(q, k, v, log_decay.unsqueeze(-1).expand_as(k), state)


def scan_oracle(
    q: Tensor, k: Tensor, v: Tensor, step: Tensor, A: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One value channel at a time: each has decays of its own, and is then a sum with channel-wise decay."""
    outputs, states = [], []
    for n in range(v.shape[-1]):
        log_decay = step[..., n : n + 1] * A[:, :, n]
        written = (step * v)[..., n : n + 1]
        o, last = decay_sum(q, k, written, log_decay, None if state is None else state[..., n : n + 1])
        outputs.append(o)
        states.append(last)
    return torch.cat(outputs, dim=-1), torch.cat(states, dim=-1)


def delta_oracle(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """S_i = Σ_j (A_i … A_{j+1}) β_j k_j v_jᵀ + (A_i … A_1) S_0 with A_t = (1 − β_t k_t k_tᵀ) diag(decay_t)."""
    T = k.shape[1]
    erase = torch.eye(k.shape[-1], dtype=k.dtype) - beta[..., None, None] * k.unsqueeze(-1) * k.unsqueeze(-2)
    A = erase * log_decay.exp().unsqueeze(-2)
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
    "gated_delta_rule": lambda q, k, v, g, beta, state: delta_oracle(q, k, v, g[..., None].expand_as(k), beta, state),
    "delta_rule": lambda q, k, v, beta, state: delta_oracle(q, k, v, torch.zeros_like(k), beta, state),
    "kimi_delta_rule": delta_oracle,
    "gated_linear_attention": decay_sum,
    "state_space_dual": one_rate_a_head,
    "selective_state_space": lambda q, k, v, step, A, state: one_rate_a_head(
        q, k, v * step.unsqueeze(-1), step * A, state
    ),
    "selective_scan": scan_oracle,
    "linear_attention": lambda q, k, v, state: decay_sum(q, k, v, torch.zeros_like(k), state),
}

FLA_NAIVE = {
    "gated_delta_rule": ("gated_delta_rule", "naive_recurrent_gated_delta_rule"),
    "delta_rule": ("delta_rule", "delta_rule_recurrence"),
    "kimi_delta_rule": ("kda", "naive_recurrent_kda"),
    "gated_linear_attention": ("gla", "naive_recurrent_gla"),
    "state_space_dual": ("simple_gla", "naive_recurrent_simple_gla"),
    "selective_state_space": ("simple_gla", "naive_recurrent_simple_gla"),
    "linear_attention": ("linear_attn", "naive_recurrent_linear_attn"),
}
"""Recurrence → fla's module and reference; it has none of the selective scan, which `test_mixers` compares with
transformers' layer."""


def fla_naive(name: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """fla's own reference of a recurrence, with our signature."""
    module, function = FLA_NAIVE[name]
    naive = getattr(pytest.importorskip(f"fla.ops.{module}.naive"), function)

    def call(q: Tensor, k: Tensor, v: Tensor, *gates: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        rest = {"initial_state": state, "output_final_state": True}
        if name in ("gated_delta_rule", "kimi_delta_rule"):
            return naive(q, k, v, beta=gates[1], g=gates[0], scale=1.0, **rest)
        # These two scale by K^-½ and cannot be told not to; the first has heads before time.
        if name == "delta_rule":
            heads_first = (x.movedim(1, 2) for x in (q * q.shape[-1] ** 0.5, k, v, *gates))
            o, last = naive(*heads_first, **rest)
            return o.movedim(1, 2), last
        if name == "gated_linear_attention":
            return naive(q * q.shape[-1] ** 0.5, k, v, *gates, **rest)
        if name == "selective_state_space":
            step, A = gates
            return naive(q, k, v * step.unsqueeze(-1), step * A, scale=1.0, **rest)
        return naive(q, k, v, *gates, scale=1.0, **rest)

    return call
