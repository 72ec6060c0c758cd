"""Where tokens of text, pictures and videos stand, written out token by token: the oracle of `models.positions`.

As Qwen2.5-VL was trained, and as transformers had it up to 4.57: whatever follows goes on after the largest position on
any of the three axes.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Text:
    tokens: int


@dataclass(frozen=True)
class Seen:
    """A picture or a video in tokens: how many frames, of how many rows and columns, how many positions apart."""

    frames: int
    rows: int
    columns: int
    apart: float = 0.0


def trained_positions(*parts: Text | Seen) -> torch.Tensor:
    """``[3, T]``."""
    places: list[tuple[int, int, int]] = []
    for part in parts:
        start = max((max(place) for place in places), default=-1) + 1
        if isinstance(part, Text):
            places += [(start + t, start + t, start + t) for t in range(part.tokens)]
        else:
            places += [
                (start + int(frame * part.apart), start + row, start + column)
                for frame in range(part.frames) for row in range(part.rows) for column in range(part.columns)
            ]  # fmt: skip
    return torch.tensor(places).T
