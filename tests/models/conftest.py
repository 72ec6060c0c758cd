"""Small models for the tests of the backbone."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitevl_bench.models.config import HybridVLConfig, layer_types_of
from infinitevl_bench.models.convert import save_infinite_vl
from infinitevl_bench.models.hybrid import HybridVLForConditionalGeneration
from infinitevl_bench.models.mixers.base import TokenMixer
from infinitevl_bench.models.registry import get_mixer
from torch import nn

IMAGE, VIDEO, VISION_START, VISION_END = 60, 61, 62, 63
VISION = {
    "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2,
    "temporal_patch_size": 2, "window_size": 56, "out_hidden_size": 32, "fullatt_block_indexes": [1],
}  # fmt: skip
TEXT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6, "sliding_window": 6, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def make_config() -> Callable[..., HybridVLConfig]:
    def make(pattern: str = "SLLL", depth: int = 4, mixer: str = "gated_deltanet", **mixer_args: Any) -> HybridVLConfig:
        text = TEXT | {"num_hidden_layers": depth, "layer_types": layer_types_of(pattern, depth)}
        return HybridVLConfig(
            text_config=text | {"mixer": mixer, "mixer_args": mixer_args},
            vision_config=VISION,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            vision_start_token_id=VISION_START,
            vision_end_token_id=VISION_END,
            tie_word_embeddings=True,
        )

    return make


@pytest.fixture
def make_model(make_config: Callable[..., HybridVLConfig]) -> Callable[..., HybridVLForConditionalGeneration]:
    def make(*args: Any, seed: int = 0, **kwargs: Any) -> HybridVLForConditionalGeneration:
        torch.manual_seed(seed)
        return HybridVLForConditionalGeneration(make_config(*args, **kwargs)).eval()

    return make


@pytest.fixture
def picture_prompt() -> dict[str, torch.Tensor]:
    """A prompt of 4 + 6 + 5 tokens: text, one picture of 2 × 3 visual tokens, text."""
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(2, 60, (9,), generator=generator)
    ids = torch.cat(
        [text[:3], torch.tensor([VISION_START]), torch.full((6,), IMAGE), torch.tensor([VISION_END]), text[3:7]]
    )
    return {
        "input_ids": ids[None],
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "mm_token_type_ids": (ids == IMAGE).long()[None],
        "pixel_values": torch.randn(4 * 6, 3 * 2 * 14 * 14, generator=generator),
        "image_grid_thw": torch.tensor([[1, 4, 6]]),
    }


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Memory that torch hands out without filling it holds NaN, so that reading it shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(4).isnan().all()
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


@pytest.fixture
def make_mixer(make_config: Callable[..., HybridVLConfig]) -> Callable[..., TokenMixer]:
    """A mixer of width 32 with 4 heads, weights large enough that every part of it shows in the output."""

    def make(name: str, seed: int = 0, layer_idx: int = 1, **options: Any) -> TokenMixer:
        torch.manual_seed(seed)
        config = make_config(mixer=name, **options).text_config
        config.initializer_range = 0.4
        mixer = get_mixer(name)(config, layer_idx)
        for norm in (module for module in mixer.modules() if type(module).__name__ == "HeadNorm"):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
        return mixer.eval()

    return make


@pytest.fixture
def published(tmp_path: Path, make_model: Callable[..., Any]) -> tuple[Path, Any]:
    """A checkpoint in the released format, and the model that is in it."""
    model = make_model("SLLL", depth=8)
    save_infinite_vl(model, None, tmp_path / "published", "")
    return tmp_path / "published", model
