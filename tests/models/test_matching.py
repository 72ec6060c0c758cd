"""Arms hold alike: parameters or state, within 2 %, for every mixer; and what cannot be matched says so."""

import pytest
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.accounting import count_parameters
from infinitevl_bench.models.matching import MATCHES, count_decoder_parameters, match_state, matched, resolve_match
from infinitevl_bench.models.presets import get_preset
from infinitevl_bench.models.registry import get_mixer, mixer_names

every_mixer = pytest.mark.parametrize("mixer", mixer_names())
every_scale = pytest.mark.parametrize("preset", ["tiny", "small"])


@every_mixer
@every_scale
@pytest.mark.parametrize("pattern", ["SLLL", "L"])
def test_every_mixer_has_the_references_parameters(mixer: str, preset: str, pattern: str) -> None:
    reference = get_preset(preset)
    arm, unmatched = matched(get_preset(preset, mixer=mixer, pattern=pattern), preset, "params", "scratch")
    assert not unmatched
    for count in (count_decoder_parameters, count_parameters):
        assert count(arm) == pytest.approx(count(reference), rel=0.02)
    assert arm.text_config.intermediate_size % 8 == 0
    assert (arm.text_config.mixer, arm.text_config.pattern) == (mixer, pattern)


@every_scale
@pytest.mark.parametrize("pattern", ["S", "F"])
def test_attention_alone_has_the_references_parameters(preset: str, pattern: str) -> None:
    arm, _ = matched(get_preset(preset, pattern=pattern), preset, "params", "scratch")
    assert count_decoder_parameters(arm) == pytest.approx(count_decoder_parameters(get_preset(preset)), rel=0.02)
    assert arm.text_config.intermediate_size > get_preset(preset).text_config.intermediate_size


@every_scale
@pytest.mark.parametrize("match", MATCHES)
def test_the_reference_is_itself(preset: str, match: str) -> None:
    reference = get_preset(preset)
    assert matched(get_preset(preset), preset, match, "scratch").config.to_dict() == reference.to_dict()


@every_mixer
@every_scale
@pytest.mark.parametrize("recipe", ["scratch", "inherit"])
def test_every_state_is_the_references_or_says_why_not(mixer: str, preset: str, recipe: str) -> None:
    reference = get_preset(preset).text_config
    target = get_mixer("gated_deltanet").state_elements(reference)
    arm, unmatched = matched(get_preset(preset, mixer=mixer), preset, "state", recipe)
    found = get_mixer(mixer).state_elements(arm.text_config)
    if get_mixer(mixer).recurrence is None:
        assert (found, unmatched) == (0, f"{mixer} has no state")
        return
    assert not unmatched
    assert found == pytest.approx(target, rel=0.02)
    assert arm.text_config.intermediate_size == reference.intermediate_size


def test_a_wider_state_is_reached_through_the_values() -> None:
    target = 3 * 4 * 32 * 64
    arm, unmatched = match_state(get_preset("tiny", mixer="gla"), target)
    assert (arm.text_config.mixer_args, unmatched) == ({"expand_v": 6.0}, "")
    # 4 heads of 32 keys: no multiple of 32 values comes near 4 · 32 · 80 elements, and 80 is one of 8.
    assert match_state(get_preset("tiny", mixer="gla"), 4 * 32 * 80).config.text_config.mixer_args == {"expand_v": 2.5}
    arm, unmatched = match_state(get_preset("tiny", mixer="gla"), 4 * 32 * 80, whole_heads=True)
    assert arm.text_config.mixer_args == {}
    assert "within 2 % of 10,240 elements" in unmatched


@every_mixer
def test_none_changes_nothing(mixer: str) -> None:
    plain = get_preset("tiny", mixer=mixer)
    assert matched(plain, "tiny", "none", "inherit").config is plain


def test_an_arm_that_is_too_large_says_so() -> None:
    with pytest.raises(UserError, match=r"gla in pattern L comes no nearer .* FFN of 8; use --match none"):
        matched(get_preset("tiny", mixer="gla", pattern="L", mixer_args={"expand_v": 12}), "tiny", "params", "scratch")


@every_mixer
@pytest.mark.parametrize("pattern", ["SLLL", "L", "S"])
def test_widened_arms_keep_their_units_and_match_or_say_by_how_much_not(mixer: str, pattern: str) -> None:
    reference, plain = get_preset("tiny"), get_preset("tiny", mixer=mixer, pattern=pattern)
    arm, unmatched = matched(plain, "tiny", "widen", "inherit")
    share = count_decoder_parameters(arm) / count_decoder_parameters(reference)
    assert arm.text_config.intermediate_size >= plain.text_config.intermediate_size
    if unmatched:
        assert arm.text_config.intermediate_size == plain.text_config.intermediate_size
        assert share > 1.02
        assert f"{share - 1:.1%} more" in unmatched
    else:
        assert share == pytest.approx(1, rel=0.02)


def test_what_is_matched_follows_the_recipe() -> None:
    assert resolve_match(None, "scratch") == "params"
    assert resolve_match(None, "inherit") == "widen"
    assert resolve_match("state", "inherit") == "state"
    with pytest.raises(UserError, match="did you mean state"):
        resolve_match("stat", "scratch")
    with pytest.raises(UserError, match="recipe inherit takes over its teacher's FFNs"):
        resolve_match("params", "inherit")
