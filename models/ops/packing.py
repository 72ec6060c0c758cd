"""Sequences packed one behind the other into a batch of one, and the same sequences side by side in a padded batch.

``cu_seqlens`` ``[N + 1]`` says where each of N sequences begins, and the end, as in FlashAttention.
"""

from itertools import pairwise

import torch
from torch import Tensor

from ...errors import UserError


def lengths_of(cu_seqlens: Tensor, B: int, T: int) -> list[int]:
    """The lengths of packed sequences.

    Args:
        cu_seqlens: ``[N + 1]``, integers.
        B, T: batch and tokens of what is packed.

    Raises:
        UserError: unless the batch is one and the sequences fill it, each with a token or more.
    """
    ends = cu_seqlens.tolist() if cu_seqlens.ndim == 1 and not cu_seqlens.is_floating_point() else []
    lengths = [end - start for start, end in pairwise(ends)]
    if B != 1 or not lengths or ends[0] != 0 or ends[-1] != T or min(lengths) < 1:
        raise UserError(
            f"cu_seqlens {ends} does not cut a batch of {B} with {T} tokens into sequences; it must rise from 0 to the "
            "number of tokens of a batch of one"
        )
    return lengths


def token_places(cu_seqlens: Tensor, T: int) -> Tensor:
    """Each of T tokens' place in its packed sequence, ``[T]``; borders as `lengths_of` has checked them."""
    token = torch.arange(T, device=cu_seqlens.device)
    return token - cu_seqlens[torch.searchsorted(cu_seqlens, token, right=True) - 1]


def unpack(x: Tensor, lengths: list[int]) -> Tensor:
    """``[1, T, …]`` → ``[N, longest, …]``, zero behind the end of a sequence."""
    return torch.nn.utils.rnn.pad_sequence(list(x[0].split(lengths)), batch_first=True)


def pack(x: Tensor, lengths: list[int]) -> Tensor:
    """``[N, longest, …]`` → ``[1, T, …]``: the inverse of `unpack`."""
    return torch.cat([row[:length] for row, length in zip(x.unbind(0), lengths, strict=True)]).unsqueeze(0)
