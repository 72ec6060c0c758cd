"""A backend's forms of some recurrences against the definition on a GPU, as a program: one JSON line a result.

    python gpu_comparison.py BACKEND PART RECURRENCE [RECURRENCE …]

A part is one shape and type, ``layers`` (every mixer of the recurrence) or ``all``.

A process of its own, because a kernel that fails can leave the process's CUDA context unusable; lines are flushed as
they come, so what was found before stays. `test_kernels_on_a_gpu` runs it and judges the lines.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from infinitevl_bench.models.cache import HybridCache
from infinitevl_bench.models.ops.kernels import Call, library_trouble
from infinitevl_bench.models.ops.recurrence import Recurrence
from infinitevl_bench.models.presets import get_preset
from infinitevl_bench.models.registry import MIXERS, get_mixer
from torch import Tensor

# Few shapes, since a kernel is compiled anew for each.
CASES = {
    f"{K}x{V}-{str(dtype).removeprefix('torch.')}": (K, V, dtype)
    for K, V, dtypes in [(64, 64, (torch.bfloat16, torch.float16, torch.float32)), (128, 256, (torch.bfloat16,))]
    for dtype in dtypes
}
LAYERS, ALL = "layers", "all"
PARTS = [*CASES, LAYERS]
LENGTHS = [1, 63, 1000]
H = 2
ENDS = [0, 1, 64, 300, 1000]
CUT = 437

Row = dict[str, Any]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of what was expected, or over 1e-3 where it is smaller."""
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).norm() / expected.norm().clamp(min=1e-3 * expected.numel() ** 0.5))


def rows(what: str, found: dict[str, Tensor], expected: dict[str, Tensor], **conditions: Any) -> Iterator[Row]:
    """One row a tensor."""
    for name, value in expected.items():
        yield conditions | {"what": what, "tensor": name, "error": relative_error(found[name], value)}


def inputs_of(recurrence: Recurrence, B: int, T: int, K: int, V: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Inputs as mixers give them: q, k and v in the model's type, gates in float32."""
    drawn = recurrence.random_inputs(B, T, H, K, V, seed=T, dtype=torch.float64)
    return tuple(x.to("cuda", dtype if n < 3 else torch.float32) for n, x in enumerate(drawn))


def run(
    recurrence: Recurrence, backend: str, inputs: tuple[Tensor, ...], state: Tensor | None, gradients: bool
) -> dict[str, Tensor]:
    """Output, last state and, if asked for, every gradient for one fixed random loss."""
    leaves = [x.detach().clone().requires_grad_(gradients) for x in inputs]
    start = None if state is None else state.detach().clone().requires_grad_(gradients)
    o, last = recurrence(*leaves, state=start, backend=backend)
    found = {"o": o, "last state": last}
    if not gradients:
        return found
    # A kernel without gradients of states is compared on what the outputs give.
    through = [o, last] if _state_gradient(recurrence) else [o]
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in through]
    targets = leaves if start is None else [*leaves, start]
    names = ["dq", "dk", "dv", "dgate 1", "dgate 2"][: len(leaves)] + ["dstate"] * (start is not None)
    gradient = torch.autograd.grad(through, targets, weights)
    return found | dict(zip(names, gradient, strict=True))


def _state_gradient(recurrence: Recurrence) -> bool:
    return all(kernel.state_gradient for kernel in recurrence.kernels.values())


def compare(recurrence: Recurrence, backend: str, case: str) -> Iterator[Row]:
    """The recurrence itself in one shape and type: every length, gradients, hand-over and packing."""
    K, V, dtype = CASES[case]
    for T in LENGTHS:
        call = Call("cuda", dtype, T, K, V)
        conditions = {"dtype": str(dtype).removeprefix("torch."), "T": T, "K": K, "V": V}
        trouble = recurrence.trouble(backend, call)
        if trouble is not None:
            yield conditions | {"what": "not taken", "reason": trouble}
            continue
        yield from _compare_call(recurrence, backend, call, conditions)


def _compare_call(recurrence: Recurrence, backend: str, call: Call, conditions: Row) -> Iterator[Row]:
    T, K, V, dtype = call.T, call.K, call.V, call.dtype
    inputs = inputs_of(recurrence, 2, T, K, V, dtype)
    wide = tuple(x.double() for x in inputs)
    drawn = torch.randn(2, H, K, V, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.1
    takes_state = recurrence.trouble(backend, call._replace(from_state=True)) is None
    state = drawn.to("cuda", torch.float32) if takes_state else None
    start = None if state is None else state.double()
    with torch.no_grad():
        expected = run(recurrence, "reference", wide, start, gradients=False)
        yield from rows("forward", run(recurrence, backend, inputs, state, False), expected, **conditions)
    trouble = recurrence.trouble(backend, call._replace(with_gradient=True))
    if trouble is None:
        expected = run(recurrence, "reference", wide, start, gradients=True)
        yield from rows("gradients", run(recurrence, backend, inputs, state, True), expected, **conditions)
    else:
        yield conditions | {"what": "not trained", "reason": trouble}
    if ENDS[-1] > T:
        return
    count = len(inputs) - recurrence.parameters
    with torch.no_grad():
        if takes_state:
            halves = [tuple(x[:, part] for x in inputs[:count]) for part in (slice(0, CUT), slice(CUT, None))]
            whole = run(recurrence, "reference", wide, start, gradients=False)
            first, middle = recurrence(*halves[0], *inputs[count:], state=state, backend=backend)
            second, last = recurrence(*halves[1], *inputs[count:], state=middle, backend=backend)
            found = {"o": torch.cat([first, second], dim=1), "last state": last}
            yield from rows("hand-over", found, whole, **conditions)
        one = (*(x[:1] for x in inputs[:count]), *inputs[count:])
        borders = torch.tensor(ENDS, dtype=torch.int32, device="cuda")
        o, last = recurrence(*(x.double() for x in one), backend="reference", cu_seqlens=borders)
        found_o, found_last = recurrence(*one, backend=backend, cu_seqlens=borders)
        yield from rows("packed", {"o": found_o, "last state": found_last}, {"o": o, "last state": last}, **conditions)


def compare_mixers(recurrence: Recurrence, backend: str) -> Iterator[Row]:
    """Every mixer of the recurrence as a layer in bfloat16: one pass, padding, packing, decoding after a prefill."""
    for name in MIXERS:
        if get_mixer(name).recurrence is recurrence:
            conditions = {"mixer": name, "dtype": "bfloat16", "T": 200}
            with torch.no_grad():
                yield from _compare_mixer(name, backend, conditions)


def _compare_mixer(name: str, backend: str, conditions: Row) -> Iterator[Row]:
    config = get_preset("small", mixer=name, mixer_args={"backend": backend, "expand_v": 1}).text_config
    config.num_attention_heads = 2
    torch.manual_seed(0)
    mixer = get_mixer(name)(config, 1).to("cuda", torch.bfloat16)
    x = torch.randn(2, 200, config.hidden_size, device="cuda").to(torch.bfloat16)
    exact = get_mixer(name)(config, 1).to("cuda")
    exact.load_state_dict({key: value.float() for key, value in mixer.state_dict().items()})
    exact.backend = "reference"

    def both(what: str, found: Tensor, expected: Tensor) -> Iterator[Row]:
        yield from rows(f"layer, {what}", {"y": found}, {"y": expected}, **conditions)

    whole, _ = exact(x.float())
    yield from both("one pass", mixer(x)[0], whole)
    mask = torch.ones(2, 200, dtype=torch.long, device="cuda")
    mask[0, :70] = 0
    alone, _ = exact(x[:1, 70:].float())
    yield from both("left padding", mixer(x, attention_mask=mask)[0][:1, 70:], alone)
    borders = torch.tensor([0, 1, 90, 200], dtype=torch.int32, device="cuda")
    packed = torch.cat([exact(x[:1, a:b].float())[0] for a, b in ((0, 1), (1, 90), (90, 200))], dim=1)
    yield from both("packed", mixer(x[:1], cu_seq_lens_q=borders)[0], packed)
    cache = HybridCache(config=config)
    parts = [x[:, :190], *x[:, 190:].split(1, dim=1)]
    yield from both("decoding", torch.cat([mixer(part, cache=cache)[0] for part in parts], dim=1), whole)


def emit(row: Row) -> None:
    """Print one line, at once."""
    print(json.dumps(row), flush=True)  # noqa: T201 - the test that started this reads it


def main() -> None:
    """Print the device, then every result. Memory that is handed out unfilled holds NaN, so that reading it shows."""
    backend, asked, *names = sys.argv[1:]
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    emit({"what": "device", "name": torch.cuda.get_device_name()})
    for name in names:
        trouble = None if backend == "torch" else library_trouble(backend, name)
        if trouble is not None:
            emit({"what": "not here", "reason": trouble})
            continue
        recurrence = next(r for n in MIXERS if (r := get_mixer(n).recurrence) is not None and r.name == name)
        for part in PARTS if asked == ALL else [asked]:
            found = compare_mixers(recurrence, backend) if part == LAYERS else compare(recurrence, backend, part)
            for row in found:
                emit(row | {"recurrence": name})


if __name__ == "__main__":
    main()
