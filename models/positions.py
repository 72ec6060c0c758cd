"""Where tokens stand for the rotary embedding: in time, row and column, as Qwen2.5-VL was trained.

    text      the same number on all three axes, going on after the largest number so far on any of them
    picture   time stands still; rows and columns count from where it begins
    video     time goes on by tokens_per_second · (seconds of a frame group); rows and columns begin anew with each

transformers 5 (seen in 5.17 and 5.24) lets text go on after a video's rows and columns alone, so that the question
about a long video stands in the middle of its time; up to 4.57, and in the model's own training, it stood after it. And
5.17 cuts the seconds down to whole ones. So the positions of the hybrid are these.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import UserError

TEXT, IMAGE, VIDEO = range(3)
"""Types of tokens, as the processor's ``mm_token_type_ids`` number them."""


def time_position(frame: int, seconds: float, tokens_per_second: float) -> int:
    """How far in time group ``frame`` of a video stands from its first, where one is seen every ``seconds``."""
    return int(frame * seconds * tokens_per_second)


def rope_positions(
    token_types: Tensor,
    image_grids: Iterator[tuple[int, int, int]],
    videos: Iterator[tuple[tuple[int, int, int], float]],
    tokens_per_second: float,
) -> Tensor:
    """Positions of one sequence without padding.

    Args:
        token_types: ``[T]``, `TEXT`, `IMAGE` or `VIDEO`.
        image_grids: of each picture in turn, its tokens in time (1), rows and columns; as many are taken as occur.
        videos: of each video in turn, its tokens in time, rows and columns, and the seconds between two in time.
        tokens_per_second: how far time goes on in a second.

    Returns:
        ``[3, T]``: time, row, column.

    Raises:
        UserError: if the visual tokens are not those of the grids.
    """
    kinds, lengths = torch.unique_consecutive(token_types, return_counts=True)
    parts: list[Tensor] = []
    position = 0
    for kind, length in zip(kinds.tolist(), lengths.tolist(), strict=True):
        if kind == TEXT:
            parts.append((torch.arange(length) + position).expand(3, -1))
            position += length
            continue
        name, left = ("video" if kind == VIDEO else "picture"), length
        # Two of a kind may stand side by side: the grids say where the one ends.
        while left > 0:
            found = next(videos, None) if kind == VIDEO else next(((grid, 0.0) for grid in image_grids), None)
            if found is None:
                raise UserError(f"{left} {name} tokens have no {name}; pass the grid of each {name} of the prompt")
            (frames, rows, columns), seconds = found
            left -= frames * rows * columns
            if left < 0:
                raise UserError(
                    f"{length} {name} tokens stand where the grid of the {name} asks for {frames * rows * columns}; "
                    "encode the prompt and the pictures by one call of the processor"
                )
            time = torch.tensor([time_position(frame, seconds, tokens_per_second) for frame in range(frames)])
            axes = torch.meshgrid(time, torch.arange(rows), torch.arange(columns), indexing="ij")
            parts.append(torch.stack(axes).flatten(1) + position)
            position = 1 + int(parts[-1].max())
    return torch.cat(parts, dim=1) if parts else torch.zeros(3, 0, dtype=torch.long)


def batch_positions(
    token_types: Tensor,
    mask: Tensor | None,
    image_grids: Tensor | None,
    video_grids: Tensor | None,
    seconds: Tensor | list[float] | None,
    merge: int,
    tokens_per_second: float,
) -> tuple[Tensor, Tensor]:
    """Positions of a batch, and how far the next token's stands beyond its number.

    Args:
        token_types: ``[B, T]``, as in `rope_positions`.
        mask: ``[B, T]``, 0 at padded tokens; None without padding.
        image_grids, video_grids: ``[N, 3]`` patches in time, rows and columns, row by row of the batch; None without.
        seconds: by video, from one group of frames to the next; 1 if None.
        merge: patches that a token joins on either side.
        tokens_per_second: how far time goes on in a second.

    Returns:
        ``[3, B, T]``, 0 at padded tokens; and ``[B, 1]``, what is added to the number of tokens of a sequence (padding
        not counted) for the position of its next one.

    Raises:
        UserError: if the visual tokens are not those of the grids.
    """
    grids = [
        iter([] if found is None else [(t, h // merge, w // merge) for t, h, w in found.tolist()])
        for found in (image_grids, video_grids)
    ]
    if seconds is None:
        seconds = [1.0] * (0 if video_grids is None else len(video_grids))
    videos = zip(grids[1], [float(one) for one in seconds], strict=False)
    positions = torch.zeros(3, *token_types.shape, dtype=torch.long)
    beyond = torch.zeros(len(token_types), 1, dtype=torch.long)
    types = token_types.cpu()
    kept = torch.ones_like(types, dtype=torch.bool) if mask is None else mask.cpu().bool()
    for row, (own, real) in enumerate(zip(types, kept, strict=True)):
        found = rope_positions(own[real], grids[0], videos, tokens_per_second)
        positions[:, row, real] = found
        if found.shape[1]:
            beyond[row] = found.max() + 1 - found.shape[1]
    return positions.to(token_types.device), beyond.to(token_types.device)
