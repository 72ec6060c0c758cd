"""The speed of operations: what is printed and recorded, and that no figure stands on a wrong result."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.ops.recurrence import Recurrence
from infinitevl_bench.models.registry import get_mixer, recurrent_mixers
from infinitevl_bench.profiling import timing
from infinitevl_bench.profiling.ops import attention, command, geometry, layers
from infinitevl_bench.profiling.ops.check import check_subject
from infinitevl_bench.profiling.ops.command import bench_ops_command
from infinitevl_bench.profiling.ops.contenders import Contender, Subject, results
from infinitevl_bench.profiling.ops.measure import Timing, growth_exponents, speed_ratios
from infinitevl_bench.profiling.ops.recurrences import recurrence_subject
from infinitevl_bench.profiling.timing import Samples
from infinitevl_bench.records import read_records

TINY = geometry.get_geometry("tiny")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "WARMUPS", 1)
    monkeypatch.setattr(timing, "REPEATS", 2)
    monkeypatch.setattr(timing, "MOST_CALLS", 1)


def last_line(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.usefixtures("quick")
def test_everything_asked_for_is_timed_printed_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows" / "ops.jsonl"
    records = bench_ops_command(None, [96, 32], "cpu", out)
    found = last_line(capsys)
    assert found["geometry"] == {"name": "tiny", "B": 1, "H": 4, "K": 32, "V": 64, "D": 128}
    expected = {
        ("recurrence", mixer, what, backend, T)
        for mixer in recurrent_mixers()
        for what in ("forward", "training")
        for backend in ("reference", "torch")
        for T in (96, 32)
    }
    expected |= {("recurrence", mixer, "decode", "reference", 1) for mixer in recurrent_mixers()}
    expected |= {
        ("attention", name, what, "torch", T)
        for name in ("full_attention", "sliding_attention")
        for what in ("forward", "training")
        for T in (96, 32)
    }
    delta = {(r["mixer"], r["backend"]) for r in found["rows"] if r["subject"] == "gated_delta_rule"}
    assert ("gated_deltanet", "transformers") in delta
    rows = {(r["scope"], r["mixer"], r["pass"], r["backend"], r["context_tokens"]): r for r in found["rows"]}
    assert len(rows) == len(found["rows"])
    assert {key for key in rows if key[3] != "transformers"} == expected
    for (_, _, _, _, T), row in rows.items():
        assert len(row["samples_ms"]) == 2
        assert min(row["samples_ms"]) <= row["median_ms"] <= max(row["samples_ms"])
        assert row["tokens_per_second"] == pytest.approx(1000 * T / row["median_ms"], rel=1e-2)
        assert row["ratio_to_floor"] > 1
    assert all(0 <= error < 1e-4 for by_name in found["relative_rms_error"].values() for error in by_name.values())
    assert found["notes"] == []
    assert read_records(out) == records
    assert {r.metric for r in records} == {"tokens_per_second", "decode_step_ms", "speed_ratio", "growth_exponent"}
    for record in records:
        assert (record.artifact, record.source, record.device, record.n) == ("bench_ops", "measured", "cpu", 2)
        assert record.extra["ceiling_copy_gb_per_s"] == found["ceiling_copy_gb_per_s"] > 0


def wrong_output(recurrence: Recurrence) -> Any:
    return lambda *x, state=None: (
        1.01 * recurrence.chunked(*x, state=state)[0],
        recurrence.chunked(*x, state=state)[1],
    )


def wrong_state(recurrence: Recurrence) -> Any:
    return lambda *x, state=None: (recurrence.chunked(*x, state=state)[0], recurrence.chunked(*x, state=state)[1] + 1)


def not_a_number(recurrence: Recurrence) -> Any:
    return lambda *x, state=None: tuple(y * torch.nan for y in recurrence.chunked(*x, state=state))


def wrong_gradient(recurrence: Recurrence) -> Any:
    def form(q: torch.Tensor, k: torch.Tensor, *rest: torch.Tensor, state: torch.Tensor | None = None) -> Any:
        # The value of k, with only half of its gradient.
        return recurrence.chunked(q, k.detach() + (k - k.detach()) / 2, *rest, state=state)

    return form


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("broken", "what"),
    [
        (wrong_output, "the output"),
        (wrong_state, "the last state"),
        (not_a_number, "the output"),
        (wrong_gradient, "the gradient of k"),
    ],
)
def test_no_speed_of_a_wrong_form(
    broken: Any, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixer = get_mixer("gla")
    monkeypatch.setattr(mixer, "recurrence", dataclasses.replace(mixer.recurrence, chunked=broken(mixer.recurrence)))
    timed: list[Any] = []
    monkeypatch.setattr(command, "time_subject", lambda *arguments: timed.append(arguments) or [])
    with pytest.raises(UserError, match=f"no speed is shown: {what} of gated_linear_attention by torch") as caught:
        bench_ops_command(["gla"], [70], "cpu", tmp_path / "ops.jsonl")
    assert caught.value.exit_code == 1
    assert not timed
    assert not (tmp_path / "ops.jsonl").exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("limit", [16384, 70], ids=["reference", "chunked in two"])
def test_a_form_that_is_wrong_only_when_it_is_long_is_found(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    mixer = get_mixer("mamba2")
    recurrence = mixer.recurrence

    def form(q: torch.Tensor, *rest: torch.Tensor, state: torch.Tensor | None = None) -> Any:
        return recurrence.chunked(q * (1 + (q.shape[1] > 100)), *rest, state=state)

    monkeypatch.setattr(mixer, "recurrence", dataclasses.replace(recurrence, chunked=form))
    subject = recurrence_subject("mamba2", dataclasses.replace(TINY, reference_limit=limit), "cpu")
    subject.contenders[:] = [one for one in subject.contenders if one.name == "torch"]
    check_subject(subject, [64], 64)
    with pytest.raises(UserError, match="at 130 tokens"):
        check_subject(subject, [64, 130], 64)


def a_subject(*contenders: Contender) -> Subject:
    return Subject(
        "recurrence", "gla", "doubling", lambda T: (torch.ones(1, T),), ("the output",), ("x",),
        lambda what, T: recurrence_subject("gla", TINY, "cpu").work(what, T), list(contenders),
        lambda x, T, gradients: results(a_subject(), lambda y: (2 * y,), x, gradients), {torch.float32: 1e-4},
    )  # fmt: skip


def test_a_library_that_is_wrong_or_fails_is_left_out_and_named() -> None:
    def fails(x: torch.Tensor) -> Any:
        raise ImportError("no such kernel\nsecond line")

    worst, refused = check_subject(
        a_subject(
            Contender("right", lambda x: (x + x,)),
            Contender("wrong", lambda x: (3 * x,), ours=False),
            Contender("failing", fails, ours=False),
        ),
        [4],
        4,
    )
    assert worst == {"right": 0.0}
    assert "the output of doubling by wrong is off by 5.0e-01" in refused["wrong"]
    assert refused["failing"] == "ImportError: no such kernel"


def a_timing(backend: str, ms: float, T: int = 64, what: Any = "forward", scope: str = "recurrence") -> Timing:
    label = "gla" if scope == "recurrence" else "full_attention"
    work = recurrence_subject("gla", TINY, "cpu").work(what, T)
    return Timing(label, scope, label, backend, what, T, Samples((ms,)), work)


def test_the_exponent_is_that_of_the_times() -> None:
    timings = [
        a_timing("torch", scale * T**p, T, what)
        for what, scale, p in (("forward", 0.1, 1.0), ("training", 0.3, 2.0))
        for T in (64, 128, 1024)
    ]
    found = growth_exponents(timings)
    assert found["gla", "recurrence", "forward", "torch"] == pytest.approx(1.0)
    assert found["gla", "recurrence", "training", "torch"] == pytest.approx(2.0)
    assert growth_exponents(timings[:1]) == {}


def test_ratios_are_of_equal_lengths_and_passes() -> None:
    ours, other = a_timing("torch", 2.0), a_timing("reference", 8.0)
    longer, softmax = a_timing("reference", 1.0, 128), a_timing("torch", 6.0, scope="attention")
    found = speed_ratios([ours, other, longer, softmax])
    assert found == {
        (ours, "reference"): 4.0,
        (ours, "full_attention"): 3.0,
        (other, "full_attention"): 0.75,
    }


def test_attention_agrees_with_its_definition_and_windows_bound_its_work() -> None:
    for subject in attention.attention_subjects(TINY, "cpu"):
        worst, refused = check_subject(subject, [32, 96], 96)
        assert worst["torch"] < 1e-5
        assert refused == {}
    full, window = (subject.work("forward", 4096).flops for subject in attention.attention_subjects(TINY, "cpu"))
    assert full / window == pytest.approx(4096 * 4097 / 2 / (16 * 4096 - 15 * 16 / 2))


def test_a_layer_is_timed_with_its_decode_step(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    bench_ops_command(["gla"], [16], "cpu", None, scopes=["layer"])
    rows = {row["pass"]: row for row in last_line(capsys)["rows"]}
    assert rows.keys() == {"forward", "training", "decode"}
    step = layers.decode_step("gla", TINY, "cpu", graph=False)
    layer = layers.make_layer("gla", TINY, "cpu", layer_idx=1)
    assert sum(p.numel() for p in layer.parameters()) * 4 < layers.layer_work(layer, TINY, "decode", 1).bytes
    first, second = step(), step()
    assert not torch.equal(first, second), "the state does not move on"


def test_the_geometries_are_those_of_the_presets() -> None:
    assert (TINY.D, TINY.H, TINY.K, TINY.V) == (128, 4, 32, 64)
    full = geometry.get_geometry("infinitevl-4b")
    assert (full.D, full.H, full.K, full.V, full.window) == (2048, 16, 128, 256, 8192)
    inputs = full.recurrence_inputs(get_mixer("gla").recurrence, geometry.DRAWN + 3, "cpu")
    assert torch.equal(inputs[0][:, :3], inputs[0][:, -3:])


@pytest.mark.parametrize("length", [0, -5])
def test_lengths_below_one_are_refused(length: int) -> None:
    with pytest.raises(UserError, match=f"length {length} is no number of tokens") as caught:
        bench_ops_command(["gla"], [64, length], "cpu", None)
    assert caught.value.exit_code == 2


def test_a_folder_is_no_file_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        bench_ops_command(["gla"], [64], "cpu", tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"geometry": "infinitevl"}, "did you mean infinitevl-4b"),
        ({"mixers": ["glaa"]}, "did you mean gla"),
        ({"device": "gpu"}, "use auto, cpu or cuda"),
        ({"backends": ["troch"]}, "did you mean torch"),
        ({"scopes": ["layers"]}, "did you mean layer"),
    ],
)
def test_unknown_names_have_near_ones(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        bench_ops_command(**({"mixers": ["gla"], "lengths": [64], "device": "cpu"} | options))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize(
    ("mixer", "backend", "words"),
    [
        ("gla", "fla", "backend fla cannot run gated_linear_attention .torch sees no CUDA device"),
        ("gla", "mamba_ssm", "it has no kernel for it"),
        ("gla", "fla-layer", "backend fla-layer has no part in scope recurrence, attention on cpu"),
        ("identity", None, "identity has no recurrence .--scope layer"),
    ],
)
def test_nothing_to_time_says_why(mixer: str, backend: str | None, words: str) -> None:
    with pytest.raises(UserError, match=f"nothing was timed: .*{words}") as caught:
        bench_ops_command([mixer], [16], "cpu", None, backends=backend and [backend])
    assert caught.value.exit_code == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.usefixtures("quick")
def test_a_backend_asked_for_that_times_nothing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    bench_ops_command(["gla"], [16], "cpu", None, backends=["torch", "fla"])
    notes = last_line(capsys)["notes"]
    assert any("backend fla timed nothing" in note and "no CUDA device" in note for note in notes)


@pytest.mark.usefixtures("quick")
def test_names_are_taken_once_whatever_they_are_called(capsys: pytest.CaptureFixture[str]) -> None:
    records = bench_ops_command(["mamba", "mamba2"], [16], "cpu", None, backends=["torch"])
    assert {record.mixer for record in records} == {"mamba2"}
    assert len([r for r in records if r.metric == "tokens_per_second"]) == 2
    # One length has no growth, and is not shown as if it had.
    assert last_line(capsys)["growth"] == []


@pytest.mark.gpu
@pytest.mark.usefixtures("quick")
def test_kernels_layers_and_graphs_are_timed_on_an_accelerator(capsys: pytest.CaptureFixture[str]) -> None:
    records = bench_ops_command(["gated_deltanet"], [256], "cuda", None, geometry="tiny")
    found = last_line(capsys)
    assert found["notes"] == []
    backends = {record.extra["backend"] for record in records}
    assert {"reference", "torch", "torch-graph", "fla", "fla-graph", "ours", "ours-graph", "fla-layer"} <= backends
