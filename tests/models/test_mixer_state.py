"""Every token mixer over time: its state from piece to piece, padding, packed sequences, and caches."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.cache import HybridCache, MixerState, read_state
from infinitevl_bench.models.mixers.base import TokenMixer
from infinitevl_bench.models.registry import MIXERS, get_mixer
from torch import Tensor

from .mixing import Make, assert_same, every_mixer, every_variant, relative_error, tokens

# --- state ------------------------------------------------------------------------------------------------------------


@every_variant
@torch.no_grad()
def test_one_pass_is_token_by_token(name: str, options: dict[str, Any], make_mixer: Make) -> None:
    mixer, x = make_mixer(name, **options), tokens(2, 70)
    whole, last = mixer.mix(x, None, None)
    state: MixerState | None = None
    outputs = []
    for t in range(70):
        y, state = mixer.mix(x[:, t : t + 1], None, state)
        outputs.append(y)
    assert state is not None
    assert_same(torch.cat(outputs, dim=1), whole)
    assert_same(state.conv, last.conv)
    assert_same(state.recurrent, last.recurrent)


@every_mixer
@pytest.mark.parametrize("cuts", [(1,), (2, 3), (64,), (63, 65), (5, 6, 7, 40)], ids=str)
@torch.no_grad()
def test_pieces_through_the_cache_equal_one_pass(
    name: str, cuts: tuple[int, ...], make_mixer: Make, make_config: Callable[..., Any]
) -> None:
    mixer, x = make_mixer(name), tokens(2, 70)
    whole, _ = mixer(x)
    cache = HybridCache(config=make_config(mixer=name).text_config)
    edges = (0, *cuts, 70)
    outputs = [mixer(x[:, low:high], cache=cache)[0] for low, high in pairwise(edges)]
    assert_same(torch.cat(outputs, dim=1), whole)
    _, last = mixer.mix(x, None, None)
    state = read_state(cache, mixer.layer_idx)
    assert state is not None
    assert_same(state.recurrent, last.recurrent)


@every_mixer
@torch.no_grad()
def test_the_given_state_is_not_modified(name: str, make_mixer: Make) -> None:
    mixer = make_mixer(name)
    _, state = mixer.mix(tokens(2, 9), None, None)
    before = [None if part is None else part.clone() for part in state]
    for T in (1, 20):
        mixer.mix(tokens(2, T, seed=8), None, state)
    for old, new in zip(before, state, strict=True):
        assert (old is None and new is None) or torch.equal(old, new)


@every_variant
@torch.no_grad()
def test_state_elements_are_those_of_the_state(
    name: str, options: dict[str, Any], make_mixer: Make, make_config: Callable[..., Any]
) -> None:
    config = make_config(mixer=name, **options).text_config
    for T in (1, 50):
        mixer = make_mixer(name, **options)
        _, state = mixer.mix(tokens(1, T), None, None)
        assert mixer.state_shape == (None if state.recurrent is None else state.recurrent.shape[1:])
        elements = 0 if state.recurrent is None else state.recurrent.numel()
        assert elements == get_mixer(name).state_elements(config)


@every_mixer
@pytest.mark.parametrize("T", [1, 40])
@torch.no_grad()
def test_bfloat16_models_keep_a_float32_state(name: str, T: int, make_mixer: Make) -> None:
    mixer = make_mixer(name).to(torch.bfloat16)
    wide = make_mixer(name)
    wide.load_state_dict({key: value.float() for key, value in mixer.state_dict().items()})
    x = tokens(2, T, dtype=torch.bfloat16)
    y, state = mixer.mix(x, None, None)
    expected, expected_state = wide.mix(x.float(), None, None)
    assert y.dtype == torch.bfloat16
    assert state.recurrent is None or state.recurrent.dtype == torch.float32
    # Each of a dozen operations in a row rounds to eight bits.
    assert_same(y, expected, 3e-2)
    assert_same(state.recurrent, expected_state.recurrent, 3e-2)
    assert y.isfinite().all()


@every_mixer
def test_gradients_do_not_depend_on_the_backend(name: str, make_mixer: Make) -> None:
    x = tokens(2, 70)
    gradients = []
    for backend in ("reference", "torch"):
        mixer = make_mixer(name, backend=backend)
        leaf = x.clone().requires_grad_()
        mixer(leaf)[0].sin().sum().backward()
        gradients.append({"x": leaf.grad} | {key: p.grad for key, p in mixer.named_parameters()})
    for key, gradient in gradients[0].items():
        assert gradient is not None, key
        assert relative_error(gradients[1][key], gradient) <= 5e-5, key


@every_variant
def test_every_parameter_is_trained(name: str, options: dict[str, Any], make_mixer: Make) -> None:
    mixer = make_mixer(name, **options)
    mixer(tokens(2, 20))[0].sin().sum().backward()
    assert not [key for key, p in mixer.named_parameters() if p.grad is None or not p.grad.any()]


# --- padding ----------------------------------------------------------------------------------------------------------


def padded(x: Tensor, left: int, right: int) -> tuple[Tensor, Tensor]:
    """The tokens between large garbage, and the mask that says so."""
    B, T, D = x.shape
    garbage = 50 * torch.randn(B, left + T + right, D, generator=torch.Generator().manual_seed(5))
    garbage[:, left : left + T] = x
    mask = torch.zeros(B, left + T + right, dtype=torch.long)
    mask[:, left : left + T] = 1
    return garbage, mask


@every_variant
@pytest.mark.parametrize("left", [1, 5, 64])
@torch.no_grad()
def test_left_padding_changes_nothing(name: str, options: dict[str, Any], left: int, make_mixer: Make) -> None:
    mixer, x = make_mixer(name, **options), tokens(2, 20)
    alone, last = mixer.mix(x, None, None)
    both, mask = padded(x, left, 0)
    y, state = mix_masked(mixer, both, mask)
    assert y.isfinite().all()
    assert_same(y[:, left:], alone)
    assert_same(state.conv, last.conv)
    assert_same(state.recurrent, last.recurrent)


@every_variant
@pytest.mark.parametrize("right", [1, 5, 64])
@torch.no_grad()
def test_right_padding_changes_nothing(name: str, options: dict[str, Any], right: int, make_mixer: Make) -> None:
    mixer, x = make_mixer(name, **options), tokens(2, 20)
    alone, last = mixer.mix(x, None, None)
    both, mask = padded(x, 0, right)
    y, state = mix_masked(mixer, both, mask)
    assert y.isfinite().all()
    assert_same(y[:, :20], alone)
    assert_same(state.recurrent, last.recurrent)


@every_variant
@torch.no_grad()
def test_right_padding_leaves_the_convolutions_where_the_tokens_ended(
    name: str, options: dict[str, Any], make_mixer: Make
) -> None:
    mixer, x = make_mixer(name, **options), tokens(2, 20)
    _, last = mixer.mix(x, None, None)
    _, state = mix_masked(mixer, *padded(x, 0, 5))
    assert_same(state.conv, last.conv)


@every_variant
@torch.no_grad()
def test_padding_inside_changes_nothing(name: str, options: dict[str, Any], make_mixer: Make) -> None:
    mixer, x = make_mixer(name, **options), tokens(2, 20)
    alone, last = mixer.mix(x, None, None)
    hole, mask = padded(x, 0, 6)
    hole = torch.cat([x[:, :9], hole[:, 20:], x[:, 9:]], dim=1)
    mask = torch.cat([mask[:, :9], mask[:, 20:], mask[:, 9:20]], dim=1)
    y, state = mix_masked(mixer, hole, mask)
    assert_same(torch.cat([y[:, :9], y[:, 15:]], dim=1), alone)
    assert_same(state.recurrent, last.recurrent)


@every_mixer
@torch.no_grad()
def test_sequences_of_other_lengths_in_the_batch_change_nothing(name: str, make_mixer: Make) -> None:
    mixer = make_mixer(name)
    lengths = [1, 7, 30]
    batch, mask = torch.zeros(3, 30, 32), torch.zeros(3, 30, dtype=torch.long)
    for row, length in enumerate(lengths):
        batch[row, -length:] = tokens(1, length, seed=row)
        mask[row, -length:] = 1
    y, _ = mixer(batch, attention_mask=mask)
    for row, length in enumerate(lengths):
        alone, _ = mixer(tokens(1, length, seed=row))
        assert_same(y[row, -length:], alone[0])


def mix_masked(mixer: TokenMixer, x: Tensor, mask: Tensor) -> tuple[Tensor, MixerState]:
    """Run a mixer as the decoder does, and return the state that it would hand to the cache."""
    kept: list[MixerState] = []
    mix = mixer.mix

    def record(*arguments: Any) -> tuple[Tensor, MixerState]:
        y, state = mix(*arguments)
        kept.append(state)
        return y, state

    mixer.mix = record  # type: ignore[method-assign]
    try:
        y, _ = mixer(x, attention_mask=mask)
    finally:
        del mixer.mix
    return y, kept[0]


# --- packed sequences -------------------------------------------------------------------------------------------------

ENDS = [0, 1, 4, 30, 95, 97]


@every_variant
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_packed_sequences_are_each_alone(name: str, options: dict[str, Any], backend: str, make_mixer: Make) -> None:
    mixer, x = make_mixer(name, backend=backend, **options), tokens(1, ENDS[-1])
    results = []
    for together in (True, False):
        leaf = x.clone().requires_grad_()
        if together:
            y, _ = mixer(leaf, cu_seq_lens_q=torch.tensor(ENDS, dtype=torch.int32), max_length_q=65)
        else:
            y = torch.cat([mixer(leaf[:, low:high])[0] for low, high in pairwise(ENDS)], dim=1)
        gradients = torch.autograd.grad((y * tokens(1, ENDS[-1], seed=9)).sum(), [leaf, *mixer.parameters()])
        results.append((y.detach(), *gradients))
    for packed, alone in zip(*results, strict=True):
        assert_same(packed, alone, 1e-4)


@every_mixer
@torch.no_grad()
def test_every_packed_sequence_has_its_own_state(name: str, make_mixer: Make) -> None:
    mixer, x = make_mixer(name), tokens(1, ENDS[-1])
    _, states = mixer.mix(x, None, None, torch.tensor(ENDS))
    for n, (low, high) in enumerate(pairwise(ENDS)):
        _, state = mixer.mix(x[:, low:high], None, None)
        for packed, alone in zip(states, state, strict=True):
            assert_same(None if packed is None else packed[n], None if alone is None else alone[0])


@every_mixer
def test_packed_sequences_take_no_cache_and_no_padding(
    name: str, make_mixer: Make, make_config: Callable[..., Any]
) -> None:
    mixer, x, borders = make_mixer(name), tokens(1, 9), torch.tensor([0, 4, 9])
    cache = HybridCache(config=make_config(mixer=name).text_config)
    with pytest.raises(UserError, match="neither a cache nor an attention mask"):
        mixer(x, cu_seq_lens_q=borders, cache=cache)
    with pytest.raises(UserError, match="neither a cache nor an attention mask"):
        mixer(x, cu_seq_lens_q=borders, attention_mask=torch.ones(1, 9))


# --- caches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MIXERS if get_mixer(name).recurrence is not None])
@torch.no_grad()
def test_the_cache_of_another_model_or_batch_is_refused(
    name: str, make_mixer: Make, make_config: Callable[..., Any]
) -> None:
    cache = HybridCache(config=make_config(mixer=name).text_config)
    make_mixer(name)(tokens(2, 5), cache=cache)
    with pytest.raises(UserError, match="made for another model or batch"):
        make_mixer(name, expand_v=4)(tokens(2, 5), cache=cache)
    with pytest.raises(UserError, match="made for another model or batch"):
        make_mixer(name)(tokens(3, 5), cache=cache)
