"""Greedy answers to prompts, in batches that never depend on where a run was interrupted."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

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
    """The same prompt with every picture replaced by uniform grey of the same size."""
    return [
        {"type": "image", "value": Image.new("RGB", part["value"].size, GREY)} if part["type"] == "image" else part
        for part in message
    ]


def chat_text(processor: Any, message: Message) -> str:
    """The prompt in the processor's chat template, ready for the answer."""
    content = [
        {"type": "image"} if part["type"] == "image" else {"type": "text", "text": part["value"]} for part in message
    ]
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return text


def batches(processor: Any, messages: Sequence[Message], size: int) -> Iterator[list[int]]:
    """Positions of messages in batches of about equal prompt length; a function of the messages alone."""

    def length(position: int) -> tuple[int, int]:
        pictures = [part["value"] for part in messages[position] if part["type"] == "image"]
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
def answer(model: Any, processor: Any, messages: Sequence[Message], max_new_tokens: int) -> list[Answer]:
    """Answer a batch of prompts greedily.

    Args:
        model: A model with transformers' ``generate``.
        processor: Its ``Qwen2_5_VLProcessor``.
        messages: The prompts.
        max_new_tokens: Longest answer.
    """
    start = time.perf_counter()
    tokenizer = processor.tokenizer
    pictures = [part["value"] for message in messages for part in message if part["type"] == "image"]
    inputs = processor(
        text=[chat_text(processor, message) for message in messages],
        images=pictures or None,
        padding=True,
        padding_side="left",
        return_tensors="pt",
    ).to(model.device)
    produced = model.generate(
        **inputs,
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # A checkpoint's own sampling settings would only warn that greedy decoding ignores them.
        temperature=None,
        top_p=None,
        top_k=None,
    )
    rows = produced[:, inputs["input_ids"].shape[1] :].tolist()
    latency = (time.perf_counter() - start) * 1000.0 / len(messages)
    answers = []
    for row in rows:
        ended = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
        text = tokenizer.decode(row[:ended], skip_special_tokens=True).strip()
        answers.append(Answer(text, min(ended + 1, len(row)), round(latency, 3)))
    return answers
