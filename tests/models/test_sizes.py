"""Sizes counted from the code are the published ones, to the last element."""

import pytest
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.accounting import cache_elements, count_parameters, size_of, state_elements
from infinitevl_bench.models.config import pattern_of_ratio, ratio_of_pattern
from infinitevl_bench.models.presets import get_preset, preset_names


@pytest.mark.parametrize(("preset", "parameters"), [("infinitevl-4b", 4_408_381_536), ("qwen2.5-vl-3b", 3_754_622_976)])
def test_parameters_are_the_published_ones(preset: str, parameters: int) -> None:
    assert count_parameters(get_preset(preset)) == parameters


def test_cache_at_32k_is_the_published_one() -> None:
    # 36·2·2·128·32768 and 27·16·128·256 + 9·2·2·128·8192: 604 M and 51.9 M.
    assert cache_elements(get_preset("qwen2.5-vl-3b"), 32768) == 603_979_776
    assert cache_elements(get_preset("infinitevl-4b"), 32768) == 14_155_776 + 37_748_736


def test_the_hybrids_cache_stops_growing_at_the_window() -> None:
    config = get_preset("infinitevl-4b")
    assert cache_elements(config, 8192) == cache_elements(config, 1_000_000)
    assert cache_elements(config, 4096) < cache_elements(config, 8192)


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_has_sizes(preset: str) -> None:
    size = size_of(get_preset(preset))
    assert size.parameters > 0
    assert size.cache_elements >= size.state_elements == state_elements(get_preset(preset))


@pytest.mark.parametrize(
    ("ratio", "pattern"), [("0", "L"), ("1/8", "SLLLLLLL"), ("1/4", "SLLL"), ("0.5", "SL"), ("1", "S")]
)
def test_ratios_and_patterns_are_two_words_for_one_thing(ratio: str, pattern: str) -> None:
    assert pattern_of_ratio(ratio) == pattern
    assert pattern_of_ratio(str(ratio_of_pattern(pattern))) == pattern


@pytest.mark.parametrize("ratio", ["2/3", "-1", "2", "a quarter", "1/0", ""])
def test_ratios_that_are_none_are_refused(ratio: str) -> None:
    with pytest.raises(UserError, match="SWA ratio"):
        pattern_of_ratio(ratio)


def test_unknown_presets_answer_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean tiny"):
        get_preset("tinny")
