"""The speed of recurrences: what is printed and recorded, and that no figure stands on a wrong result."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models import presets
from infinitevl_bench.models.ops.recurrence import Recurrence
from infinitevl_bench.models.registry import get_mixer, recurrent_mixers
from infinitevl_bench.profiling import ops
from infinitevl_bench.records import read_records


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "WARMUPS", 1)
    monkeypatch.setattr(ops, "REPEATS", 2)


@pytest.mark.usefixtures("quick")
def test_everything_asked_for_is_timed_printed_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows" / "ops.jsonl"
    records = ops.bench_ops_command(None, [96, 32], "cpu", out)
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert found["geometry"] == {"B": 1, "H": 4, "K": 32, "V": 64}
    assert "B 1, H 4, K 32, V 64" in lines[0]
    expected = {
        (mixer, kind, backend, T)
        for mixer in recurrent_mixers()
        for kind in ("forward", "training")
        for backend, T in (("reference", 96), ("torch", 96), ("torch", 32))
    }
    rows = {(row["mixer"], row["pass"], row["backend"], row["context_tokens"]): row for row in found["rows"]}
    assert rows.keys() == expected
    assert len(found["rows"]) == len(expected)
    for (mixer, kind, backend, T), row in rows.items():
        assert len(row["samples_ms"]) == found["repeats"] == 2
        assert min(row["samples_ms"]) <= row["median_ms"] <= max(row["samples_ms"])
        assert row["tokens_per_second"] == pytest.approx(1000 * T / row["median_ms"], rel=1e-3)
        assert row["recurrence"] == get_mixer(mixer).recurrence.name
        if backend == "torch" and T == 96:
            ratio = next(
                r["ratio"] for r in found["speed_ratio_over_reference"] if (r["mixer"], r["pass"]) == (mixer, kind)
            )
            assert ratio == pytest.approx(rows[mixer, kind, "reference", 96]["median_ms"] / row["median_ms"], rel=1e-2)
    assert {(g["mixer"], g["pass"], g["backend"]) for g in found["growth"]} == {
        (mixer, kind, "torch") for mixer in recurrent_mixers() for kind in ("forward", "training")
    }
    assert all(0 < error < 1e-4 for by_backend in found["relative_rms_error"].values() for error in by_backend.values())
    assert read_records(out) == records
    speeds = {(r.mixer, r.extra["pass"], r.extra["backend"], r.context) for r in records if r.unit == "tokens/s"}
    assert speeds == expected
    for record in records:
        assert (record.artifact, record.source, record.device, record.n) == ("bench_ops", "measured", "cpu", 2)
    assert {r.metric for r in records} == {"tokens_per_second", "speed_ratio", "growth_exponent"}


def test_the_geometry_is_that_of_preset_tiny() -> None:
    config = presets.get_preset("tiny").text_config
    assert get_mixer("gated_deltanet").geometry(config) == (128, ops.H, ops.K, ops.V)


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
    monkeypatch.setattr(ops, "interleaved", lambda *arguments: timed.append(arguments))
    with pytest.raises(
        UserError, match=f"no speed is shown: {what} of gated_linear_attention by backend torch"
    ) as caught:
        ops.bench_ops_command(["gla"], [70], "cpu", tmp_path / "ops.jsonl")
    assert caught.value.exit_code == 1
    assert not timed
    assert not (tmp_path / "ops.jsonl").exists()
    assert capsys.readouterr().out == ""


def test_a_form_that_is_wrong_only_when_it_is_long_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    recurrence = get_mixer("mamba2").recurrence

    def form(q: torch.Tensor, *rest: torch.Tensor, state: torch.Tensor | None = None) -> Any:
        return recurrence.chunked(q * (1 + (q.shape[1] > 100)), *rest, state=state)

    broken = dataclasses.replace(recurrence, chunked=form)
    ops.check_against_reference(broken, ["torch"], [64], 64, "cpu")
    with pytest.raises(UserError, match="at 130 tokens"):
        ops.check_against_reference(broken, ["torch"], [64, 130], 64, "cpu")


def test_the_exponent_is_that_of_the_times() -> None:
    timings = [
        ops.Timing("gla", "r", "torch", kind, T, [scale * T**p])
        for kind, scale, p in (("forward", 0.1, 1.0), ("training", 0.3, 2.0))
        for T in (64, 128, 1024)
    ]
    found = ops.growth_exponents(timings)
    assert found["gla", "forward", "torch"] == pytest.approx(1.0)
    assert found["gla", "training", "torch"] == pytest.approx(2.0)
    assert ops.growth_exponents(timings[:1]) == {}


def test_samples_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "WARMUPS", 1)
    monkeypatch.setattr(ops, "REPEATS", 2)
    order: list[str] = []
    cases = [(ops.Timing("m", "r", name, "forward", 8), lambda name=name: order.append(name)) for name in "ab"]
    ops.interleaved(cases, "cpu")
    assert "".join(order) == "ababab"
    assert [len(timing.samples_ms) for timing, _ in cases] == [2, 2]


@pytest.mark.parametrize("length", [0, -5])
def test_lengths_below_one_are_refused(length: int) -> None:
    with pytest.raises(UserError, match=f"length {length} is no number of tokens") as caught:
        ops.bench_ops_command(["gla"], [64, length], "cpu", None)
    assert caught.value.exit_code == 2


def test_a_folder_is_no_file_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        ops.bench_ops_command(["gla"], [64], "cpu", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mixer", "glaa"], "did you mean gla?"),
        (["--length", "0"], "--length 1 or more"),
        (["--device", "gpu"], "use auto, cpu or cuda"),
    ],
    ids=["mixer", "length", "device"],
)
def test_a_mistake_is_one_line(arguments: list[str], words: str) -> None:
    command = [sys.executable, "-m", "infinitevl_bench.cli", "bench", "ops", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.usefixtures("quick")
def test_names_are_taken_once_whatever_they_are_called(capsys: pytest.CaptureFixture[str]) -> None:
    records = ops.bench_ops_command(["mamba", "mamba2"], [16], "cpu", None)
    assert {record.mixer for record in records} == {"mamba2"}
    assert len([r for r in records if r.metric == "tokens_per_second"]) == 4
    captured = capsys.readouterr()
    # One length has no growth, and is not shown as if it had.
    assert json.loads(captured.out.splitlines()[-1])["growth"] == []
    assert "p of time" not in captured.out


@pytest.mark.gpu
@pytest.mark.usefixtures("quick")
def test_kernels_are_timed_on_an_accelerator() -> None:
    records = ops.bench_ops_command(["linear_attention"], [256, 128], "cuda", None)
    assert {r.extra["backend"] for r in records} == {"reference", "torch", "fla"}
