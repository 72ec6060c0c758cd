"""Models profiled on the CPU: what is recorded, what is skipped, what is refused, what a wrong model meets."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.fast.slots import KeyValueSlots
from infinitevl_bench.models.graph import GraphedDecoder
from infinitevl_bench.models.presets import get_preset
from infinitevl_bench.profiling import checks, decode, memory, prefill, session, streaming, training
from infinitevl_bench.profiling.command import PROFILES, plan, profile_command
from infinitevl_bench.profiling.models import parse_reference, profiled_model, random_model, resolve_dtype
from infinitevl_bench.profiling.request import Request
from infinitevl_bench.profiling.session import Cell, DoesNotFitError, Session, paths_of, protocols_of
from infinitevl_bench.records import Record, measured_records

PAIR = ["tiny", "tiny:F"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "STEPS", {"graph": 7, "eager": 7})
    monkeypatch.setattr(decode, "WARMUPS", {"graph": 1, "eager": 1})
    monkeypatch.setattr(streaming, "TIMED_FRAMES", {"graph": 2, "eager": 2})
    monkeypatch.setattr(prefill, "REPEATS", 2)
    monkeypatch.setattr(training, "STEPS", 2)
    monkeypatch.setattr(training, "WARMUPS", 1)


def run(tmp_path: Path, what: str, **options: Any) -> list[Record]:
    return profile_command(Request(what, device="cpu", runs=tmp_path, **({"models": PAIR} | options)))


def measured_of(what: str, records: list[Record]) -> list[tuple[Any, ...]]:
    return sorted((r.pattern, r.extra["path"], r.extra.get("protocol"), r.context, r.frames) for r in records)


def test_a_decode_step_is_recorded_under_both_protocols(tmp_path: Path) -> None:
    records = run(tmp_path, "decode", contexts=[32, 64])
    expected = [("SLLL", "graph", protocol, T, None) for protocol in ("matched", "as-published") for T in (32, 64)]
    expected += [("F", "graph", "matched", T, None) for T in (32, 64)]
    expected += [("F", "eager", "as-published", T, None) for T in (32, 64)]
    assert measured_of("decode", records) == sorted(expected)
    for record in records:
        extra = record.extra
        samples = [float(sample) for sample in str(extra["samples_ms"]).split()]
        assert (record.metric, record.unit, record.n, len(samples)) == ("latency_ms", "ms", 7, 7)
        assert min(samples) <= record.value * 1.001
        assert record.value <= max(samples) * 1.001
        assert extra["ratio_to_floor"] == pytest.approx(record.value / float(str(extra["floor_ms"])))
        assert (record.device, extra["captured"], extra["weights"]) == ("cpu", False, "random")
        assert extra["check_decode"] < 1e-3
        assert extra["ceiling_copy_gb_per_s"] > 0
        assert record.ci_low is not None
        assert record.ci_high is not None
        assert record.ci_low <= record.value <= record.ci_high
    hybrid = {(r.context, r.value) for r in records if r.pattern == "SLLL"}
    assert len(hybrid) == 2, "one measurement stands under both protocols"


def test_sixteen_bits_are_held_to_what_the_model_itself_loses_by_them(tmp_path: Path) -> None:
    for record in run(tmp_path, "decode", contexts=[32], dtype="bfloat16"):
        assert record.extra["dtype"] == "bfloat16"
        decode_error, noise = (float(str(record.extra[name])) for name in ("check_decode", "check_decode_own"))
        assert 1e-4 < decode_error <= max(2e-2, 2 * noise)


def test_finished_cells_are_skipped_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path, "decode", contexts=[32], models=["tiny"])
    assert measured_records(tmp_path)[-len(first) :] == first
    measured: list[Cell] = []
    cells_of, real = PROFILES["decode"]
    watched = cells_of, lambda session, cell: measured.append(cell) or real(session, cell)
    monkeypatch.setitem(PROFILES, "decode", watched)
    both = run(tmp_path, "decode", contexts=[32, 48], models=["tiny"])
    assert [cell.arguments["context"] for cell in measured] == [48]
    assert both[: len(first)] == first
    assert run(tmp_path, "decode", contexts=[32, 48], models=["tiny"], budget_s=0.0) == both
    assert run(tmp_path, "decode", contexts=[32, 56], models=["tiny"], budget_s=0.0) == first
    anew = run(tmp_path, "decode", contexts=[32], models=["tiny"], again=True)
    assert len(measured) == 2
    assert anew != first


def test_a_prefill_of_any_length(tmp_path: Path) -> None:
    records = run(tmp_path, "prefill", contexts=[10, 40], chunk=16)
    assert {r.metric for r in records} == {"prefill_tokens_per_second"}
    for record in records:
        assert record.value == pytest.approx(1000 * (record.context or 0) / float(str(record.extra["median_ms"])))


def test_a_stream_is_watched_and_counted(tmp_path: Path) -> None:
    records = run(tmp_path, "stream", frames=[1, 3, 800], frame_size=56, models=["tiny:F"])
    assert {(r.extra["protocol"], r.frames) for r in records if r.artifact == "fig4_streaming"} == {
        (protocol, frames) for protocol in ("matched", "as-published") for frames in (1, 3, 800)
    }
    # Figure 1's bar is the streaming speed at the end of the published curve.
    assert {r.frames for r in records if r.artifact == "fig1"} == {800}
    run_through = run(tmp_path, "stream", frames=[1, 3], frame_size=56, models=["tiny"])
    assert {r.extra["past"] for r in run_through} == {"run"}
    for record in run_through:
        assert record.value == pytest.approx(1000 / float(str(record.extra["median_ms"])))
        assert record.extra["tokens_per_frame"] == 4
        assert float(str(record.extra["check_stream_layer_4"])) < 1e-3
        assert float(str(record.extra["check_stream_layer_7"])) < 1e-3


def test_memory_is_measured_in_a_process_of_its_own_and_the_cache_is_what_is_counted(tmp_path: Path) -> None:
    records = run(tmp_path, "memory", contexts=[300], models=["tiny"])
    peak = next(r for r in records if r.metric == "peak_memory_gb")
    assert 0.1 < peak.value < 8
    assert peak.extra["cache_ratio"] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("reference", "expected"), [("infinitevl-4b", 51_904_512), ("qwen2.5-vl-3b", 603_979_776)])
def test_remembered_elements_are_the_published_counts(reference: str, expected: int) -> None:
    with torch.device("meta"):
        model = random_model(get_preset(reference), "meta", torch.bfloat16)
        decoder = memory.FixedCache(model.model.language_model, 1, memory.CACHE_CONTEXT)
    assert memory.remembered_elements(decoder) == expected


def test_training_throughput(tmp_path: Path) -> None:
    records = run(tmp_path, "training", contexts=[64])
    assert {r.pattern for r in records} == {"SLLL", "F"}
    for record in records:
        extra = record.extra
        assert record.value == pytest.approx(86_400_000 * 64 / float(str(extra["median_ms"])))
        assert extra["images"] == 2
        assert extra["last_loss"] != extra["first_loss"], "nothing was trained"
        assert 0 < float(str(extra["mfu"])) < 1


def test_the_loss_in_pieces_is_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "LOSS_CHUNK", 5)
    hidden, head = torch.randn(2, 9, 6, requires_grad=True), torch.randn(11, 6)
    ids = torch.randint(0, 11, (2, 9))
    expected = torch.nn.functional.cross_entropy((hidden[:, :-1] @ head.T).flatten(0, 1), ids[:, 1:].flatten())
    found = training.chunked_loss(hidden, head, ids)
    torch.testing.assert_close(found, expected)
    for one, other in zip(torch.autograd.grad(found, hidden), torch.autograd.grad(expected, hidden), strict=True):
        torch.testing.assert_close(one, other)


def test_protocols() -> None:
    assert paths_of(["matched", "as-published"], False) == ["graph"]
    assert paths_of(["matched", "as-published"], True) == ["graph", "eager"]
    assert paths_of(["as-published"], True) == ["eager"]
    assert protocols_of("graph", False) == ("matched", "as-published")
    assert protocols_of("graph", True) == ("matched",)
    assert protocols_of("eager", True) == ("as-published",)
    assert protocols_of("eager", False) == ("eager",)


# --- what memory does not hold ---------------------------------------------------------------------------


def test_what_does_not_fit_is_estimated_before_anything_is_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = 1e9
    monkeypatch.setattr(session, "free_bytes", lambda device: small)
    records = run(tmp_path, "decode", contexts=[64, 10_000_000], models=["tiny:F"], graph=True)
    measured, estimated = records
    assert "status" not in measured.extra
    assert estimated.extra["status"] == "estimate"
    assert "needs about" in str(estimated.extra["reason"])
    floor = float(str(estimated.extra["floor_ms"]))
    assert estimated.value == pytest.approx(floor * float(str(measured.extra["ratio_to_floor"])))
    assert estimated.n is None
    peak = run(tmp_path, "memory", contexts=[10_000_000], models=["tiny:F"])[0]
    assert peak.extra["status"] == "estimate"
    assert peak.value > 10_000_000 * 8 * 2 * 2 * 32 * 4 / 1e9


def test_running_out_of_memory_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(decode, "_samples", exhausted)
    records = run(tmp_path, "decode", contexts=[64], models=["tiny:F"], graph=True)
    assert [(r.value, r.extra["status"]) for r in records] == [(0.0, "out_of_memory")]
    monkeypatch.setattr(streaming, "_graphed", exhausted)
    records = run(tmp_path, "stream", frames=[2, 5], models=["tiny:F"], graph=True)
    assert [(r.frames, r.extra["status"]) for r in records] == [(2, "out_of_memory")]


# --- no speed of a wrong model ---------------------------------------------------------------------------


def frozen_window(self: KeyValueSlots, *arguments: Any) -> torch.Tensor:
    """The mistake of the released code: new tokens are written, but what was there at capture is attended to."""
    *given, seen, scale = arguments
    return attend_one(self, *given, seen.clamp(max=4), scale)


def forgets(self: KeyValueSlots, *arguments: Any) -> torch.Tensor:
    self.values[:, :, 1:3] = 0
    return attend_one(self, *arguments)


attend_one = KeyValueSlots.attend_one


@pytest.mark.parametrize("broken", [frozen_window, forgets])
@pytest.mark.parametrize("reference", PAIR)
def test_no_speed_of_a_decoder_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Any, reference: str
) -> None:
    monkeypatch.setattr(KeyValueSlots, "attend_one", broken)
    with pytest.raises(UserError, match="no speed of tiny is recorded") as caught:
        run(tmp_path, "decode", contexts=[32], models=[reference])
    assert caught.value.exit_code == 1
    assert not list(tmp_path.glob("*/result.json"))


@pytest.mark.parametrize("broken", [frozen_window, forgets])
@pytest.mark.parametrize("reference", PAIR)
def test_slots_that_are_not_attended_to_are_found_by_themselves(
    monkeypatch: pytest.MonkeyPatch, broken: Any, reference: str
) -> None:
    profiled = profiled_model(reference, "cpu", torch.float32)
    checks.check_window(profiled, use_graph=False)
    monkeypatch.setattr(KeyValueSlots, "attend_one", broken)
    with pytest.raises(UserError, match="does not attend to slot"):
        checks.check_window(profiled, use_graph=False)


def test_no_speed_of_a_stream_that_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = streaming.StreamingSession.push_patches

    def push(self: Any, patches: torch.Tensor, grid: tuple[int, int]) -> None:
        self.decoder.reset()
        real(self, patches, grid)

    monkeypatch.setattr(streaming.StreamingSession, "push_patches", push)
    with pytest.raises(UserError, match="a stream leaves another state"):
        run(tmp_path, "stream", frames=[2], models=["tiny"])


# --- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "options", "words"),
    [
        ("decode", {"contexts": [0]}, "use 1 or more"),
        ("decode", {"protocol": "mathced"}, "use matched, as-published or both"),
        ("decode", {"models": ["tinny"]}, "did you mean tiny"),
        ("decode", {"models": ["tiny:SLX"]}, "must be made of S"),
        ("decode", {"dtype": "bf16"}, "did you mean bfloat16|known: bfloat16"),
        ("decode", {"device": "gpu"}, "use auto, cpu or cuda"),
        ("prefill", {"chunk": 1}, "use --chunk 2 or more"),
        ("stream", {"frame_size": 450}, "use --frame-size 448 or 476"),
        ("stream", {"frame_size": 0}, "use --frame-size 28"),
        ("stream", {"frame_size": 13}, "use --frame-size 28 or 56"),
        ("stream", {"batch": 2}, "leave --batch out"),
    ],
)
def test_mistakes_are_said_before_anything_is_made(
    tmp_path: Path, what: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        profile_command(Request(what, **({"device": "cpu", "runs": tmp_path} | options)))
    assert caught.value.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_references() -> None:
    assert parse_reference("tiny:slll") == ("tiny", "SLLL")
    assert parse_reference("runs/model") == ("runs/model", None)
    assert resolve_dtype(None, "cpu") == torch.float32


def test_every_kind_has_a_plan_for_both_devices() -> None:
    for what in ("decode", "prefill", "stream", "memory", "training"):
        for device in ("cpu", "cuda"):
            quick, whole = (plan(Request(what, quick=quick), device)[0] for quick in (True, False))
            assert 0 < len(quick) <= len(whole)
    contexts = {cell.arguments["context"] for cell in plan(Request("decode"), "cuda")[0]}
    # What claim C4 is decided by: about 62K and 360K tokens, and a span from 8K to 256K.
    assert all(any(abs(T - wanted) <= 0.1 * wanted for T in contexts) for wanted in (62_000, 360_000, 8192, 262_144))


def test_random_weights_are_made_in_their_type_and_leave_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    model = random_model(get_preset("tiny"), "cpu", torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.random.get_rng_state(), before)
    decoder = GraphedDecoder(model.eval())
    assert bool(decoder.prefill(torch.ones(1, 5, dtype=torch.long)).isfinite().all())


def test_a_session_that_lacks_memory_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "free_bytes", lambda device: 2e9)
    with pytest.raises(DoesNotFitError, match=r"needs about 40\.0 GB, 2\.0 GB are free"):
        Session("cpu", torch.float32, tmp_path).require(40e9)


def test_the_worker_of_a_memory_cell_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = memory.measure_here({"model": "tiny:F", "context": 40, "device": "cpu", "batch": 1, "dtype": "float32"})
    assert json.loads(json.dumps(found)) == found
    assert found["cache_elements"] == 8 * 2 * 2 * 32 * 40


@pytest.mark.gpu
def test_everything_runs_on_an_accelerator(tmp_path: Path) -> None:
    for what, options in {
        "decode": {"contexts": [64, 4096]}, "prefill": {"contexts": [200], "chunk": 64}, "memory": {"contexts": [300]},
        "stream": {"frames": [1, 4], "frame_size": 112}, "training": {"contexts": [64]},
    }.items():  # fmt: skip
        request = Request(what, models=PAIR, device="cuda", runs=tmp_path, dtype="bfloat16", **options)
        records = profile_command(request)
        assert records
        assert all("status" not in record.extra for record in records)
        assert all(record.device != "cpu" for record in records)
