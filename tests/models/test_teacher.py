"""Inheritance: a student has all of its teacher but the mixers, and a misfit changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.checkpoints import new_model
from infinitevl_bench.models.registry import mixer_names
from infinitevl_bench.models.teacher import inherit

Weights = dict[str, torch.Tensor]


def copied(model: Any) -> Weights:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(ours: Weights, theirs: Weights) -> bool:
    return all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.fixture
def teacher(make_model: Callable[..., Any]) -> Any:
    return make_model("F", seed=1)


@pytest.mark.parametrize("pattern", ["SLLL", "SL", "L"])
@pytest.mark.parametrize("mixer", mixer_names())
def test_all_but_the_mixers_is_the_teachers(
    mixer: str, pattern: str, make_model: Callable[..., Any], teacher: Any
) -> None:
    student = make_model(pattern, mixer=mixer, seed=2)
    before, theirs = copied(student), copied(teacher)
    inherit(student, teacher)
    linear = tuple(f"layers.{index}.self_attn." for index in student.config.text_config.linear_layers)
    inherited = {
        name: tensor for name, tensor in student.state_dict().items() if not any(part in name for part in linear)
    }
    assert same(inherited, theirs)
    # Another seed made the student, so most of it was different before.
    assert not same({name: before[name] for name in inherited}, theirs)
    assert same(theirs, teacher.state_dict())
    # The two share no memory: training the student leaves the teacher alone.
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    assert same(theirs, teacher.state_dict())


@pytest.mark.parametrize("mixer", mixer_names())
def test_mixers_begin_with_the_teachers_projections(mixer: str, make_model: Callable[..., Any], teacher: Any) -> None:
    student = make_model("SL", mixer=mixer, seed=2)
    inherit(student, teacher)
    D = student.config.text_config.hidden_size
    for index in student.config.text_config.linear_layers:
        ours = student.model.language_model.layers[index].self_attn
        theirs = teacher.model.language_model.layers[index].self_attn
        # What every mixer takes over; `test_mixer_options` says which take more.
        assert ours.v_proj.weight.shape == (2 * D, D)
        assert ours.v_proj.weight.unique(dim=0).shape[0] == theirs.v_proj.weight.shape[0]
        torch.testing.assert_close(ours.o_proj.weight.sum(), theirs.o_proj.weight.sum())


def test_a_student_with_full_attention_says_what_its_teacher_says(
    make_model: Callable[..., Any], teacher: Any, picture_prompt: Weights
) -> None:
    student = make_model("F", seed=2)
    with torch.no_grad():
        expected = teacher(**picture_prompt).logits
        assert not torch.equal(student(**picture_prompt).logits, expected)
        inherit(student, teacher)
        assert torch.equal(student(**picture_prompt).logits, expected)


def test_a_student_with_sliding_windows_says_the_same_within_the_window(
    make_model: Callable[..., Any], teacher: Any, picture_prompt: Weights
) -> None:
    student = make_model("S", seed=2)
    inherit(student, teacher)
    window = student.config.text_config.sliding_window
    with torch.no_grad():
        ours, theirs = student(**picture_prompt).logits[0], teacher(**picture_prompt).logits[0]
    torch.testing.assert_close(ours[:window], theirs[:window], atol=1e-6, rtol=0)
    # The first token that a window cuts off from the beginning is the first that may differ, and does.
    assert (ours[window] - theirs[window]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("teacher_pattern", "teacher_depth", "student_depth", "words"),
    [("F", 2, 4, "missing"), ("L", 4, 4, "attention in every layer")],
    ids=["a shallower teacher", "a teacher without attention"],
)
def test_a_misfit_is_refused_and_changes_nothing(
    teacher_pattern: str, teacher_depth: int, student_depth: int, words: str, make_model: Callable[..., Any]
) -> None:
    student = make_model("SL", depth=student_depth, seed=2)
    misfit = make_model(teacher_pattern, depth=teacher_depth, seed=1)
    before = copied(student)
    with pytest.raises(UserError, match=words):
        inherit(student, misfit)
    assert same(before, student.state_dict())


def test_a_narrower_student_is_refused_and_changes_nothing(make_config: Callable[..., Any], teacher: Any) -> None:
    from infinitevl_bench.models.hybrid import HybridVLForConditionalGeneration

    config = make_config("SL")
    config.text_config.intermediate_size -= 16
    student = HybridVLForConditionalGeneration(config)
    before = copied(student)
    with pytest.raises(UserError, match=r"mlp.* is \[.*32.*\] here and \[.*48.*\] there"):
        inherit(student, teacher)
    assert same(before, student.state_dict())


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [(("SL", 4), ("F", 8), "lacks"), (("L", 4), ("FL", 4), "attention in every layer")],
    ids=["deeper teacher", "teacher with mixers"],
)
def test_a_teacher_of_another_kind_is_refused(
    student: tuple[str, int], teacher: tuple[str, int], words: str, make_model: Callable[..., Any]
) -> None:
    ours, theirs = make_model(student[0], depth=student[1]), make_model(teacher[0], depth=teacher[1])
    before = copied(ours)
    with pytest.raises(UserError, match=words):
        inherit(ours, theirs)
    assert same(before, ours.state_dict())


@pytest.mark.parametrize("pattern", ["S", "F"])
def test_a_wider_student_says_what_the_narrow_one_says_and_its_new_units_learn(
    pattern: str,
    make_config: Callable[..., Any],
    make_model: Callable[..., Any],
    teacher: Any,
    picture_prompt: Weights,
) -> None:
    narrow, config = make_model(pattern, seed=2), make_config(pattern)
    units = config.text_config.intermediate_size
    config.text_config.intermediate_size = units + 24
    wide = new_model(config, 3)
    inherit(narrow, teacher)
    inherit(wide, teacher)
    torch.testing.assert_close(wide(**picture_prompt).logits, narrow(**picture_prompt).logits)
    wide(**picture_prompt).logits.square().mean().backward()
    for layer in wide.model.language_model.layers:
        assert layer.mlp.down_proj.weight.grad[:, units:].abs().max() > 0
        assert not torch.equal(layer.mlp.up_proj.weight[units:], torch.zeros_like(layer.mlp.up_proj.weight[units:]))
