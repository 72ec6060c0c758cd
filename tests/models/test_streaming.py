"""A stream against transformers' own view of the same frames as one video; questions; constant memory."""

import random
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.checkpoints import new_model
from infinitevl_bench.models.presets import get_preset
from infinitevl_bench.models.processor import load_processor
from infinitevl_bench.models.streaming import AFTER, BEFORE, StreamingSession
from PIL import Image

from .trained_positions import Seen, Text, trained_positions

SIZE = (56, 84)


def frames(count: int, size: tuple[int, int] = SIZE) -> list[Image.Image]:
    rng = random.Random(0)
    return [Image.frombytes("RGB", size, rng.randbytes(3 * size[0] * size[1])) for _ in range(count)]


@pytest.fixture(scope="module")
def processor() -> Any:
    return load_processor()


def model(pattern: str = "SLLL") -> Any:
    return new_model(get_preset("tiny", pattern=pattern), 0).eval()


@torch.no_grad()
def expected_answer(net: Any, processor: Any, shown: list[Image.Image], rate: float, question: str, new: int) -> str:
    """By whole passes over one video whose frames are each doubled, as a picture is."""
    seen = processor.image_processor(images=shown, return_tensors="pt")
    _, rows, columns = (int(x) for x in seen["image_grid_thw"][0])
    tokenizer = processor.tokenizer
    before = tokenizer(BEFORE, add_special_tokens=False)["input_ids"]
    after = tokenizer(AFTER.format(question=question), add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    watched = Seen(len(shown), rows // 2, columns // 2, 2 / rate)
    written: list[int] = []
    while len(written) < new and end not in written:
        tail = [*after, *written]
        tokens = len(shown) * rows * columns // 4
        ids = torch.tensor([[*before, *[net.config.video_token_id] * tokens, *tail]])
        logits = net(
            input_ids=ids,
            position_ids=trained_positions(Text(len(before)), watched, Text(len(tail)))[:, None],
            pixel_values_videos=seen["pixel_values"],
            video_grid_thw=torch.tensor([[len(shown), rows, columns]]),
        ).logits
        written.append(int(logits[0, -1].argmax()))
    return tokenizer.decode([token for token in written if token != end], skip_special_tokens=True)


@pytest.mark.parametrize("pattern", ["SLLL", "F"])
@pytest.mark.parametrize("rate", [1.0, 4.0, 0.5])
def test_a_stream_is_one_video(processor: Any, pattern: str, rate: float) -> None:
    net, shown = model(pattern), frames(5)
    session = StreamingSession(net, processor, frames_per_second=rate, max_length=256)
    answers = []
    for number, frame in enumerate(shown, start=1):
        session.push(frame)
        answers.append(session.ask("what is it ?", max_new_tokens=6))
        assert answers[-1] == expected_answer(net, processor, shown[:number], rate, "what is it ?", 6)
    assert session.frames == 5
    # An answer that never changes would compare nothing.
    assert len(set(answers)) > 1


def test_questions_do_not_disturb_the_stream_and_a_session_can_begin_again(processor: Any) -> None:
    net, shown = model(), frames(4)
    quiet, asked = (StreamingSession(net, processor) for _ in range(2))
    for frame in shown:
        quiet.push(frame)
        asked.push(frame)
        asked.ask("what is it ?", max_new_tokens=3)
    for ours, theirs in zip(quiet.decoder.cache.tensors, asked.decoder.cache.tensors, strict=True):
        assert torch.equal(ours, theirs)
    answer = quiet.ask("what is it ?", max_new_tokens=6)
    quiet.reset()
    for frame in shown:
        quiet.push(frame)
    assert quiet.ask("what is it ?", max_new_tokens=6) == answer


def test_memory_is_constant(processor: Any) -> None:
    session = StreamingSession(model(), processor)
    held = session.cache_bytes
    addresses = [tensor.data_ptr() for tensor in session.decoder.cache.tensors]
    for frame in frames(12):
        session.push(frame)
    assert session.cache_bytes == held
    assert [tensor.data_ptr() for tensor in session.decoder.cache.tensors] == addresses


def test_mistakes_are_named_and_lose_nothing(processor: Any) -> None:
    with pytest.raises(UserError, match="above 0"):
        StreamingSession(model(), processor, frames_per_second=0)
    session = StreamingSession(model("F"), processor, max_length=20)
    with pytest.raises(UserError, match="before the first frame"):
        session.ask("what ?")
    session.push(frames(1)[0])
    with pytest.raises(UserError, match="one size"):
        session.push(frames(1, (84, 84))[0])
    before = [tensor.clone() for tensor in session.decoder.cache.tensors]
    with pytest.raises(UserError, match="larger max_length"):
        session.ask("what is the third word ?", max_new_tokens=30)
    assert all(torch.equal(a, b) for a, b in zip(before, session.decoder.cache.tensors, strict=True))
    session.push(frames(1)[0])
    with pytest.raises(UserError, match="larger max_length"):
        session.push(frames(1)[0])
    assert session.frames == 2


@pytest.mark.gpu
def test_graphs_see_what_the_same_code_without_them_sees(processor: Any) -> None:
    """Over many more frames than the window holds."""
    net, shown = model().to("cuda", torch.bfloat16), frames(60)
    captured, eager = (StreamingSession(net, processor, use_graph=use) for use in (True, False))
    for frame in shown:
        captured.push(frame)
        eager.push(frame)
    for ours, theirs in zip(captured.decoder.cache.tensors, eager.decoder.cache.tensors, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert captured.ask("what is it ?") == eager.ask("what is it ?")
