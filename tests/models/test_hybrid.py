"""The backbone: Qwen2.5-VL exactly where all layers attend, and generation that does not depend on the cache."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.cache import HybridCache
from infinitevl_bench.models.hybrid import CACHE_ARGUMENT, HybridVLForConditionalGeneration
from infinitevl_bench.models.registry import mixer_names, recurrent_mixers
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

PATTERNS = ["SLLL", "SLLLLLLL", "SL", "L", "S", "F", "FL"]


def depth_of(pattern: str) -> int:
    return max(4, len(pattern))


def test_all_full_attention_is_qwen(make_model: Callable[..., Any], picture_prompt: dict[str, torch.Tensor]) -> None:
    ours = make_model("F")
    body = ours.config.to_dict()
    for part in ("text_config", "vision_config"):
        body[part].pop("model_type")
    body.pop("model_type")
    theirs = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**body)).eval()
    assert sorted(theirs.state_dict()) == sorted(ours.state_dict())
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(**picture_prompt).logits, theirs(**picture_prompt).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("mixer", mixer_names())
def test_generate_with_cache_equals_without(
    mixer: str, pattern: str, make_model: Callable[..., Any], picture_prompt: dict[str, torch.Tensor]
) -> None:
    if "L" not in pattern and mixer != mixer_names()[0]:
        pytest.skip("no linear layer, so no mixer")
    model = make_model(pattern, depth=depth_of(pattern), mixer=mixer)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with_cache = model.generate(
        **picture_prompt, **options, use_cache=True, output_logits=True, return_dict_in_generate=True
    )
    without = model.generate(
        **picture_prompt, **options, use_cache=False, output_logits=True, return_dict_in_generate=True
    )
    assert with_cache.sequences.tolist() == without.sequences.tolist()
    torch.testing.assert_close(torch.stack(with_cache.logits), torch.stack(without.logits), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("mixer", mixer_names())
def test_left_padding_changes_nothing(
    mixer: str, make_model: Callable[..., Any], picture_prompt: dict[str, torch.Tensor]
) -> None:
    model = make_model("SLLL", mixer=mixer)
    alone = model.generate(**picture_prompt, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0)
    long, short = picture_prompt["input_ids"], torch.tensor([[7, 9, 11]])
    padding = long.shape[1] - short.shape[1]
    padded = {
        "input_ids": torch.cat([long, torch.nn.functional.pad(short, (padding, 0))]),
        "attention_mask": torch.cat(
            [torch.ones_like(long), torch.nn.functional.pad(torch.ones_like(short), (padding, 0))]
        ),
        "mm_token_type_ids": torch.cat([picture_prompt["mm_token_type_ids"], torch.zeros_like(long)]),
        "pixel_values": picture_prompt["pixel_values"],
        "image_grid_thw": picture_prompt["image_grid_thw"],
    }
    both = model.generate(**padded, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0)
    only_short = model.generate(
        input_ids=short,
        attention_mask=torch.ones_like(short),
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert both[0].tolist() == alone[0].tolist()
    assert both[1, padding:].tolist() == only_short[0].tolist()


@pytest.mark.parametrize("mixer", mixer_names())
@torch.no_grad()
def test_padded_prompts_may_be_cut_anywhere(mixer: str, make_model: Callable[..., Any]) -> None:
    decoder = make_model("SLLL", mixer=mixer).model.language_model
    T = 12
    ids = torch.randint(2, 60, (2, T), generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[1] * T, [0] * 4 + [1] * (T - 4)])
    positions = (mask.cumsum(1) - 1).clamp(min=0).expand(3, -1, -1)
    whole = decoder(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state
    for cut in range(1, T):
        pieces, cache = [], HybridCache(config=decoder.config)
        for start, end in ((0, cut), (cut, T)):
            piece = decoder(
                input_ids=ids[:, start:end], attention_mask=mask[:, :end], position_ids=positions[:, :, start:end],
                use_cache=True, **{CACHE_ARGUMENT: cache},
            )  # fmt: skip
            pieces.append(piece.last_hidden_state)
        error = (torch.cat(pieces, dim=1) - whole)[mask.bool()].abs().max()
        assert error <= 1e-4, cut


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("T", [1, 4, 15])
def test_a_static_cache_of_transformers_gives_the_same(pattern: str, T: int, make_model: Callable[..., Any]) -> None:
    model = make_model(pattern, depth=depth_of(pattern))
    ids = torch.randint(2, 60, (2, T), generator=torch.Generator().manual_seed(2))
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    found = model.generate(ids, **options, cache_implementation="static")
    expected = model.generate(ids, **options, use_cache=False)
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(expected.logits), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("mixer", mixer_names())
def test_beam_search_reorders_the_states(
    mixer: str, make_model: Callable[..., Any], picture_prompt: dict[str, torch.Tensor]
) -> None:
    model = make_model("SLLL", mixer=mixer)
    options = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with_cache = model.generate(**picture_prompt, **options)
    without = model.generate(**picture_prompt, **options, use_cache=False)
    assert with_cache.tolist() == without.tolist()


@pytest.mark.parametrize("mixer", mixer_names())
def test_save_and_load_are_exact(
    mixer: str, tmp_path: Path, make_model: Callable[..., Any], picture_prompt: dict[str, torch.Tensor]
) -> None:
    model = make_model("SLLL", mixer=mixer)
    model.save_pretrained(tmp_path)
    for cls in (HybridVLForConditionalGeneration, AutoModelForImageTextToText):
        again = cls.from_pretrained(tmp_path).eval()
        assert again.config.text_config.pattern == "SLLL"
        assert again.config.text_config.mixer == mixer
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name]), name
        with torch.no_grad():
            assert torch.equal(model(**picture_prompt).logits, again(**picture_prompt).logits)


@pytest.mark.parametrize("mixer", mixer_names())
def test_what_lies_behind_the_window_reaches_the_answer_only_through_the_state(
    mixer: str, make_model: Callable[..., Any]
) -> None:
    window = 6
    ids = torch.randint(2, 60, (1, 40), generator=torch.Generator().manual_seed(3))
    other = ids.clone()
    other[0, 0] = (ids[0, 0] - 2 + 29) % 58 + 2
    hybrid, windowed = make_model("SLLL", mixer=mixer), make_model("S")
    with torch.no_grad():
        same = torch.equal(hybrid(ids).logits[0, -1], hybrid(other).logits[0, -1])
        assert same == (mixer not in recurrent_mixers())
        # Four layers of a window of 6 reach 4 · 5 tokens back, and 40 are further.
        assert 4 * (window - 1) < 39
        assert torch.equal(windowed(ids).logits[0, -1], windowed(other).logits[0, -1])


def test_gradients_reach_every_parameter_of_every_mixer(
    make_model: Callable[..., Any], picture_prompt: dict[str, torch.Tensor]
) -> None:
    for mixer in mixer_names():
        model = make_model("SLLL", mixer=mixer).train()
        model(**picture_prompt, labels=picture_prompt["input_ids"], use_cache=False).loss.backward()
        untouched = [
            name for name, p in model.model.language_model.named_parameters() if p.grad is None or not p.grad.any()
        ]
        assert not untouched, f"{mixer}: {untouched}"


def test_gradient_checkpointing_gives_the_same_gradients(
    make_model: Callable[..., Any], picture_prompt: dict[str, torch.Tensor]
) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = make_model("SLLL").train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**picture_prompt, labels=picture_prompt["input_ids"]).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_a_cache_of_another_model_is_refused(make_model: Callable[..., Any]) -> None:
    attention, hybrid = make_model("F"), make_model("SLLL")
    ids = torch.tensor([[3, 4, 5]])
    cache = attention(ids, use_cache=True)
    name = "cache" if "cache" in cache else "past_key_values"
    with pytest.raises(UserError, match="another model"):
        hybrid(torch.tensor([[6]]), **{name: cache[name]})


@pytest.mark.parametrize("pattern", ["", "SX", "SLL"])
def test_patterns_that_do_not_fit_say_what_fits(pattern: str, make_config: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="pattern"):
        make_config(pattern, depth=4)


def test_heads_that_do_not_divide_are_refused(make_config: Callable[..., Any]) -> None:
    from infinitevl_bench.models.config import HybridVLTextConfig

    with pytest.raises(UserError, match="attention heads"):
        HybridVLTextConfig(hidden_size=30, num_attention_heads=4, num_hidden_layers=4)


@pytest.mark.parametrize("mixer", mixer_names())
def test_packed_texts_are_each_alone(mixer: str, make_model: Callable[..., Any]) -> None:
    model = make_model("SLLL", mixer=mixer)
    ids = torch.randint(2, 60, (1, 30), generator=torch.Generator().manual_seed(3))
    ends = [0, 1, 12, 30]
    with torch.no_grad():
        packed = model(ids, cu_seq_lens_q=torch.tensor(ends, dtype=torch.int32)).logits
        alone = [model(ids[:, low:high]).logits for low, high in pairwise(ends)]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=1e-4, atol=1e-5)
