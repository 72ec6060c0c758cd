"""The measurement of the stages: its operations against a count by torch, its lines, and the sequence it makes up."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.presets import get_preset
from infinitevl_bench.records import read_records
from infinitevl_bench.training.batch import AnswerLoss
from infinitevl_bench.training.full_size import generated_sample, main, stage_flops, stage_records
from infinitevl_bench.training.packed import pack_samples
from infinitevl_bench.training.sft import train_decoder
from torch.utils.flop_counter import FlopCounterMode

CONTEXT, SIDE = 256, 56
STAGES = ["distill-layers", "sft"]


def sequence(model: Any) -> dict[str, torch.Tensor]:
    return generated_sample(model.config, CONTEXT, SIDE, seed=0)


def test_half_of_a_sequence_is_pictures_and_none_of_the_text_is(make_model: Callable[..., Any]) -> None:
    model = make_model("SL")
    sample = sequence(model)
    visual = int(sample["mm_token_type_ids"].sum())
    assert len(sample["input_ids"]) == CONTEXT
    assert 0.3 * CONTEXT < visual <= CONTEXT / 2
    assert visual * 4 == len(sample["pixel_values"]) == int(sample["image_grid_thw"].prod(dim=1).sum())
    batch = pack_samples([sample], model.model.get_rope_index)
    assert AnswerLoss(model)(*batch).isfinite()


def test_a_context_that_holds_no_picture_is_refused() -> None:
    with pytest.raises(UserError, match="use --context 516 or more"):
        generated_sample(get_preset("tiny"), 512, 448, seed=0)
    assert len(generated_sample(get_preset("tiny"), 516, 448, seed=0)["image_grid_thw"]) == 1


def test_the_operations_are_those_that_torch_counts(make_model: Callable[..., Any]) -> None:
    # A model of attention alone: torch cannot see into the recurrences, and counts every pair of a window as seen.
    model = make_model("F")
    train_decoder(model)
    sample = sequence(model)
    batch = pack_samples([sample], model.model.get_rope_index)
    with FlopCounterMode(display=False) as counter:
        AnswerLoss(model)(*batch).backward()
    answers = int((sample["labels"] != -100).sum())
    visual = int(sample["mm_token_type_ids"].sum())
    ours = stage_flops("sft", model, None, CONTEXT, visual, answers)
    # The tower's attention is left out of ours; half of the pairs of causal attention are not in torch's.
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.15)


def test_a_line_a_stage_is_printed_and_its_records_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "lines.jsonl"
    options = ["--preset", "tiny", "--context", "128", "--steps", "2", "--precision", "no", "--device", "cpu"]
    records = main([*options, "--out", str(out)])
    assert read_records(out) == records
    assert [line.split(":")[0].split(", ")[1] for line in capsys.readouterr().out.splitlines()] == STAGES
    assert [(record.extra["stage"], record.metric) for record in records] == [
        (stage, metric) for stage in STAGES for metric in ("tokens_per_second", "mfu")
    ]
    assert {record.extra["weights"] for record in records} == {"random"}
    assert all(record.value > 0 for record in records)
    assert all(record.value < 1 for record in records if record.metric == "mfu")
    told = json.loads(out.with_suffix(".environments.json").read_text())
    assert {record.run_id for record in records} == set(told)
    assert all(torch.__version__.startswith(one["packages"]["torch"]) for one in told.values())


@pytest.mark.parametrize(("preset", "mixer"), [("infinitevl-4b", "gla"), ("qwen2.5-vl-3b", None)])
def test_records_say_which_layers_ran(preset: str, mixer: str | None) -> None:
    measures = ("tokens_per_second", "mfu", "tflops", "of_matmul_rate", "nominal_tflops", "matmul_tflops")
    row: dict[str, Any] = dict.fromkeys(measures, 0.5) | {
        "preset": preset, "mixer": "gla", "pattern": get_preset(preset).text_config.pattern, "stage": "sft",
        "weights": "random", "precision": "bf16", "context": 128, "accumulate": 1, "visual_tokens": 64,
        "flops_a_sequence": 1e9, "device": "a card", "of_steps": [0.5], "losses": [1.0], "peak_memory_gb": None,
    }  # fmt: skip
    found = {(record.mixer, record.pattern) for record in stage_records(row)}
    assert found == {(mixer, "SLLL" if mixer else "F")}


@pytest.mark.gpu
def test_bfloat16_trains_on_an_accelerator() -> None:
    options = ["--preset", "small", "--context", "1024", "--steps", "4", "--device", "cuda"]
    for precision in ("bf16", "pure_bf16"):
        for record in main([*options, "--precision", precision]):
            losses = [float(one) for one in str(record.extra["losses"]).split()]
            assert losses[-1] < losses[0]
