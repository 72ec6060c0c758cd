"""Mixers by name, aliases, and those that other packages bring."""

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models import registry
from infinitevl_bench.models.registry import ALIASES, MIXERS, get_mixer, mixer_names


def test_aliases_are_other_names_of_mixers() -> None:
    assert not set(ALIASES) & set(MIXERS)
    for alias, name in ALIASES.items():
        assert get_mixer(alias) is get_mixer(name)
        assert get_mixer(alias.upper()) is get_mixer(name)


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("glaa", "gla"), ("gated_delta_net", "gated_deltanet"), ("mamba3", "mamba")]
)
def test_unknown_mixers_answer_with_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"did you mean .*{nearest}") as caught:
        get_mixer(wrong)
    assert caught.value.exit_code == 2


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A place to install mixers of other packages: name → "module:Class", from a module that lies on the path."""
    (tmp_path / "their_mixers.py").write_text(
        "from infinitevl_bench.models.mixers.gla import GatedLinearAttention\n"
        "class Theirs(GatedLinearAttention):\n    '''Theirs.'''\n"
        "class NoMixer:\n    '''Something else.'''\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found: dict[str, str] = {}
    caches = [f for f in vars(registry).values() if hasattr(f, "cache_clear")]

    def lookup(group: str) -> list[EntryPoint]:
        return [EntryPoint(name, value, group) for name, value in found.items()]

    monkeypatch.setattr(registry, "entry_points", lookup)
    for function in caches:
        function.cache_clear()
    yield found
    monkeypatch.undo()
    for function in caches:
        function.cache_clear()


def test_an_entry_point_adds_a_mixer(entry_points: dict[str, str], make_config: Callable[..., Any]) -> None:
    entry_points["theirs"] = "their_mixers:Theirs"
    assert mixer_names() == [*MIXERS, "theirs"]
    theirs = get_mixer("theirs")
    assert theirs.__name__ == "Theirs"
    torch.manual_seed(0)
    y, _ = theirs(make_config(mixer="theirs").text_config, 0)(torch.randn(1, 5, 32))
    assert y.shape == (1, 5, 32)


def test_an_entry_point_with_capitals_is_found(entry_points: dict[str, str]) -> None:
    entry_points["Theirs"] = "their_mixers:Theirs"
    assert get_mixer(mixer_names()[-1]).__name__ == "Theirs"


def test_an_entry_point_that_is_no_mixer_is_refused(entry_points: dict[str, str]) -> None:
    entry_points["theirs"] = "their_mixers:NoMixer"
    with pytest.raises(UserError, match="not a subclass of TokenMixer"):
        get_mixer("theirs")


@pytest.mark.parametrize("taken", ["gla", "mamba"])
def test_an_entry_point_cannot_take_a_name_that_exists(entry_points: dict[str, str], taken: str) -> None:
    entry_points[taken] = "their_mixers:Theirs"
    with pytest.raises(UserError, match="exists"):
        mixer_names()


@pytest.mark.parametrize("value", ["no_such_module:Theirs", "their_mixers:Missing"])
def test_a_broken_entry_point_says_so(entry_points: dict[str, str], value: str) -> None:
    entry_points["theirs"] = value
    with pytest.raises(UserError, match="theirs"):
        get_mixer("theirs")
