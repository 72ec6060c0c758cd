"""Training samples: a page, and all questions about it as turns of one conversation.

The tokens are those that the processor makes of `page_messages`; they are put together turn by turn, so the answers'
places are known from the structure and nothing is searched for.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .pages import Page, Question

IGNORED = -100
"""Label of a token that no loss is computed on."""


SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
"""What VLMEvalKit appends to the questions of DocVQA, ChartQA, TextVQA and their like."""


def page_turns(page: Page) -> tuple[Question, ...]:
    """The questions in the forms that VLMEvalKit puts them in, so that an evaluation's prompt is a trained one.

    A question with options is multiple choice half of the time, unless it is `open_in_training`; an open one ends with
    `SHORT_ANSWER` half of the time.
    Each is asked in one form only: a second form could be answered from the first one's answer, without the image.
    """
    picture = hashlib.sha256(page.image.tobytes())
    return tuple(_trained_form(question, picture.copy()) for question in page.questions)


def _trained_form(question: Question, picture: "hashlib._Hash") -> Question:
    """Pick a form with coins that fall the same way in every process."""
    picture.update(question.text.encode())
    by_choice, short = (part % 2 == 0 for part in picture.digest()[:2])
    if question.options and by_choice and not question.open_in_training:
        return choice_form(question)
    return replace(question, text=question.text + SHORT_ANSWER) if short else question


def choice_form(question: Question) -> Question:
    """The multiple-choice form of a question, as VLMEvalKit puts it; the answer is a letter."""
    letters = "ABCDEFGH"[: len(question.options)]
    lines = [f"Question: {question.text}", "Options:"]
    lines += [f"{letter}. {option}" for letter, option in zip(letters, question.options, strict=True)]
    lines += ["Please select the correct answer from the options above. ", ""]
    text = "\n".join(lines)
    return Question(text, (letters[question.options.index(question.answers[0])],), kind=question.kind)


def page_messages(page: Page) -> list[dict[str, Any]]:
    """Chat messages about a page: the image and the first question, the answer, then the other turns."""
    messages: list[dict[str, Any]] = []
    for number, question in enumerate(page_turns(page)):
        content: list[dict[str, Any]] = [{"type": "text", "text": question.text}]
        if number == 0:
            content.insert(0, {"type": "image", "image": page.image})
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": question.answers[0]}]})
    return messages


@dataclass(frozen=True)
class TurnFrame:
    """Tokens of the chat template around questions and answers.

    Attributes:
        before_image: From the start to the image tokens.
        after_image: From the image tokens to the first question.
        to_answer: From a question to its answer.
        to_question: From the end-of-turn token to the next question.
        end: From the last end-of-turn token to the end.
    """

    before_image: list[int]
    after_image: list[int]
    to_answer: list[int]
    to_question: list[int]
    end: list[int]


_MARKS = ("FIRSTQUESTION", "FIRSTANSWER", "SECONDQUESTION", "SECONDANSWER")


@lru_cache(maxsize=8)
def turn_frame(processor: Any) -> TurnFrame:
    """Read the frame off the processor's own chat template, by rendering two turns once."""
    messages: list[dict[str, Any]] = [
        {"role": role, "content": [{"type": "text", "text": mark}]}
        for role, mark in zip(("user", "assistant") * 2, _MARKS, strict=True)
    ]
    messages[0]["content"].insert(0, {"type": "image"})
    rest = processor.apply_chat_template(messages, tokenize=False)
    parts = []
    for mark in (processor.image_token, *_MARKS):
        part, rest = rest.split(mark)
        parts.append(part)
    tokenizer = processor.tokenizer
    close = tokenizer.eos_token
    if not (parts[3].startswith(close) and rest.startswith(close)):
        raise ValueError(f"the chat template does not end an answer with {close}")
    texts = (parts[0], parts[1], parts[2], parts[3].removeprefix(close), rest.removeprefix(close))
    return TurnFrame(*(tokenizer.encode(text, add_special_tokens=False) for text in texts))


def encode_page(
    page: Page, processor: Any, *, most_turns: int | None = None, most_tokens: int | None = None
) -> dict[str, Tensor]:
    """Encode a page and its turns as one training sample.

    Args:
        page: Any page.
        processor: A ``Qwen2_5_VLProcessor``.
        most_turns: The first so many turns only; all if None.
        most_tokens: No more turns than fit into so many tokens, but one at least; all if None.

    Returns:
        ``input_ids``, ``labels`` (answers and the end-of-turn token after each, `IGNORED` elsewhere) and
        ``mm_token_type_ids`` (1 on image tokens), each [T]; ``pixel_values`` [patches, 1176] and ``image_grid_thw``
        [1, 3].
    """
    frame = turn_frame(processor)
    tokenizer = processor.tokenizer
    image = processor.image_processor(images=[page.image], return_tensors="pt")
    grid = image["image_grid_thw"]
    image_tokens = int(grid.prod()) // processor.image_processor.merge_size**2
    turns = page_turns(page)
    texts = [text for question in turns for text in (question.text, question.answers[0])]
    encoded = [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)]

    ids = [*frame.before_image, *[processor.image_token_id] * image_tokens, *frame.after_image]
    labels = [IGNORED] * len(ids)
    kept = _kept_turns(len(ids), encoded, frame, most_turns, most_tokens)
    for number in range(kept):
        question = encoded[2 * number] + frame.to_answer
        answer = [*encoded[2 * number + 1], tokenizer.eos_token_id]
        after = frame.to_question if number + 1 < kept else frame.end
        ids += question + answer + after
        labels += [IGNORED] * len(question) + answer + [IGNORED] * len(after)
    input_ids = torch.tensor(ids)
    return {
        "input_ids": input_ids,
        "labels": torch.tensor(labels),
        "mm_token_type_ids": (input_ids == processor.image_token_id).long(),
        "pixel_values": image["pixel_values"],
        "image_grid_thw": grid,
    }


def _kept_turns(
    length: int, encoded: list[list[int]], frame: TurnFrame, most_turns: int | None, most_tokens: int | None
) -> int:
    """How many turns, questions and answers in turn in ``encoded``, follow ``length`` tokens within the limits."""
    turns = len(encoded) // 2 if most_turns is None else min(len(encoded) // 2, most_turns)
    for number in range(turns):
        asked, answered = encoded[2 * number : 2 * number + 2]
        # The end-of-turn token is one more.
        length += len(asked) + len(frame.to_answer) + len(answered) + 1
        if number and most_tokens is not None and length + len(frame.end) > most_tokens:
            return number
        length += len(frame.to_question)
    return turns
