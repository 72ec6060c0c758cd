"""Causal softmax attention, which the mixers replace: over everything, and over a sliding window.

Scores and values take 4 operations a head channel and pair of tokens that see each other: T²/2 pairs over everything,
about T·W in a window of W tokens. So the first grows with the square of T, and the second in proportion to it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..floors import Work, sum_of_visible
from .contenders import Contender, Pass, Subject, results
from .geometry import B, Geometry

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
QUERIES = 64
"""Queries of a block of the definition."""

CHECK_LIMIT = 16384
"""Most tokens at which attention is compared with its definition, whose work grows with their square."""

CPU_LIMIT = 4096
"""Most tokens of full attention on a processor, where the square of T is soon out of reach."""


def attention_subjects(geometry: Geometry, device: str) -> list[Subject]:
    """Full attention, and sliding-window attention."""
    return [_subject(geometry, device, None), _subject(geometry, device, geometry.window)]


def _subject(geometry: Geometry, device: str, window: int | None) -> Subject:
    def inputs(T: int) -> tuple[Tensor, ...]:
        return geometry.attention_inputs(T, device)

    name = "full_attention" if window is None else "sliding_attention"
    longest = CPU_LIMIT if device == "cpu" and window is None else None
    contender = Contender(
        "flash-attention" if device == "cuda" else "torch", lambda q, k, v: (attend(q, k, v, window),),
        longest=longest, passes=("forward", "training"),
    )  # fmt: skip
    subject = Subject(
        scope="attention",
        mixer=None,
        name=name,
        inputs=inputs,
        output_names=("the output",),
        input_names=("q", "k", "v"),
        work=lambda what, T: attention_work(geometry, device, window, what, T),
        contenders=[contender],
        judge=lambda x, T, gradients: results(
            subject, lambda q, k, v: (softmax(q, k, v, window),), tuple(y.float() for y in x), gradients
        ),
        tolerance=TOLERANCE,
        check_limit=CHECK_LIMIT,
    )
    return subject


def attend(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """The attention that our models run; shapes as in `Geometry.attention_inputs`."""
    from ...models.attention import windowed_attention

    return windowed_attention(torch.nn.Identity(), q, k, v, None, sliding_window=window)[0].transpose(1, 2)


def softmax(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """The definition, in blocks of queries."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    T = q.shape[2]
    column = torch.arange(T, device=q.device)
    blocks = []
    for start in range(0, T, QUERIES):
        row = torch.arange(start, min(start + QUERIES, T), device=q.device).unsqueeze(-1)
        seen = (column <= row) & (column > row - (window or T))
        scores = (q[:, :, row.squeeze(-1)] @ k.mT) * q.shape[-1] ** -0.5
        blocks.append(F.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1) @ v)
    return torch.cat(blocks, dim=2)


def attention_work(geometry: Geometry, device: str, window: int | None, what: Pass, T: int) -> Work:
    """Inputs read and outputs written once; the backward pass takes twice the operations of the forward one."""
    element = 2 if device == "cuda" else 4
    read = B * T * geometry.K * (geometry.H + 2 * geometry.key_value_heads) * element
    written = B * T * geometry.K * geometry.H * element
    flops = 4 * B * geometry.H * geometry.K * sum_of_visible(T, 0, window or T)
    return Work(3 * read + 2 * written, 3 * flops) if what == "training" else Work(read + written, flops)
