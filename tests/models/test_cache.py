"""The model's cache: what is refused before anything is written, and what beam search and training do with it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.cache import HybridCache, MixerState
from infinitevl_bench.models.hybrid import CACHE_ARGUMENT
from infinitevl_bench.models.mixers.base import TokenMixer
from infinitevl_bench.models.registry import mixer_names
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

Make = Callable[..., Any]


def ids(B: int, T: int) -> Tensor:
    return torch.randint(2, 60, (B, T), generator=torch.Generator().manual_seed(4))


def run(model: Any, tokens: Tensor, cache: Any) -> Tensor:
    return model(tokens, use_cache=True, **{CACHE_ARGUMENT: cache}).logits


FOREIGN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "of more layers": ({"depth": 8}, {}),
    "of fewer layers": ({}, {"depth": 8}),
    "with windows for full attention": ({"pattern": "S"}, {"pattern": "F"}),
    "with states for attention": ({"pattern": "FLLL"}, {"pattern": "F"}),
    "with keys for states": ({"pattern": "F"}, {"pattern": "L"}),
    "of another pattern": ({}, {"pattern": "LLLS"}),
    "of another mixer with the same state": ({}, {"mixer": "gla"}),
    "of another mixer": ({}, {"mixer": "mamba1"}),
    "of wider convolutions": ({}, {"conv_size": 3}),
    "of convolutions": ({}, {"conv_size": 0}),
    "without convolutions": ({"conv_size": 0}, {}),
    "of wider values": ({"expand_v": 4}, {}),
}


@pytest.mark.parametrize(("theirs", "ours"), FOREIGN.values(), ids=FOREIGN)
@torch.no_grad()
def test_a_cache_of_another_model_is_refused(theirs: dict[str, Any], ours: dict[str, Any], make_model: Make) -> None:
    model, other = make_model(**ours), make_model(**theirs)
    cache = HybridCache(config=other.config)
    run(other, ids(2, 5), cache)
    with pytest.raises(UserError, match="made for another model"):
        run(model, ids(2, 1), cache)


class Own(TokenMixer):
    """A mixer as another package may write it: what it remembers is its last input, by no convolution of ours."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    @classmethod
    def shape_of_state(cls, config: Any) -> None:
        """None: there is no state."""

    def mix(self, x: Tensor, mask: Any, state: MixerState | None, cu_seqlens: Any = None) -> tuple[Tensor, MixerState]:
        before = x[:, :1] * 0 if state is None else state.conv.mT
        return self.o_proj(torch.cat([before, x[:, :-1]], dim=1)), MixerState(x[:, -1:].mT, None)


@torch.no_grad()
def test_a_mixer_with_convolutions_of_its_own_goes_on_from_its_cache(make_model: Make) -> None:
    model = make_model()
    for index in model.config.text_config.linear_layers:
        model.model.language_model.layers[index].self_attn = Own(model.config.text_config, index)
    whole, cache, tokens = model(ids(2, 6), use_cache=False).logits, HybridCache(config=model.config), ids(2, 6)
    pieces = torch.cat([run(model, piece, cache) for piece in tokens.split([3, 1, 2], dim=1)], dim=1)
    torch.testing.assert_close(pieces, whole)


@pytest.mark.parametrize("pattern", ["SLLL", "L", "S", "F"])
@torch.no_grad()
def test_a_cache_of_another_batch_is_refused(pattern: str, make_model: Make) -> None:
    model = make_model(pattern)
    cache = HybridCache(config=model.config)
    run(model, ids(2, 5), cache)
    with pytest.raises(UserError, match="another model or batch"):
        run(model, ids(3, 1), cache)


def test_a_narrower_window_than_the_models_is_refused(make_model: Make) -> None:
    model = make_model("S")
    narrow = copy.deepcopy(model.config.text_config)
    narrow.sliding_window = 3
    with pytest.raises(UserError, match="a window of 3 tokens"):
        run(model, ids(1, 4), HybridCache(config=narrow))


@torch.no_grad()
def test_what_is_no_cache_or_knows_no_layers_is_refused(make_model: Make) -> None:
    hybrid, linear, attention = (make_model(pattern) for pattern in ("SLLL", "L", "F"))
    for cache in ([], (), {}):
        with pytest.raises(UserError, match="not a cache"):
            run(hybrid, ids(1, 4), cache)
    with pytest.raises(UserError, match=r"HybridCache\(config=model.config\)"):
        run(hybrid, ids(1, 4), DynamicCache())
    for cache in (
        DynamicCache(config=linear.config.text_config), StaticCache(config=linear.config.text_config, max_cache_len=9)
    ):  # fmt: skip
        with pytest.raises(UserError, match="does not count tokens"):
            run(linear, ids(1, 4), cache)
    torch.testing.assert_close(run(attention, ids(1, 4), DynamicCache()), attention(ids(1, 4)).logits)


@pytest.mark.parametrize("pattern", ["SLLL", "L", "FL"])
@pytest.mark.parametrize("mixer", mixer_names())
@torch.no_grad()
def test_sequences_are_repeated_and_selected(mixer: str, pattern: str, make_model: Make) -> None:
    model = make_model(pattern, mixer=mixer)
    cache = HybridCache(config=model.config)
    run(model, ids(2, 9), cache)
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([3, 0, 2]))
    found = run(model, torch.tensor([[5], [6], [7]]), cache)[:, 0]
    whole = torch.cat([ids(2, 9)[[1, 0, 1]], torch.tensor([[5], [6], [7]])], dim=1)
    torch.testing.assert_close(found, model(whole).logits[:, -1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("pattern", ["SLLL", "L", "FL"])
@torch.no_grad()
def test_a_cache_that_cannot_be_cropped_says_so_and_stays_whole(pattern: str, make_model: Make) -> None:
    model = make_model(pattern)
    cache = HybridCache(config=model.config)
    run(model, ids(1, 9), cache)
    kept = copy.deepcopy(cache)
    with pytest.raises(UserError, match="deepcopy"):
        cache.crop(-2)
    following = torch.tensor([[5]])
    assert torch.equal(run(model, following, cache), run(model, following, kept))


@pytest.mark.parametrize("mixer", mixer_names())
def test_gradients_flow_through_the_cache(mixer: str, make_model: Make) -> None:
    model = make_model("L", mixer=mixer).train()

    def gradient(*cuts: int) -> Tensor:
        model.zero_grad()
        cache = HybridCache(config=model.config)
        pieces = [run(model, piece, cache) for piece in ids(2, 12).tensor_split(cuts, dim=1)]
        torch.cat(pieces, dim=1).square().mean().backward()
        return torch.cat([p.grad.flatten() for p in model.model.language_model.layers.parameters()])

    torch.testing.assert_close(gradient(1, 5, 6), gradient(), atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("pattern", ["SLLL", "L", "FLLL"])
@pytest.mark.parametrize(("before", "then"), [(1, 3), (3, 1)])
@torch.no_grad()
def test_a_cache_that_was_reset_takes_another_batch(pattern: str, before: int, then: int, make_model: Make) -> None:
    model = make_model(pattern)
    cache, tokens = HybridCache(config=model.config), ids(then, 6)
    run(model, ids(before, 5), cache)
    cache.reset()
    pieces = torch.cat([run(model, piece, cache) for piece in tokens.split(3, dim=1)], dim=1)
    torch.testing.assert_close(pieces, model(tokens, use_cache=False).logits)


def test_a_cache_of_inference_mode_goes_on_outside_it(make_model: Make) -> None:
    model, tokens = make_model(), ids(2, 6)
    cache = HybridCache(config=model.config)
    with torch.inference_mode():
        run(model, tokens[:, :4], cache)
    with torch.no_grad():
        last = run(model, tokens[:, 4:], cache)
        torch.testing.assert_close(last, model(tokens, use_cache=False).logits[:, 4:])
