"""Which form of a recurrence runs: what kernels take, what auto chooses and says, packed sequences, compilation."""

import logging
from collections.abc import Iterator

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.files import package_path
from infinitevl_bench.models.ops import kernels
from infinitevl_bench.models.ops import recurrence as recurrence_module
from infinitevl_bench.models.ops.kernels import Call, Kernel
from infinitevl_bench.models.ops.recurrence import BACKENDS, Recurrence
from infinitevl_bench.records import read_records

from .recurrences import (
    RECURRENCES,
    H,
    K,
    V,
    assert_near,
    call_of,
    every_kernel,
    every_recurrence,
    everything,
    make,
    one_after_another,
    random_state,
)

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Pretend that every kernel library is installed beside a GPU."""
    monkeypatch.setattr(recurrence_module, "library_trouble", lambda *_: None)
    recurrence_module.say_once.cache_clear()
    yield monkeypatch
    recurrence_module.say_once.cache_clear()


def on_cuda(T: int = 64, dtype: torch.dtype = torch.bfloat16, K: int = 64, V: int = 64, **rest: bool) -> Call:
    return Call("cuda", dtype, T, K, V, **rest)


@every_recurrence
def test_unknown_backends_answer_with_the_nearest(recurrence: Recurrence) -> None:
    inputs, _ = make(recurrence, 2)
    with pytest.raises(UserError, match="did you mean torch"):
        recurrence(*inputs, backend="troch")


@every_kernel
@WITHOUT_GPU
def test_a_kernel_that_is_not_usable_says_why(recurrence: Recurrence, backend: str) -> None:
    inputs, _ = make(recurrence, 2)
    with pytest.raises(UserError, match=rf"backend {backend} cannot run .*CUDA.*; use backend torch or auto"):
        recurrence(*inputs, backend=backend)


LACKING = [
    (name, x) for name, recurrence in RECURRENCES.items() for x in kernels.LIBRARIES if x not in recurrence.kernels
]


@pytest.mark.parametrize(("name", "backend"), LACKING)
def test_a_library_without_the_kernel_says_so(name: str, backend: str) -> None:
    recurrence = RECURRENCES[name]
    inputs, _ = make(recurrence, 2)
    with pytest.raises(UserError, match=f"backend {backend} cannot run {recurrence.name}: it has no kernel for it"):
        recurrence(*inputs, backend=backend)


@every_kernel
@pytest.mark.usefixtures("libraries")
def test_what_no_kernel_takes(recurrence: Recurrence, backend: str) -> None:
    limits = {
        "float64": on_cuda(dtype=torch.float64),
        "CUDA devices only": Call("cpu", torch.float32, 64, 64, 64),
    }
    for words, call in limits.items():
        with pytest.raises(UserError, match=rf"backend {backend} cannot run .*{words}.*; use backend torch or auto"):
            recurrence.form(backend, call)
    assert recurrence.trouble(backend, on_cuda()) is None


@pytest.mark.parametrize(
    ("name", "backend", "call", "words"),
    [
        *[
            (name, "fla", on_cuda(K=320), "keys of at most 256 channels, not 320")
            for name in ("delta_rule", "gated_delta_rule", "kimi_delta_rule")
        ],
        ("delta_rule", "fla", on_cuda(dtype=torch.float32), "float16 and bfloat16, not float32"),
        (
            "state_space_dual",
            "fla",
            on_cuda(K=33, with_gradient=True),
            "even widths of keys and values in bfloat16, not 33",
        ),
        ("selective_scan", "mamba_ssm", on_cuda(from_state=True), "cannot start more than one token from a state"),
    ],
)
@pytest.mark.usefixtures("libraries")
def test_limits_of_single_kernels(name: str, backend: str, call: Call, words: str) -> None:
    with pytest.raises(UserError, match=rf"backend {backend} cannot run {name}: .*{words}.*; use backend torch"):
        RECURRENCES[name].form(backend, call)


@every_kernel
def test_auto_falls_back_from_what_a_kernel_does_not_take(
    recurrence: Recurrence, backend: str, libraries: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    libraries.setattr(kernels, "COMPARED", {recurrence.name: dict.fromkeys(kernels.LIBRARIES, kernels.BRAIN)})
    assert recurrence.resolve("auto", on_cuda()) in recurrence.kernels
    assert not caplog.records
    for _ in range(3):
        assert recurrence.resolve("auto", on_cuda(dtype=torch.float64)) == "torch"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(recurrence.kernels)
    assert any(f"{recurrence.name} runs on backend torch, not on {backend}: it takes float32" in line for line in said)
    assert all(record.levelno == logging.WARNING for record in caplog.records)


@every_recurrence
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize("T", [1, 64])
@pytest.mark.usefixtures("libraries")
def test_auto_takes_only_kernels_that_were_compared(
    recurrence: Recurrence, T: int, with_gradient: bool, dtype: torch.dtype
) -> None:
    entry = kernels.COMPARED.get(recurrence.name, {})
    compared = [library for library in kernels.LIBRARIES if dtype in entry.get(library, ())]
    if with_gradient:
        compared = [library for library in compared if (recurrence.name, library) not in kernels.FORWARD_ONLY]
    expected = compared[0] if compared else "reference" if T == 1 else "torch"
    assert recurrence.resolve("auto", on_cuda(T, dtype, with_gradient=with_gradient)) == expected


def test_what_was_compared_has_its_errors_on_record() -> None:
    """Every entry is a kernel that exists, and its comparison is among the records that the package ships."""
    seen = {
        (record.model, record.extra["backend"], record.extra["dtype"], record.extra["what"])
        for record in read_records(package_path("reports", "measured", "kernel_errors.jsonl"))
    }
    for name, entry in kernels.COMPARED.items():
        assert entry.keys() <= RECURRENCES[name].kernels.keys()
        for library, dtypes in entry.items():
            for dtype in dtypes:
                passes = {"forward"} if (name, library) in kernels.FORWARD_ONLY else {"forward", "gradients"}
                for what in passes:
                    assert (name, library, str(dtype).removeprefix("torch."), what) in seen


@every_recurrence
def test_auto_on_a_cpu_says_nothing(recurrence: Recurrence, caplog: pytest.LogCaptureFixture) -> None:
    assert recurrence.resolve("auto", Call("cpu", torch.float32, 9, K, V)) == "torch"
    assert not caplog.records


@every_recurrence
@pytest.mark.parametrize("T", [1, 2, 64])
def test_auto_is_a_backend_that_runs_here(recurrence: Recurrence, T: int) -> None:
    inputs, state = make(recurrence, T)
    chosen = recurrence.resolve("auto", call_of(inputs, with_gradient=True))
    assert chosen in BACKENDS
    assert chosen != "auto"
    expected, _ = recurrence(*inputs, state=state, backend="reference")
    o, _ = recurrence(*inputs, state=state)
    torch.testing.assert_close(o, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    ("library", "missing", "words"),
    [
        ("fla", "fla", "pip install flash-linear-attention"),
        ("fla", "triton", "triton is not installed"),
        ("mamba_ssm", "mamba_ssm", "pip install 'infinitevl-bench[mamba]'"),
        ("mamba_ssm", "selective_scan_cuda", "selective_scan_cuda is not installed"),
    ],
)
def test_a_missing_library_says_how_to_get_it(
    library: str, missing: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kernels, "find_spec", lambda name: None if name == missing else object())
    kernels.library_trouble.cache_clear()
    assert words in str(kernels.library_trouble(library, "linear_attention"))
    kernels.library_trouble.cache_clear()


@pytest.mark.parametrize(
    ("capability", "triton", "tilelang", "refused"),
    [
        ((9, 0), "3.6.0", False, True), ((9, 0), "3.6.0", True, False), ((9, 0), "3.7.1", False, False),
        ((9, 0), "3.3.1", False, False), ((8, 0), "3.6.0", False, False),
    ],
)  # fmt: skip
def test_the_backward_pass_that_fla_refuses(
    capability: tuple[int, int], triton: str, tilelang: bool, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(kernels, "find_spec", lambda name: object() if name != "tilelang" or tilelang else None)
    monkeypatch.setattr(kernels, "_triton_version", lambda: triton)
    kernels.library_trouble.cache_clear()
    for name in RECURRENCES:
        trouble = kernels.library_trouble("fla", name, True)
        beyond_help = tilelang and name not in kernels.RIGHT_BY_TILELANG and (capability, triton) == ((9, 0), "3.6.0")
        assert (trouble is not None) == ((refused or beyond_help) and name in kernels.REFUSED_ON_HOPPER)
        assert kernels.library_trouble("fla", name, False) is None
    kernels.library_trouble.cache_clear()


# --- packed sequences -------------------------------------------------------------------------------------------------

PACKED = [[0, 7], [0, 1, 2, 3], [0, 30, 31, 95, 130], [0, 64, 128]]


def packed(recurrence: Recurrence, ends: list[int]) -> tuple[tuple[torch.Tensor, ...], torch.Tensor, torch.Tensor]:
    inputs = recurrence.random_inputs(1, ends[-1], H, K, V, seed=3, dtype=torch.float64)
    return inputs, random_state(shape=(len(ends) - 1, H, K, V)), torch.tensor(ends, dtype=torch.int32)


@every_recurrence
@pytest.mark.parametrize("ends", PACKED, ids=str)
@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
def test_packed_sequences_are_each_alone(recurrence: Recurrence, ends: list[int], backend: str) -> None:
    inputs, state, cu_seqlens = packed(recurrence, ends)
    for start in (None, state):
        o, last = one_after_another(recurrence, inputs, start, ends, "reference")
        found = everything(recurrence, inputs, start, backend, gradients=False, cu_seqlens=cu_seqlens)
        assert_near(found, {"o": o, "last state": last}, 1e-11)


@every_recurrence
def test_gradients_of_packed_sequences(recurrence: Recurrence) -> None:
    ends = PACKED[2]
    inputs, state, cu_seqlens = packed(recurrence, ends)
    gradients = []
    for together in (True, False):
        leaves = tuple(x.clone().requires_grad_() for x in (*inputs, state))
        if together:
            o, last = recurrence(*leaves[:-1], state=leaves[-1], cu_seqlens=cu_seqlens)
        else:
            o, last = one_after_another(recurrence, leaves[:-1], leaves[-1], ends, "reference")
        gradient = torch.autograd.grad(o.sin().sum() + last.cos().sum(), leaves)
        gradients.append({str(n): value for n, value in enumerate(gradient)})
    assert_near(gradients[0], gradients[1], 1e-10)


@every_recurrence
def test_kernels_get_the_borders_only_where_they_take_them(recurrence: Recurrence) -> None:
    inputs, _, cu_seqlens = packed(recurrence, [0, 3, 10])
    seen = []

    def form(*tensors: torch.Tensor, state: None = None, **rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append((tensors[0].shape[:2], list(rest)))
        return recurrence.reference(*tensors, state=state)

    for takes in (True, False):
        fake = Recurrence(
            recurrence.name, recurrence.reference, recurrence.chunked, recurrence.random_gates,
            {"fla": Kernel(form, packed=takes)}, recurrence.unit_keys, recurrence.parameters,
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Recurrence, "trouble", lambda *_: None)
            fake(*inputs, backend="fla", cu_seqlens=cu_seqlens)
    assert seen == [((1, 10), ["cu_seqlens"]), ((2, 7), [])]


@pytest.mark.parametrize("ends", [[0, 5], [1, 9], [0, 5, 5, 9], [0, 6, 5, 9], [9], []], ids=str)
def test_borders_that_cut_nothing_are_refused(ends: list[int]) -> None:
    recurrence = RECURRENCES["linear_attention"]
    inputs = recurrence.random_inputs(1, 9, H, K, V)
    with pytest.raises(UserError, match=r"cu_seqlens .* does not cut"):
        recurrence(*inputs, cu_seqlens=torch.tensor(ends, dtype=torch.int32))
    with pytest.raises(UserError, match="a batch of 2"):
        recurrence(*recurrence.random_inputs(2, 9, H, K, V), cu_seqlens=torch.tensor([0, 9]))


# --- compilation ------------------------------------------------------------------------------------------------------


@every_recurrence
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_the_chunked_form_is_one_graph(recurrence: Recurrence, compiler: str) -> None:
    inputs = recurrence.random_inputs(1, 100, 2, 8, 4)
    expected = everything(recurrence, inputs, None, "torch")
    torch._dynamo.reset()
    compiled = torch.compile(recurrence, fullgraph=True, backend=compiler)
    leaves = [x.clone().requires_grad_() for x in inputs]
    o, last = compiled(*leaves, backend="torch")
    g = torch.Generator().manual_seed(7)
    weights = [torch.randn(x.shape, generator=g, dtype=torch.float64).to(x) for x in (o, last)]
    gradient = torch.autograd.grad([o, last], leaves, weights)
    names = [name for name in expected if name.startswith("d")]
    found = {"o": o.detach(), "last state": last.detach()} | dict(zip(names, gradient, strict=True))
    assert_near(found, expected, 1e-5)


# --- random inputs ----------------------------------------------------------------------------------------------------


@every_recurrence
def test_random_inputs_are_valid_and_follow_the_seed(recurrence: Recurrence) -> None:
    first, again, other = (recurrence.random_inputs(2, 9, H, K, V, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(first, other, strict=True))
    if recurrence.unit_keys:
        torch.testing.assert_close(first[1].norm(dim=-1), torch.ones(2, 9, H))
    if recurrence.parameters:
        assert (first[3] >= 0).all()
        assert (first[4] < 0).all()
    elif recurrence.name not in ("linear_attention", "delta_rule"):
        assert (first[3] <= 0).all()


def test_the_linear_kernel_gets_even_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    recurrence = RECURRENCES["linear_attention"]
    module = pytest.importorskip("fla.ops.linear_attn")

    def fake(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, initial_state: torch.Tensor | None, **_: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert v.shape[-1] % 2 == 0
        return recurrence.reference(q, k, v, state=initial_state)

    for name in ("chunk_linear_attn", "fused_recurrent_linear_attn"):
        monkeypatch.setattr(module, name, fake)
    for width, given in ((5, True), (5, False), (4, True)):
        inputs = recurrence.random_inputs(2, 9, 3, 8, width)
        state = random_state(shape=(2, 3, 8, width), dtype=torch.float32) if given else None
        o, last = recurrence.kernels["fla"].form(*inputs, state=state)
        expected, expected_last = recurrence.reference(*inputs, state=state)
        torch.testing.assert_close(o, expected)
        torch.testing.assert_close(last, expected_last)
