"""The looks that figures share."""

import pytest
from infinitevl_bench.models.registry import mixer_names
from infinitevl_bench.reports.figures import GREY, THEMES, Theme, colour_of, shade


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_every_mixer_has_a_colour_of_its_own_and_none_that_of_the_controls(theme: Theme) -> None:
    colours = [colour_of(name, theme) for name in mixer_names()]
    assert len({*colours, shade(GREY, theme)}) == len(colours) + 1


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_a_mixer_from_elsewhere_has_one_too(theme: Theme) -> None:
    others = [*mixer_names(), "theirs", "yours"]
    assert colour_of("theirs", theme, others) != colour_of("yours", theme, others)
