"""A grid: every combination once, checked before anything trains."""

from typing import Any

import pytest
from infinitevl_bench.ablations.scales import SCALES, get_scale
from infinitevl_bench.ablations.study import Study, arm_config
from infinitevl_bench.errors import UserError
from infinitevl_bench.eval.benchmarks import find_benchmark
from infinitevl_bench.models.matching import count_decoder_parameters
from infinitevl_bench.models.registry import mixer_names


def study(changes: dict[str, list[Any]], **options: Any) -> Study:
    return Study(baseline={"mixer": "gated_deltanet", "pattern": "SLLL"}, changes=changes, **options)


def test_every_combination_once() -> None:
    cells = study({"mixer": ["gla", "mamba2"], "pattern": ["SLLL", "SL"], "seed": [0, 1]}).cells("cpu")
    assert len({cell.id for cell in cells}) == len(cells) == 8
    assert {cell.arguments["mixer"] for cell in cells} == {"gla", "mamba2"}


def test_an_alias_and_its_mixer_are_one_cell() -> None:
    assert len(study({"mixer": ["mamba", "mamba2"]}).cells("cpu")) == 1


def test_without_a_linear_layer_the_mixer_makes_no_difference() -> None:
    cells = study({"mixer": ["gla", "mamba2"], "pattern": ["S"]}).cells("cpu")
    assert [cell.arguments["mixer"] for cell in cells] == ["none"]


def test_a_pattern_is_named_by_its_shortest_form() -> None:
    assert len(study({"pattern": ["SL", "SLSL"]}).cells("cpu")) == 1


def test_overrides_change_the_cell_and_its_id() -> None:
    plain = study({}).cells("cpu")[0]
    short = study({}, overrides={"steps": 7}).cells("cpu")[0]
    assert short.arguments["training"]["steps"] == 7
    assert plain.id != short.id
    assert plain.id != study({}).cells("cuda")[0].id


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mixer": ["glaa"]}, "did you mean gla"),
        ({"pattern": ["SLL"]}, "does not tile 8 layers"),
        ({"colour": ["red"]}, "cannot change 'colour'"),
    ],
)
def test_what_is_unknown_is_said_before_anything_trains(changes: dict[str, list[Any]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        study(changes).cells("cpu")


def test_unknown_scales_answer_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean small"):
        get_scale("smal")


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_names_benchmarks_with_a_synthetic_twin(scale: str) -> None:
    for name in SCALES[scale].benchmarks:
        family = find_benchmark(name).family
        assert family in SCALES[scale].pages.weights
    assert study({"mixer": mixer_names()}, scale=scale).cells("cpu")


def test_what_is_matched_is_part_of_the_cell() -> None:
    inherited, state = (study({}, match=match).cells("cpu")[0] for match in (None, "state"))
    assert (inherited.arguments["match"], state.arguments["match"]) == ("widen", "state")
    assert inherited.id != state.id
    assert study({"recipe": ["scratch"]}).cells("cpu")[0].arguments["match"] == "params"


def test_arms_of_a_study_hold_alike() -> None:
    arms = {"mixer": mixer_names(), "pattern": ["SLLL", "SL"]}
    cells = study(arms | {"recipe": ["scratch"]}, scale="small").cells("cpu")
    counts = [count_decoder_parameters(arm_config(cell).config) for cell in cells]
    assert max(counts) < 1.02 * min(counts)
    # Those that inherit hold alike too, but for the one whose records say that it cannot.
    found = [arm_config(cell) for cell in study(arms, scale="small").cells("cpu")]
    counts = [count_decoder_parameters(one.config) for one in found if not one.unmatched]
    assert max(counts) < 1.04 * min(counts)
    assert {one.config.text_config.mixer for one in found if one.unmatched} == {"kimi_delta_attention"}


def test_an_arm_that_cannot_be_matched_is_said_before_anything_trains() -> None:
    with pytest.raises(UserError, match="use --match none"):
        study({"mixer_args": [{"expand_v": 64}], "recipe": ["scratch"]}).cells("cpu")
