"""Greedy answers to prompts, in batches that never depend on where a run was interrupted."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from .captured import CapturedSteps
from .videos import Clip
from .vlmevalkit import Message

GREY = (128, 128, 128)


@dataclass(frozen=True)
class Answer:
    """What a model said to one prompt.

    Attributes:
        text: Its answer without special tokens.
        tokens: How many tokens it wrote, the end of turn among them.
        latency_ms: Time of its batch over the samples of the batch, in milliseconds.
    """

    text: str
    tokens: int
    latency_ms: float


def blinded(message: Message) -> Message:
    """The same prompt with every picture, and every frame of a video, replaced by uniform grey of the same size."""

    def grey(picture: Image.Image) -> Image.Image:
        return Image.new("RGB", picture.size, GREY)

    def blind(part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] == "image":
            return {"type": "image", "value": grey(part["value"])}
        if part["type"] == "video":
            clip: Clip = part["value"]
            return {"type": "video", "value": Clip([grey(frame) for frame in clip.frames], clip.fps)}
        return part

    return [blind(part) for part in message]


def pictures_of(message: Message) -> list[Image.Image]:
    """All pictures of a prompt and all frames of its videos, in order."""
    return [
        picture
        for part in message
        if part["type"] != "text"
        for picture in ([part["value"]] if part["type"] == "image" else part["value"].frames)
    ]


def chat_text(processor: Any, message: Message) -> str:
    """The prompt in the processor's chat template, ready for the answer."""
    content = [
        {"type": "text", "text": part["value"]} if part["type"] == "text" else {"type": part["type"]}
        for part in message
    ]
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return text


def batches(processor: Any, messages: Sequence[Message], size: int) -> Iterator[list[int]]:
    """Positions of messages in batches of about equal prompt length; a function of the messages alone."""

    def length(position: int) -> tuple[int, int]:
        pictures = pictures_of(messages[position])
        words = sum(
            len(processor.tokenizer(part["value"])["input_ids"])
            for part in messages[position]
            if part["type"] == "text"
        )
        return sum(picture.width * picture.height for picture in pictures), words

    order = sorted(range(len(messages)), key=lambda position: (*length(position), position))
    for start in range(0, len(order), size):
        yield order[start : start + size]


@torch.inference_mode()
def answer(
    model: Any,
    processor: Any,
    messages: Sequence[Message],
    max_new_tokens: int,
    min_pixels: int | None = None,
    captured: CapturedSteps | None = None,
) -> list[Answer]:
    """Answer a batch of prompts greedily.

    Args:
        model: A model with transformers' ``generate``.
        processor: Its ``Qwen2_5_VLProcessor``.
        messages: The prompts.
        max_new_tokens: Longest answer.
        min_pixels: Smallest area of a picture, in pixels, in the place of a larger one of the processor's.
        captured: Writes the answer by captured steps; then there is one prompt.
    """
    start = time.perf_counter()
    tokenizer = processor.tokenizer
    inputs = encode(processor, messages, min_pixels).to(model.device)
    settings: dict[str, Any] = {
        "do_sample": False,
        "num_beams": 1,
        "max_new_tokens": max_new_tokens,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if captured is None:
        # A checkpoint's own sampling settings would only warn that greedy decoding ignores them.
        settings |= {"temperature": None, "top_p": None, "top_k": None}
    else:
        settings["decoder"] = captured.decoder(inputs["input_ids"].shape[1] + max_new_tokens)
    produced = model.generate(**inputs, **settings)
    rows = produced[:, inputs["input_ids"].shape[1] :].tolist()
    latency = (time.perf_counter() - start) * 1000.0 / len(messages)
    answers = []
    for row in rows:
        ended = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
        text = tokenizer.decode(row[:ended], skip_special_tokens=True).strip()
        answers.append(Answer(text, min(ended + 1, len(row)), round(latency, 3)))
    return answers


def encode(processor: Any, messages: Sequence[Message], min_pixels: int | None = None) -> Any:
    """What the model takes of a batch of prompts, padded on the left; arguments are those of `answer`."""
    pictures = [part["value"] for message in messages for part in message if part["type"] == "image"]
    clips = [part["value"] for message in messages for part in message if part["type"] == "video"]
    options: dict[str, Any] = {}
    limits = processor.image_processor.size
    if pictures and min_pixels is not None and min_pixels < limits["shortest_edge"]:
        size = {"shortest_edge": min_pixels, "longest_edge": limits["longest_edge"]}
        options["images_kwargs"] = {"size": size}
    if clips:
        options["videos"] = [clip.frames for clip in clips]
        options["videos_kwargs"] = {
            "do_resize": False,
            "do_sample_frames": False,
            "video_metadata": [clip.metadata for clip in clips],
        }
        if hasattr(processor.video_processor, "cap_pixels_per_frame"):
            # Some releases warn unless this is said; frames have been resized already.
            options["videos_kwargs"]["cap_pixels_per_frame"] = False
    return processor(
        text=[chat_text(processor, message) for message in messages],
        images=pictures or None,
        padding=True,
        padding_side="left",
        return_tensors="pt",
        **options,
    )
