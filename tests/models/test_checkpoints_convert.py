"""The `convert` command: students of a teacher, and the published format both ways."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.checkpoints import load_model, save_model
from infinitevl_bench.models.convert import convert_command
from infinitevl_bench.models.hybrid import HybridVLForConditionalGeneration
from infinitevl_bench.models.processor import load_processor
from infinitevl_bench.models.published import PIXEL_LIMITS
from infinitevl_bench.models.registry import mixer_names

ASKED: dict[str, Any] = {"pattern": None, "mixer": None, "window": None, "to": "ours", "seed": 0}


@pytest.fixture
def teacher(tmp_path: Path, make_model: Callable[..., Any]) -> Path:
    save_model(make_model("F", depth=8).bfloat16(), load_processor(), tmp_path / "teacher", "A test's.")
    return tmp_path / "teacher"


@pytest.mark.parametrize("mixer", mixer_names())
def test_a_student_inherits_all_but_its_mixers(mixer: str, teacher: Path, tmp_path: Path) -> None:
    convert_command(str(teacher), tmp_path / "student", **ASKED | {"pattern": "SLLL", "mixer": mixer, "window": 64})
    student = HybridVLForConditionalGeneration.from_pretrained(tmp_path / "student", dtype="auto")
    text = student.config.text_config
    assert (text.pattern, text.mixer, text.sliding_window) == ("SLLL", mixer, 64)
    assert student.dtype == torch.bfloat16
    theirs = HybridVLForConditionalGeneration.from_pretrained(teacher, dtype="auto").state_dict()
    for name, tensor in student.state_dict().items():
        if name in theirs and theirs[name].shape == tensor.shape and ".self_attn." not in name:
            assert torch.equal(tensor, theirs[name]), name
    if mixer == "gated_deltanet":
        layer = "model.language_model.layers.1.self_attn.q_proj.weight"
        assert torch.equal(student.state_dict()[layer], theirs[layer])
    assert "not trained" in (tmp_path / "student" / "README.md").read_text()
    assert (tmp_path / "student" / "tokenizer.json").is_file()


def test_the_published_format_goes_both_ways(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    released = tmp_path / "[/]released"
    convert_command(str(teacher), tmp_path / "student", **ASKED | {"pattern": "SLLL"})
    convert_command(str(tmp_path / "student"), released, **ASKED | {"to": "infinitevl"})
    convert_command(str(released), tmp_path / "back", **ASKED)
    body = json.loads((released / "config.json").read_text())
    assert body["text_config"]["sliding_window"] == 8192
    assert body["text_config"]["layer_types"].count("linear_attention") == 6
    assert body["torch_dtype"] == "bfloat16"
    first, last = (
        HybridVLForConditionalGeneration.from_pretrained(tmp_path / name, dtype="auto") for name in ("student", "back")
    )
    assert first.state_dict().keys() == last.state_dict().keys()
    assert all(torch.equal(tensor, last.state_dict()[name]) for name, tensor in first.state_dict().items())
    size = load_processor(str(tmp_path / "back")).image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == PIXEL_LIMITS
    assert f"wrote {released}: 8 layers, SLLL with gated_deltanet\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pattern": "SLL"}, "does not tile 8 layers"),
        ({"mixer": "glaa"}, "did you mean gla"),
        ({"pattern": ""}, "must be made of S"),
        ({"mixer": ""}, "unknown mixer ''"),
        ({"to": "infinitvl"}, "did you mean infinitevl"),
        ({"to": "infinitevl"}, "this model has attention only"),
        ({"to": "infinitevl", "mixer": "gla"}, "this model has gla"),
        ({"to": "infinitevl", "pattern": "FLLL"}, "a window in every attention layer"),
        ({"window": 16}, "give --pattern or --mixer"),
    ],
)
def test_what_cannot_be_converted_writes_nothing(
    change: dict[str, Any], words: str, teacher: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        convert_command(str(teacher), tmp_path / "new", **ASKED | change)
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_a_student_of_a_student_is_refused(teacher: Path, tmp_path: Path) -> None:
    convert_command(str(teacher), tmp_path / "student", **ASKED | {"pattern": "SLLL"})
    with pytest.raises(UserError, match="a teacher with attention in every layer; this one is SLLL"):
        convert_command(str(tmp_path / "student"), tmp_path / "new", **ASKED | {"mixer": "gla"})
    with pytest.raises(UserError, match="exists already"):
        convert_command(str(teacher), tmp_path / "student", **ASKED)


def test_a_shipped_model_is_named(tmp_path: Path) -> None:
    options: dict[str, Any] = {"window": None, "to": "ours", "seed": 0}
    convert_command("hybrid", tmp_path / "hybrid", pattern=None, mixer=None, **options)
    written, shipped = load_model(str(tmp_path / "hybrid")).model, load_model("hybrid").model
    assert all(torch.equal(tensor, shipped.state_dict()[name]) for name, tensor in written.state_dict().items())
    convert_command("teacher", tmp_path / "student", pattern="SLLL", mixer="gla", **options | {"window": 16})
    assert load_model(str(tmp_path / "student")).model.config.text_config.mixer == "gla"
    with pytest.raises(UserError, match="a student is made of a teacher"):
        convert_command("hybrid", tmp_path / "none", pattern="SLLL", mixer="gla", **options)
    assert not (tmp_path / "none").exists()
