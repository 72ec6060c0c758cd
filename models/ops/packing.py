"""Sequences packed one behind the other into a batch of one, and the same sequences side by side in a padded batch.

``cu_seqlens`` ``[N + 1]`` says where each of N sequences begins, and the end, as in FlashAttention.
"""

from collections.abc import MutableMapping
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ...errors import UserError


class Packing(NamedTuple):
    """What is known of N packed sequences of T tokens in all.

    Attributes:
        lengths: of the sequences.
        borders: ``cu_seqlens`` ``[N + 1]``, int64, on the device of what is packed.
        places: ``[T]``, each token's place in its sequence, there too.
    """

    lengths: list[int]
    borders: Tensor
    places: Tensor


_known: MutableMapping[Tensor, tuple[tuple[int, int, int, torch.device], Packing]] = WeakIdKeyDictionary()
"""Borders → what was asked of them (their version, B, T, device) and answered. All layers of a model are given the same
tensor; to lay it out anew in each would take launches, and have the host wait for the accelerator, several times a
layer, and fla keeps its own layout by the tensor's identity too."""


def packing_of(cu_seqlens: Tensor, x: Tensor) -> Packing:
    """Check and lay out packed sequences, once for all that is asked of one tensor of borders.

    Args:
        cu_seqlens: ``[N + 1]``, integers, on any device.
        x: ``[1, T, …]``, what is packed.

    Raises:
        UserError: as `lengths_of`.
    """
    B, T = x.shape[:2]
    counted = _counts_writes(cu_seqlens)
    asked = (cu_seqlens._version if counted else -1, B, T, x.device)
    known = _known.get(cu_seqlens)
    if known is not None and counted and known[0] == asked:
        return known[1]
    lengths = lengths_of(cu_seqlens, B, T)
    if known is not None and known[0][3] == x.device and known[1].lengths == lengths:
        _known[cu_seqlens] = asked, known[1]
        return known[1]
    # Gradients need them later, though inference may be the first to ask.
    with torch.inference_mode(False):
        # A copy: what is kept must not keep its own key.
        borders = cu_seqlens.to(x.device, torch.int64, copy=True)
        packing = Packing(lengths, borders, token_places(borders, T))
    _known[cu_seqlens] = asked, packing
    return packing


def _counts_writes(cu_seqlens: Tensor) -> bool:
    """Whether a tensor's version tells that it was written to, so that it need not be read to know.

    It does not in inference mode, nor where numpy shares its memory; on the host, reading takes no time.
    """
    return not cu_seqlens.is_inference() and cu_seqlens.device.type != "cpu"


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
