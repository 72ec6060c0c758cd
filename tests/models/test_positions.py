"""Positions against the rule written out; what the model computes by itself against what it computes given them."""

from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.hybrid import HybridVLModel

from .conftest import IMAGE, VIDEO, VISION_END, VISION_START
from .trained_positions import Seen, Text, trained_positions

PROMPTS = {
    "text": (Text(7),),
    "picture": (Text(4), Seen(1, 2, 3), Text(5)),
    "two pictures": (Seen(1, 3, 2), Text(2), Seen(1, 1, 4), Text(3)),
    "short video": (Text(3), Seen(2, 3, 4, 1.0), Text(4)),
    "long video": (Text(3), Seen(9, 2, 2, 2.0), Text(4)),
    "slow video": (Text(2), Seen(5, 1, 2, 25.0), Text(1)),
    "fast video": (Text(2), Seen(9, 1, 2, 0.3), Text(2)),
    "two videos": (Text(1), Seen(4, 1, 1, 2.0), Text(2), Seen(6, 2, 1, 4.0), Text(3)),
    "side by side": (Text(1), Seen(4, 1, 2, 2.0), Seen(3, 2, 2, 2.0), Seen(1, 2, 2), Seen(1, 1, 3), Text(2)),
    "both": (Text(1), Seen(1, 4, 3), Text(1), Seen(5, 2, 2, 2.0), Text(2), Seen(1, 2, 2)),
}
TOKENS_PER_SECOND = 2
PIXELS = 3 * 2 * 14 * 14


def is_video(part: Any) -> bool:
    return isinstance(part, Seen) and part.frames > 1


def encoded(*prompts: tuple[Any, ...], left: int = 0) -> dict[str, Any]:
    """The prompts as a batch, padded at the left to the longest and ``left`` more; arguments of `get_rope_index`."""
    parts = [part for prompt in prompts for part in prompt if isinstance(part, Seen)]
    rows = []
    for prompt in prompts:
        kinds: list[int] = []
        for part in prompt:
            size = part.tokens if isinstance(part, Text) else part.frames * part.rows * part.columns
            kinds += [0 if isinstance(part, Text) else 2 if is_video(part) else 1] * size
        rows.append(kinds)
    longest = max(map(len, rows)) + left
    types = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    grids = [
        torch.tensor([[part.frames, 2 * part.rows, 2 * part.columns] for part in parts if is_video(part) is video])
        for video in (False, True)
    ]
    return {
        "input_ids": torch.tensor([5, IMAGE, VIDEO])[types],
        "mm_token_type_ids": types,
        "image_grid_thw": grids[0] if len(grids[0]) else None,
        "video_grid_thw": grids[1] if len(grids[1]) else None,
        "second_per_grid_ts": torch.tensor([part.apart / TOKENS_PER_SECOND for part in parts if is_video(part)]),
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
    }


@pytest.fixture
def backbone(make_model: Any) -> HybridVLModel:
    model = make_model("SL", depth=2)
    model.config.vision_config.tokens_per_second = TOKENS_PER_SECOND
    return model.model


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("masked", [True, False])
def test_one_prompt_stands_as_the_rule_says(name: str, masked: bool, backbone: HybridVLModel) -> None:
    arguments = encoded(PROMPTS[name]) | ({} if masked else {"attention_mask": None})
    positions, beyond = backbone.get_rope_index(**arguments)
    expected = trained_positions(*PROMPTS[name])
    assert torch.equal(positions, expected[:, None])
    assert beyond.tolist() == [[int(expected.max()) + 1 - expected.shape[1]]]
    assert positions.dtype == torch.long


def test_a_padded_batch_is_its_prompts(backbone: HybridVLModel) -> None:
    arguments = encoded(*PROMPTS.values(), left=3)
    positions, beyond = backbone.get_rope_index(**arguments)
    for row, prompt in enumerate(PROMPTS.values()):
        expected = trained_positions(*prompt)
        real = arguments["attention_mask"][row].bool()
        assert torch.equal(positions[:, row, real], expected)
        assert not positions[:, row, ~real].any()
        assert int(beyond[row]) == int(expected.max()) + 1 - expected.shape[1]


def test_a_second_lies_between_groups_of_frames_where_nothing_is_said(backbone: HybridVLModel) -> None:
    arguments = encoded(PROMPTS["long video"]) | {"second_per_grid_ts": None}
    positions, _ = backbone.get_rope_index(**arguments)
    assert torch.equal(positions[:, 0], trained_positions(*PROMPTS["long video"]))


def test_tokens_that_no_picture_has_are_named(backbone: HybridVLModel) -> None:
    arguments = encoded(PROMPTS["two pictures"])
    with pytest.raises(UserError, match="4 picture tokens have no picture"):
        backbone.get_rope_index(**arguments | {"image_grid_thw": arguments["image_grid_thw"][:1]})
    with pytest.raises(UserError, match="6 picture tokens stand where the grid of the picture asks for 8"):
        backbone.get_rope_index(**arguments | {"image_grid_thw": torch.tensor([[1, 4, 8], [1, 2, 8]])})


def video_prompt(prompt: tuple[Any, ...], seed: int) -> dict[str, Any]:
    """A prompt with pixels, its video between the marks that Qwen2.5-VL has around one."""
    generator = torch.Generator().manual_seed(seed)
    arguments = encoded(prompt)
    ids = arguments["input_ids"]
    text = arguments["mm_token_type_ids"] == 0
    ids[text] = torch.randint(2, IMAGE, (int(text.sum()),), generator=generator)
    first = int((~text).nonzero()[0, 1])
    ids[0, first - 1] = VISION_START
    ids[0, int((~text).nonzero()[-1, 1]) + 1] = VISION_END
    patches = int(arguments["video_grid_thw"].prod())
    return arguments | {"pixel_values_videos": torch.randn(patches, PIXELS, generator=generator)}


@torch.no_grad()
def test_the_model_takes_these_positions_and_writes_on_after_them(make_model: Any) -> None:
    """Alone and beside a shorter prompt: the logits of whole passes at the written-out positions."""
    model = make_model("FL", depth=2, seed=3)
    model.config.vision_config.tokens_per_second = TOKENS_PER_SECOND
    # Sharp attention, so that places show.
    model.model.language_model.layers[0].self_attn.q_proj.weight.mul_(30)
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    prompts = [(Text(4), Seen(9, 2, 2, 2.0), Text(4)), (Text(3), Seen(4, 1, 2, 2.0), Text(5))]
    made, expected = [video_prompt(prompt, seed) for seed, prompt in enumerate(prompts)], []
    for prompt, one in zip(prompts, made, strict=True):
        pixels = {name: one[name] for name in ("pixel_values_videos", "video_grid_thw")}
        written = model.generate(**one, **options)
        expected.append([])
        for new in range(5):
            positions = trained_positions(*prompt[:2], Text(prompt[2].tokens + new))[:, None]
            ids = written.sequences[:, : one["input_ids"].shape[1] + new]
            expected[-1].append(model(input_ids=ids, position_ids=positions, **pixels).logits[0, -1])
        torch.testing.assert_close(torch.stack(written.logits)[:, 0], torch.stack(expected[-1]), rtol=1e-4, atol=1e-5)
    both = encoded(*prompts)
    real = both["attention_mask"].bool()
    both["input_ids"][real] = torch.cat([one["input_ids"][0] for one in made])
    both["pixel_values_videos"] = torch.cat([one["pixel_values_videos"] for one in made])
    written = torch.stack(model.generate(**both, **options).logits)
    for row, alone in enumerate(expected):
        torch.testing.assert_close(written[:, row], torch.stack(alone), rtol=1e-4, atol=1e-5)
