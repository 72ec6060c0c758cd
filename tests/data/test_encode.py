"""Tokens are the processor's own, answers are labelled, lengths are known before anything is decoded."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from infinitevl_bench.data.conversations import BrokenSampleError, Conversation, Message
from infinitevl_bench.data.encode import Limits, encode, outline
from infinitevl_bench.data.families import generate_page
from infinitevl_bench.data.inspection import inspect
from infinitevl_bench.data.samples import IGNORED, encode_page
from infinitevl_bench.data.sources import open_source
from infinitevl_bench.data.video import VideoLimits, plan_video
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.processor import load_processor
from PIL import Image


@pytest.fixture(scope="module")
def processor() -> Any:
    return load_processor()


def image(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8))


def film(path: Path, frames: int = 20, fps: float = 10.0, size: tuple[int, int] = (64, 48)) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, size)
    for number in range(frames):
        writer.write(np.full((*size[::-1], 3), 12 * number, dtype=np.uint8))
    writer.release()
    return path


def conversation(*turns: str, images: tuple[Any, ...] = (), videos: tuple[Path, ...] = ()) -> Conversation:
    roles = ("user", "assistant")
    messages = tuple(Message(roles[number % 2], text) for number, text in enumerate(turns))
    return Conversation(messages, images, videos, "data.json, line 7")


def test_tokens_are_those_of_the_processor(processor: Any) -> None:
    pictures = (image(70, 50), image(56, 112))
    talk = conversation("<image>one <image>two?", "yes", "and\nnow?", "no: 7", images=pictures)
    sample = encode(talk, processor, Limits())
    seen = {"type": "image"}
    shown = [
        {"role": "user", "content": [seen, {"type": "text", "text": "one "}, seen, {"type": "text", "text": "two?"}]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "and\nnow?"},
        {"role": "assistant", "content": "no: 7"},
    ]  # fmt: skip
    text = processor.apply_chat_template(shown, tokenize=False)
    whole = processor(text=[text], images=list(pictures), return_tensors="pt")
    assert sample["input_ids"].tolist() == whole["input_ids"][0].tolist()
    assert torch.equal(sample["pixel_values"], whole["pixel_values"])
    assert torch.equal(sample["image_grid_thw"], whole["image_grid_thw"])
    learnt = sample["labels"] != IGNORED
    assert torch.equal(sample["labels"][learnt], sample["input_ids"][learnt])
    assert processor.tokenizer.decode(sample["labels"][learnt]) == "yes<|im_end|>no: 7<|im_end|>"
    assert torch.equal(sample["mm_token_type_ids"] == 1, sample["input_ids"] == processor.image_token_id)


@pytest.mark.parametrize("family", ["documents", "charts"])
def test_a_page_is_encoded_as_the_studies_do(processor: Any, family: str) -> None:
    source = open_source(f"pages:{family}:3")
    page = generate_page(family, seed=0, index=2, split="train", level=1)
    ours, theirs = encode(source[2], processor, Limits()), encode_page(page, processor)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("size", [(28, 28), (30, 99), (1400, 1400), (3000, 900)], ids=str)
def test_the_length_is_known_from_the_size_alone(processor: Any, size: tuple[int, int]) -> None:
    limits = Limits(context=100_000)
    talk = conversation("<image>?", "ok", images=(image(*size),))
    sample = encode(talk, processor, limits)
    assert outline(talk, processor, limits).ids == sample["input_ids"].tolist()
    assert int(sample["image_grid_thw"][:, 1:].prod()) * 14 * 14 <= 1344 * 1344


@pytest.mark.parametrize(("fps", "most", "frames"), [(2.0, 128, 4), (10.0, 7, 7), (0.1, 128, 1)])
def test_a_video_is_sampled_evenly(tmp_path: Path, processor: Any, fps: float, most: int, frames: int) -> None:
    path = film(tmp_path / "film.avi")
    limits = Limits(video=VideoLimits(fps=fps, frames=most))
    talk = conversation("<video>What moves?", "nothing", videos=(path,))
    plan = plan_video(path, limits.video, "")
    assert len(plan.indices) == frames
    assert plan.indices[0] == 0
    assert plan.indices[-1] == (19 if frames > 1 else 0)
    sample = encode(talk, processor, limits)
    assert outline(talk, processor, limits).ids == sample["input_ids"].tolist()
    grid = sample["video_grid_thw"][0].tolist()
    assert grid[0] == -(-frames // 2)
    assert sample["second_per_grid_ts"].item() == pytest.approx(2 * 2.0 / frames)
    assert (sample["mm_token_type_ids"] == 2).sum() == np.prod(grid) // 4


@pytest.mark.parametrize("damage", [b"", b"not a film", None])
def test_a_video_that_does_not_decode_is_named(tmp_path: Path, processor: Any, damage: bytes | None) -> None:
    path = film(tmp_path / "film.avi")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    talk = conversation("<video>?", "ok", videos=(path,))
    with pytest.raises(BrokenSampleError, match=r"data.json, line 7: video .*film.avi does not decode"):
        encode(talk, processor, Limits())


def test_a_long_sample_loses_its_end(processor: Any) -> None:
    talk = conversation("a?", "b" * 8, "c?" * 40, "d" * 40)
    whole = outline(talk, processor, Limits()).ids
    found = outline(talk, processor, Limits(context=60))
    assert found.cut
    assert found.ids == whole[:60]
    assert len(found.labels) == 60


@pytest.mark.parametrize(
    ("talk", "words"),
    [
        (conversation("a?", "b" * 300), "an answer longer than the context of 60"),
        (conversation("a?" * 100, "b"), "no answer within the context of 60"),
        (conversation("a?", "b", "<image>?", "c", images=(image(560, 560),)), "a picture beyond the context of 60"),
        (conversation("<|image_pad|>?", "b"), "placeholder of a picture"),
        (conversation("<image>?", "b", images=(image(28, 28 * 250),)), "cannot be used"),
    ],
)
def test_what_does_not_fit_the_context_is_named(processor: Any, talk: Conversation, words: str) -> None:
    with pytest.raises(BrokenSampleError, match=f"data.json, line 7: .*{words}"):
        outline(talk, processor, Limits(context=60))


def test_a_source_is_looked_through_once(tmp_path: Path, processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.jsonl"
    rows = [[f"question {number}", "answer" * (1 + number)] for number in range(6)]
    lines = [
        {"messages": [{"role": role, "content": text} for role, text in zip(("user", "assistant"), row, strict=True)]}
        for row in rows
    ]
    lines[2]["messages"][0]["content"] = "<image>"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    source, limits = open_source(str(path)), Limits(context=60)
    found = inspect(source, processor, limits, tmp_path / "cache", most_broken=1)
    assert found.whole.tolist() == [0, 1, 3, 4, 5]
    assert found.broken == {2: f"{path}, line 3: 1 <image> marks for 0 images"}
    expected = [0 if number == 2 else len(outline(source[number], processor, limits).ids) for number in range(6)]
    assert found.lengths.tolist() == expected
    report = found.summary()
    assert report["samples"] == 5
    assert report["tokens"] == sum(expected)
    assert report["longest"] == max(expected)

    monkeypatch.setattr("infinitevl_bench.data.inspection.outline", None)  # calling it would fail
    again = inspect(source, processor, limits, tmp_path / "cache", most_broken=1)
    assert again.lengths.tolist() == expected
    assert again.broken == found.broken
    with pytest.raises(UserError, match=r"more than 0 broken samples, the first: .*line 3.*--set max_broken="):
        inspect(source, processor, limits, tmp_path / "cache", most_broken=0)


def test_a_source_of_broken_samples_alone_is_refused(tmp_path: Path, processor: Any) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("{}\n{}")
    with pytest.raises(UserError, match=r"no sample that can be trained on: .*line 1"):
        inspect(open_source(str(path)), processor, Limits(), tmp_path / "cache", most_broken=5)
