"""Arms of a study that differ in their mixer and not in how much they hold: configurations matched to a reference.

``params``  the decoder's layers have the reference's parameters within 2 %; the FFN's width gives way, in steps of 8
``widen``   the same, but the FFN only grows: a student keeps all units of its teacher's, and those added start silent
``state``   each mixer has the reference's state elements within 2 %, through its value width (``expand_v``)
``none``    everything stays as the preset and the mixer have it

The reference is a preset as it is, with its own mixer and pattern, whatever else a study compares: an arm is then the
same arm in every study. Embeddings, head and vision tower are the same for all and are not counted.

A student that inherits its teacher's FFNs cannot have narrower ones, and to match by what belongs to the mixer (its
value width) would change the state, which matters more to recall than parameters do. So an arm that inherits may hold
more than the reference; its records then say how much, and all show their arm's parameters and state.
"""

import copy
from functools import cache
from typing import NamedTuple

import torch

from ..errors import UserError, unknown_name
from .config import HybridVLConfig
from .presets import get_preset
from .registry import get_mixer

MATCHES = ("params", "widen", "state", "none")
INHERITING = ("inherit", "distill")
"""Recipes whose students take over all but their mixers from a teacher."""

TOLERANCE = 0.02
STEP = 8
"""Widths stay multiples of this, as kernels like them."""


class Matched(NamedTuple):
    """A configuration, and why it does not match; "" where it does or need not."""

    config: HybridVLConfig
    unmatched: str = ""


def resolve_match(match: str | None, recipe: str) -> str:
    """What is matched: as asked for, or parameters, by FFNs that only grow where the recipe inherits them.

    Raises:
        UserError: for an unknown name, or parameters under a recipe that inherits.
    """
    if match is None:
        return "widen" if recipe in INHERITING else "params"
    if match not in MATCHES:
        raise unknown_name("match", match, MATCHES)
    if match == "params" and recipe in INHERITING:
        raise UserError(
            f"recipe {recipe} takes over its teacher's FFNs, which cannot be narrower then; use --match widen, or "
            "--recipe scratch"
        )
    return match


def matched(config: HybridVLConfig, preset: str, match: str, recipe: str) -> Matched:
    """A configuration of a preset with another mixer or pattern, matched to the preset itself.

    Args:
        config: the arm.
        preset: its size, and the reference.
        match: one of `MATCHES`.
        recipe: how the arm begins; one that inherits needs values that are a multiple of the teacher's.

    Raises:
        UserError: if no FFN is narrow or wide enough.
    """
    if match == "params":
        return Matched(match_parameters(config, _reference_parameters(preset)))
    if match == "widen":
        return widen(config, _reference_parameters(preset))
    if match == "state" and config.text_config.linear_layers:
        reference = get_preset(preset).text_config
        target = get_mixer(reference.mixer).state_elements(reference)
        return match_state(config, target, whole_heads=recipe in INHERITING)
    return Matched(config)


def match_parameters(config: HybridVLConfig, target: int) -> HybridVLConfig:
    """The configuration with the FFN's width, a multiple of 8, that brings the decoder's layers nearest to ``target``.

    Raises:
        UserError: if that is more than 2 % away.
    """
    width = config.text_config.intermediate_size
    here = count_decoder_parameters(config)
    a_step = count_decoder_parameters(_with_width(config, width + STEP)) - here
    nearest = _with_width(config, max(STEP, STEP * round((width + (target - here) * STEP / a_step) / STEP)))
    reached = count_decoder_parameters(nearest)
    if abs(reached - target) > TOLERANCE * target:
        raise UserError(
            f"{config.text_config.mixer} in pattern {config.text_config.pattern} comes no nearer to {target:,} decoder "
            f"parameters than {reached:,}, with an FFN of {nearest.text_config.intermediate_size}; use --match none"
        )
    return nearest


def widen(config: HybridVLConfig, target: int) -> Matched:
    """The configuration with an FFN as wide as its own or wider, nearest to ``target`` decoder parameters.

    What holds more than 2 % too many without a wider FFN stays as it is, and the reason is given.
    """
    more = count_decoder_parameters(config) / target - 1
    if more > TOLERANCE:
        return Matched(config, f"holds {more:.1%} more than the reference, and its FFN cannot be narrower")
    nearest = match_parameters(config, target)
    wider = nearest.text_config.intermediate_size > config.text_config.intermediate_size
    return Matched(nearest if wider else config)


def match_state(config: HybridVLConfig, target: int, *, whole_heads: bool = False) -> Matched:
    """The configuration with the value width that brings one layer's state nearest to ``target`` elements.

    A state that is within 2 % stays. Where no value width comes within 2 %, nothing is changed and the reason is given.

    Args:
        config: the arm.
        target: state elements of one layer.
        whole_heads: whether values must be a multiple of the keys' width K.
    """
    text = config.text_config
    mixer = get_mixer(text.mixer)
    elements = mixer.state_elements(text)
    if _near(elements, target):
        return Matched(config)
    if not elements:
        return Matched(config, f"{text.mixer} has no state")
    _, _, K, V = mixer.geometry(text)
    for step in (K,) if whole_heads else (STEP, 1):
        width = max(step, step * round(V * target / elements / step))
        wider = copy.deepcopy(config)
        wider.text_config.mixer_args = dict(text.mixer_args or {}) | {"expand_v": width / K}
        if _near(mixer.state_elements(wider.text_config), target):
            return Matched(wider)
    return Matched(config, f"no value width brings the state of {text.mixer} within 2 % of {target:,} elements")


@cache
def _reference_parameters(preset: str) -> int:
    return count_decoder_parameters(get_preset(preset))


def count_decoder_parameters(config: HybridVLConfig) -> int:
    """Parameters of the decoder's layers and last norm, without embeddings; nothing is allocated."""
    from .hybrid import HybridVLTextModel

    with torch.device("meta"):
        model = HybridVLTextModel(copy.deepcopy(config.text_config))
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("embed_tokens"))


def _with_width(config: HybridVLConfig, width: int) -> HybridVLConfig:
    changed = copy.deepcopy(config)
    changed.text_config.intermediate_size = width
    return changed


def _near(found: int, target: int) -> bool:
    return abs(found - target) <= TOLERANCE * target
