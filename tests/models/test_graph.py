"""The fast path against the model itself: all mixers, any cut, beyond the window; what a recorded step must not do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.fast.slots import KeyValueSlots
from infinitevl_bench.models.graph import GraphedDecoder, Replay
from infinitevl_bench.models.registry import mixer_names
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

PATTERNS = {"S": "S", "F": "F", "L": "L", "SLLL": "SLLL", "SFLL": "SFLL"}
Make = Callable[..., Any]


def tokens(T: int, B: int = 1) -> Tensor:
    return torch.randint(5, 60, (B, T), generator=torch.Generator().manual_seed(0))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@torch.no_grad()
def reference(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids).logits


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("chunk", [None, 2, 5, 16])
def test_chunks_and_steps_equal_one_pass(make_model: Make, pattern: str, chunk: int | None) -> None:
    """The window is 6, so it is overrun within the first chunk, between chunks, and by steps."""
    model, ids = make_model(pattern=pattern), tokens(50)
    expected = reference(model, ids)
    decoder = GraphedDecoder(model, max_length=64, chunk=chunk)
    close(decoder.prefill(ids[:, :23]), expected[:, 22])
    for t in range(23, 40):
        close(decoder.decode(ids[:, t : t + 1]), expected[:, t])
    close(decoder.prefill(ids[:, 40:]), expected[:, -1])
    assert decoder.cache.length == int(decoder.cache.seen) == 50


@pytest.mark.parametrize("mixer", mixer_names())
def test_every_mixer_and_batches(make_model: Make, mixer: str) -> None:
    model, ids = make_model(pattern="SL", mixer=mixer), tokens(19, B=2)
    expected = reference(model, ids)
    decoder = GraphedDecoder(model, batch_size=2, chunk=4)
    close(decoder.prefill(ids[:, :9]), expected[:, 8])
    for t in range(9, 19):
        close(decoder.decode(ids[:, t : t + 1]), expected[:, t])


@pytest.mark.parametrize(
    "options", [{"conv_size": 0}, {"norm": False}, {"gate": False}, {"backend": "reference"}], ids=str
)
def test_options_without_a_fast_form_run_all_the_same(make_model: Make, options: dict[str, Any]) -> None:
    model, ids = make_model(pattern="SL", mixer="gated_deltanet", **options), tokens(12)
    decoder = GraphedDecoder(model)
    decoder.prefill(ids[:, :8])
    close([decoder.decode(ids[:, t : t + 1]) for t in range(8, 12)][-1], reference(model, ids)[:, -1])


def test_weights_are_shared_not_copied(make_model: Make) -> None:
    model, ids = make_model(pattern="SLF" + "L"), tokens(9)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    first, second = (GraphedDecoder(model, max_length=16) for _ in range(2))
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    expected = reference(model, ids)[:, -1]
    close(first.prefill(ids), expected)
    close(second.prefill(ids), expected)


def test_reset_snapshot_and_bytes(make_model: Make) -> None:
    model, ids = make_model(pattern="SLFL"), tokens(20)
    decoder = GraphedDecoder(model, max_length=32)
    held = decoder.cache.nbytes()
    decoder.prefill(ids[:, :10])
    back = decoder.snapshot()
    once = decoder.prefill(ids[:, 10:]).clone()
    back()
    close(decoder.prefill(ids[:, 10:]), once)
    decoder.reset()
    close(decoder.prefill(ids), once)
    # 2 · slots · groups · width, in float32, of a window of 6 and of 32 tokens; and the states of two layers.
    config = model.config.text_config
    keys_and_values = 2 * (6 + 32) * config.num_key_value_heads * 8 * 4
    assert decoder.cache.nbytes() == held
    assert held - keys_and_values == 8 + sum(
        t.nbytes for slots in decoder.cache.layers[1::2] for t in (slots.conv, slots.recurrent)
    )


# --- what a graph does: operations as they were recorded, with every Python number as it was --------------------------


def recorded_step(decoder: GraphedDecoder, ids: Tensor) -> Callable[[Tensor], Tensor]:
    """One decode step, recorded as a CUDA graph records it, here by tracing its operations."""
    back = decoder.snapshot()
    graph = make_fx(lambda ids: decoder._run_token(ids), tracing_mode="real")(ids)
    back()
    return graph


@torch.no_grad()
def replay_error(model: Any, ids: Tensor, captured_at: int) -> float:
    """Largest error over a stream far longer than the window, of a step recorded after a few tokens."""
    expected = reference(model, ids)
    decoder = GraphedDecoder(model, max_length=ids.shape[1])
    decoder.prefill(ids[:, :captured_at])
    step = recorded_step(decoder, ids[:, :1])
    return max(
        float((step(ids[:, t : t + 1]) - expected[:, t]).abs().max()) for t in range(captured_at, ids.shape[1])
    )  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("captured_at", [2, 9])
def test_a_recorded_step_is_right_at_any_length(make_model: Make, pattern: str, captured_at: int) -> None:
    assert replay_error(make_model(pattern=pattern), tokens(40), captured_at) <= 2e-5


def test_that_test_fails_on_a_window_frozen_at_capture(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake of the released code: what is seen and written as Python numbers."""
    right = KeyValueSlots.attend_one

    def frozen(self: KeyValueSlots, x: Tensor, cos: Tensor, sin: Tensor, seen: Tensor, scale: float) -> Tensor:
        return right(self, x, cos, sin, torch.tensor(seen.item()), scale)

    model = make_model(pattern="S")
    monkeypatch.setattr(KeyValueSlots, "attend_one", frozen)
    assert replay_error(model, tokens(40), 2) > 1e-3


# --- generate ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["SLLL", "F", "SFLL"])
def test_generate_writes_the_same(make_model: Make, picture_prompt: dict[str, Tensor], pattern: str) -> None:
    model = make_model(pattern=pattern)
    model.generation_config.eos_token_id = 1
    decoder = GraphedDecoder(model, max_length=64)
    expected = model.generate(**picture_prompt, max_new_tokens=24, do_sample=False)
    for _ in range(2):
        found = model.generate(**picture_prompt, max_new_tokens=24, do_sample=False, decoder=decoder)
        assert torch.equal(found, expected)


def test_the_end_may_be_another_than_the_models(make_model: Make) -> None:
    model, prompt = make_model(pattern="SL"), tokens(6)
    written = model.generate(input_ids=prompt, max_new_tokens=8, do_sample=False, eos_token_id=None)
    end = int(written[0, 9])
    found = model.generate(input_ids=prompt, max_new_tokens=8, decoder=GraphedDecoder(model), eos_token_id=end)
    assert torch.equal(found, written[:, : int((written[0, 6:] == end).nonzero()[0]) + 7])


def test_generate_ends_where_a_sequence_ends(make_model: Make) -> None:
    model = make_model(pattern="SL")
    prompt = tokens(6, B=2)
    free = model.generate(input_ids=prompt, max_new_tokens=8, do_sample=False, eos_token_id=None)
    model.generation_config.eos_token_id = int(free[0, 8])
    model.generation_config.pad_token_id = 0
    decoder = GraphedDecoder(model, batch_size=2)
    expected = model.generate(input_ids=prompt, max_new_tokens=8, do_sample=False)
    assert torch.equal(model.generate(input_ids=prompt, max_new_tokens=8, decoder=decoder), expected)


MISTAKES = {
    "sampling": ({"do_sample": True}, "greedy"),
    "beams": ({"num_beams": 2}, "greedy"),
    "penalty": ({"repetition_penalty": 1.3}, "does not take repetition_penalty"),
    "padding": ({"attention_mask": torch.tensor([[0, 1, 1, 1]])}, "padded"),
    "batch": ({"input_ids": torch.ones(2, 4, dtype=torch.long)}, "made for 1"),
    "room": ({"max_new_tokens": 20}, "do not fit"),
}


@pytest.mark.parametrize(("change", "words"), MISTAKES.values(), ids=MISTAKES)
def test_what_generation_by_graphs_does_not_take(make_model: Make, change: dict[str, Any], words: str) -> None:
    model = make_model(pattern="F")
    arguments = {"input_ids": tokens(4), "max_new_tokens": 4} | change
    with pytest.raises(UserError, match=words):
        model.generate(**arguments, decoder=GraphedDecoder(model, max_length=16))


def test_no_room_is_said_before_anything_is_overwritten(make_model: Make) -> None:
    model, ids = make_model(pattern="F"), tokens(10)
    decoder = GraphedDecoder(model, max_length=10)
    decoder.prefill(ids[:, :9])
    with pytest.raises(UserError, match="larger max_length"):
        decoder.prefill(ids[:, :2])
    close(decoder.decode(ids[:, 9:]), reference(model, ids)[:, -1])
    with pytest.raises(UserError, match="larger max_length"):
        decoder.decode(ids[:, :1])


def test_full_attention_needs_room_and_chunks_have_tokens(make_model: Make) -> None:
    with pytest.raises(UserError, match="give max_length"):
        GraphedDecoder(make_model(pattern="F"))
    with pytest.raises(UserError, match="2 or more"):
        GraphedDecoder(make_model(pattern="S"), chunk=1)
    with pytest.raises(UserError, match="no token"):
        GraphedDecoder(make_model(pattern="S")).prefill(tokens(0))


def test_another_batch_is_refused_before_anything_is_written(make_model: Make) -> None:
    model = make_model(pattern="SLLL")
    with pytest.raises(UserError, match="1 or more"):
        GraphedDecoder(model, batch_size=0)
    decoder, ids = GraphedDecoder(model, batch_size=2), tokens(6, B=2)
    decoder.prefill(ids[:, :5])
    for wrong in (ids[:1, 5:], ids[:, 4:]):
        with pytest.raises(UserError, match=r"ids \[2, 1\]"):
            decoder.decode(wrong)
    with pytest.raises(UserError, match="2 sequences, not 1"):
        decoder.prefill(ids[:1])
    close(decoder.decode(ids[:, 5:]), reference(model, ids)[:, -1])


# --- on a GPU ------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("pattern", ["SLLL", "F"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_graphs_replay_to_any_length(make_model: Make, pattern: str, dtype: torch.dtype) -> None:
    """Hundreds of replays beyond the capture and the window, against the same code without graphs and the model."""
    model = make_model(pattern=pattern).cuda()
    ids = tokens(400).cuda()
    wide = reference(model, ids)[:, 100:]
    model.to(dtype)
    # As near to float32 as the model itself is in this type, within a third; kernels of prefill multiply as TF32.
    bound = max(5e-3, 1.33 * relative(reference(model, ids)[:, 100:], wide))
    captured, eager = (GraphedDecoder(model, max_length=512, chunk=32, use_graph=use) for use in (True, False))
    close(captured.prefill(ids[:, :100]), eager.prefill(ids[:, :100]))
    found = torch.stack([captured.decode(ids[:, t : t + 1]).clone() for t in range(100, 400)], dim=1)
    same = torch.stack([eager.decode(ids[:, t : t + 1]).clone() for t in range(100, 400)], dim=1)
    assert relative(found, same) <= 1e-5
    assert relative(found, wide) <= bound


def test_runs_on_the_device_of_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton launches, and graphs are captured, on the current device."""
    current: list[Tensor] = []

    @contextmanager
    def device_of(x: Tensor) -> Iterator[None]:
        current.append(x)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    x = torch.zeros(1)

    def function(given: Tensor) -> Tensor:
        assert current == [x]
        return given + 1

    assert Replay(function, lambda: lambda: None, use_graph=True)(x) == 1
    assert not current
