"""What the tests of the mixers share: mixers to test, tokens, and the bound on errors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from infinitevl_bench.models.mixers.base import TokenMixer
from infinitevl_bench.models.registry import get_mixer, mixer_names
from torch import Tensor

every_mixer = pytest.mark.parametrize("name", mixer_names())
# The default, and what the options can take away or add; a mixer gets those that it has.
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "bare": {"conv_size": 0, "norm": False, "gate": False},
    "full": {"conv_size": 4, "norm": True, "gate": True},
    "narrow": {"expand_v": 1, "conv_size": 3, "state_size": 5},
    "half": {"expand_v": 0.5},
}
Make = Callable[..., TokenMixer]


def options_of(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that a mixer has."""
    return {option: value for option, value in options.items() if option in get_mixer(name).options}


VARIANTS = [(name, options_of(name, OPTIONS[case]), case) for name in mixer_names() for case in OPTIONS]
every_variant = pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name, options, _ in VARIANTS],
    ids=[f"{name}-{case}" for name, _, case in VARIANTS],
)


def tokens(B: int, T: int, seed: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(B, T, 32, generator=torch.Generator().manual_seed(seed)).to(dtype)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of what was expected."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))


def assert_same(actual: Tensor | None, expected: Tensor | None, bound: float = 2e-5) -> None:
    assert (actual is None) == (expected is None)
    if actual is not None and expected is not None:
        assert actual.shape == expected.shape
        assert relative_error(actual, expected) <= bound
