"""Videos whose batches have one shape: what `fixed.FixedPages` is for pages, from a library of moments.

A conversation is one video and all questions about it, in turn. It is laid out as transformers' Qwen2.5-VL lays out a
message with a video: the template's opening, the video's tokens moment by moment, the questions and answers. Features
and positions are put together on the device, so a set of many long videos is a table of numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..data.moving import COLUMNS, ROWS
from ..data.timelines import KINDS, Timeline, VideoQuestion, VideoSetSpec, timeline
from .features import page_order
from .fixed import FixedBatch, answer_logits
from .moments import Library

MOMENT_TOKENS = COLUMNS * ROWS
APART = 2
"""Positions in time from moment to moment: one second, at Qwen2.5-VL's two positions a second."""

BEFORE = "<|im_start|>user\n<|vision_start|>"
AFTER = "<|vision_end|>"
TO_ANSWER = "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"
TO_QUESTION = "\n<|im_start|>user\n"


class Writing:
    """Text as the tokens of a processor: `data.words` makes each word and character of a question one."""

    def __init__(self, processor: Any) -> None:
        tokenizer = processor.tokenizer
        self.encode: Callable[[str], list[int]] = lru_cache(maxsize=None)(
            lambda text: tokenizer.encode(text, add_special_tokens=False)
        )
        self.before = self.encode(BEFORE)
        self.video_token_id: int = tokenizer.convert_tokens_to_ids("<|video_pad|>")

    def turn(self, question: VideoQuestion, first: bool) -> tuple[list[int], list[int]]:
        """The tokens up to an answer, and those of the answer with its end."""
        opening = AFTER if first else TO_QUESTION
        return self.encode(opening + question.text + TO_ANSWER), self.encode(question.answer + END)


@dataclass(frozen=True)
class Answers:
    """The text after the videos of a set, as tables: ``[V, L]`` tokens, and A answer tokens of each.

    Attributes:
        ids: ``[V, L]``.
        lengths: ``[V]``, tokens that are not padding.
        slots: ``[V, A]``, columns of the answer tokens within the text; 1 where there are fewer.
        targets: ``[V, A]``.
        turns: ``[V, A]``, the turn that each answers; -1 where there are fewer.
    """

    ids: Tensor
    lengths: Tensor
    slots: Tensor
    targets: Tensor
    turns: Tensor

    @classmethod
    def of(cls, writing: Writing, conversations: list[tuple[VideoQuestion, ...]], device: str) -> "Answers":
        """Encode the questions about each video, one turn after another."""
        columns: list[list[list[int]]] = [[], [], [], []]
        for questions in conversations:
            ids: list[int] = []
            slots: list[int] = []
            turns: list[int] = []
            for number, question in enumerate(questions):
                asked, answered = writing.turn(question, first=number == 0)
                slots += range(len(ids) + len(asked), len(ids) + len(asked) + len(answered))
                turns += [number] * len(answered)
                ids += asked + answered
            for column, values in zip(columns, (ids, slots, [ids[slot] for slot in slots], turns), strict=True):
                column.append(values)
        lengths = torch.tensor([len(ids) for ids in columns[0]], device=device)
        tables = [_table(rows, fill, device) for rows, fill in zip(columns, (0, 1, 0, -1), strict=True)]
        return cls(tables[0], lengths, *tables[1:])


def _table(rows: list[list[int]], fill: int, device: str) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows], device=device)


class FixedVideos:
    """A set of videos with their conversations, gathered without a look at any value.

    Args:
        spec: which videos.
        library: its moments, on the device that the set is to be on.
        processor: the model's processor.
        blind: whether nothing is seen: the mean feature stands for every one.
    """

    def __init__(self, spec: VideoSetSpec, library: Library, processor: Any, blind: bool = False) -> None:
        self.spec, self.features, self.writing = spec, library.features, Writing(processor)
        if blind:
            mean = self.features.float().mean(dim=(0, 1), keepdim=True)
            self.features = mean.to(self.features).expand_as(self.features)
        self.timelines = tuple(timeline(spec, index) for index in range(spec.videos))
        self.key = f"{library.key}-{spec.frames[0]}-{spec.frames[1]}-{spec.videos}-{spec.seed}-{blind}"
        device = str(self.features.device)
        self.text = Answers.of(self.writing, [one.questions for one in self.timelines], device)
        self.moments = _table([one.moments.tolist() for one in self.timelines], 0, device)
        self.counts = torch.tensor([len(one.moments) for one in self.timelines], device=device)
        self.before = torch.tensor(self.writing.before, device=device)
        self.columns = torch.arange(int(self._starts(self.counts).add(self.text.lengths).max()), device=device)

    def __len__(self) -> int:
        return len(self.timelines)

    def order(self, seed: int, batch_size: int) -> Callable[[int], Tensor]:
        """Return ``step → videos [B]``: every epoch is a permutation of its own, drawn from the seed."""
        return page_order(len(self), seed, batch_size, self.counts.device)

    def batch(self, indices: Tensor) -> FixedBatch:
        """The videos ``indices`` ``[B]`` with their conversations."""
        text, columns = self.text, self.columns
        start = self._starts(self.counts[indices]).unsqueeze(1)
        lengths = text.lengths[indices].unsqueeze(1)
        place = columns - start
        seen = (columns >= len(self.before)) & (place < 0)
        written = text.ids[indices].gather(1, place.clamp(0, text.ids.shape[1] - 1))
        opening = torch.nn.functional.pad(self.before, (0, len(columns) - len(self.before)))
        input_ids = torch.where(columns < len(self.before), opening, written)
        slots = text.slots[indices] + start
        return FixedBatch(
            input_ids=torch.where(seen, self.writing.video_token_id, input_ids) * (place < lengths),
            position_ids=self.positions(columns, self.counts[indices]) * (place < lengths),
            features=self.look(indices, columns),
            seen=seen,
            slots=slots,
            targets=text.targets[indices],
            learnt=text.turns[indices] >= 0,
            tokens=(start + lengths).sum(),
        )

    def look(self, indices: Tensor, columns: Tensor) -> Tensor:
        """Features ``[B, C, D]`` of what stands at columns ``[C]``; anything where that is no video."""
        place = (columns - len(self.before)).clamp(0, MOMENT_TOKENS * self.moments.shape[1] - 1)
        return self.features[self.moments[indices][:, place // MOMENT_TOKENS], place % MOMENT_TOKENS]

    def positions(self, columns: Tensor, counts: Tensor) -> Tensor:
        """Positions ``[3, B, C]`` of columns ``[C]`` in conversations whose videos have ``counts`` ``[B]`` moments."""
        before, start = len(self.before), self._starts(counts).unsqueeze(1)
        place = columns - before
        cell = place % MOMENT_TOKENS
        video = torch.stack([place // MOMENT_TOKENS * APART, cell // COLUMNS, cell % COLUMNS]).unsqueeze(1) + before
        # Text goes on after the largest position on any axis; see `models.positions`.
        last = ((counts - 1) * APART).clamp(min=max(ROWS, COLUMNS) - 1).unsqueeze(1)
        after = before + last + 1 + columns - start
        inside = (columns >= before) & (columns < start)
        return torch.where(inside, video, torch.where(columns < before, columns, after))

    def _starts(self, counts: Tensor) -> Tensor:
        """Where the text after a video of so many moments begins."""
        return len(self.before) + MOMENT_TOKENS * counts


@torch.no_grad()
def turn_answers(model: Any, videos: FixedVideos, batch_size: int = 128) -> dict[str, list[float]]:
    """Kind of question → whether each of them is answered to the letter, given the true answers to those before it."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for indices in torch.arange(len(videos), device=videos.counts.device).split(batch_size):
        batch = videos.batch(indices)
        wrong = (answer_logits(model, batch).argmax(-1) != batch.targets) & batch.learnt
        right = turns_right(wrong, videos.text.turns[indices]).tolist()
        for index, row in zip(indices.tolist(), right, strict=True):
            for question, is_right in zip(videos.timelines[index].questions, row, strict=False):
                found[question.kind].append(float(is_right))
    return found


def turns_right(wrong: Tensor, turns: Tensor) -> Tensor:
    """Which turns ``[B, turns]`` hold no wrong token; ``wrong`` and ``turns`` are ``[B, A]``."""
    count = int(turns.max()) + 1
    mistakes = wrong.new_zeros(len(wrong), count + 1, dtype=torch.long)
    # Places that answer no turn are counted in a column of their own.
    mistakes.scatter_add_(1, turns.where(turns >= 0, count), wrong.long())
    return mistakes[:, :count] == 0


def questions_of(timelines: tuple[Timeline, ...], number: int) -> list[tuple[VideoQuestion, ...]]:
    """Question ``number`` of every video, alone."""
    return [(one.questions[number],) for one in timelines]
