"""Small models and batches for the tests of the stages."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from infinitevl_bench.models.checkpoints import new_model
from infinitevl_bench.models.config import layer_types_of
from infinitevl_bench.models.presets import get_preset
from infinitevl_bench.models.teacher import inherit
from infinitevl_bench.training.batch import FIRST, IGNORED, TEXT, VISION, Batch


def small_model(pattern: str, mixer: str = "gated_deltanet", depth: int = 2, seed: int = 0) -> Any:
    """Preset ``tiny`` with fewer layers."""
    config = get_preset("tiny", pattern=pattern, mixer=mixer)
    config.text_config.num_hidden_layers = depth
    config.text_config.layer_types = layer_types_of(pattern, depth)
    return new_model(config, seed)


@pytest.fixture
def make_model() -> Callable[..., Any]:
    return small_model


@pytest.fixture
def pair() -> Callable[..., tuple[Any, Any]]:
    """A student and the teacher that it inherits from."""

    def make(pattern: str = "SL", mixer: str = "gated_deltanet", depth: int = 2) -> tuple[Any, Any]:
        student, teacher = small_model(pattern, mixer, depth), small_model("F", depth=depth, seed=1)
        inherit(student, teacher)
        return student, teacher

    return make


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """Rows of text, some of it answers, with a few tokens that stand for a picture."""

    def make(rows: int = 3, length: int = 12, seed: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        config = get_preset("tiny")
        ids = torch.randint(0, 90, (rows, length), generator=generator)
        ids[:, 2:5] = config.image_token_id
        labels = torch.where(torch.arange(length) < length - 4, IGNORED, ids)
        kinds = torch.where(ids == config.image_token_id, VISION, TEXT)
        kinds[:, 0] = FIRST
        features = torch.randn(3 * rows, config.text_config.hidden_size, generator=generator)
        positions = torch.arange(length).expand(3, rows, length)
        return Batch({"input_ids": ids, "position_ids": positions, "image_features": features}, labels, kinds)

    return make
