"""What the chunked forms share: time in chunks, decay between tokens of a chunk, and the state carried across chunks.

Every exponent taken here is at most zero and every decay at most one, so nothing overflows, however strong the decay: a
factor that would grow is always split at a boundary between the two tokens it belongs to.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = {"cpu": 32}
"""Most tokens of a chunk, by device; 64 where nothing is said, on accelerators."""

SMALLEST = 4
"""Fewest tokens of a chunk."""


def chunk_size(k: Tensor) -> int:
    """Tokens of a chunk, a power of two, for keys ``[B, T, H, K]``.

    Work within chunks grows with their size, work on states (K channels a token) does not: about K tokens balance the
    two. A short sequence takes no more than the power of two that holds it.
    """
    T, K = k.shape[1], k.shape[-1]
    balanced = min(LARGEST.get(k.device.type, 64), 1 << (K - 1).bit_length())
    return max(SMALLEST, min(balanced, 1 << (T - 1).bit_length()))


def split(x: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """``[B, T, H, …]`` → ``[B, H, N, C, …]`` with chunks of C = ``size`` tokens, padded with zeros at the end."""
    T = x.shape[1]
    # In memory as the products over chunks need it, so that none of them copies.
    x = x.to(dtype).movedim(1, 2).contiguous()
    padding = -T % size
    if padding:
        x = F.pad(x, (0, 0) * (x.ndim - 3) + (0, padding))
    return x.unflatten(2, (-1, size))


def outputs(reading: Tensor, before: Tensor, inside: Tensor, values: Tensor, T: int) -> Tensor:
    """What tokens read of the state before their chunk, and of what the chunk's tokens wrote.

    Args:
        reading: ``[B, H, N, C, K]``, queries, decayed since the chunk's start.
        before: ``[B, H, N, K, V]``, the state before each chunk.
        inside: ``[B, H, N, C, C]``, how much each token reads of what each wrote.
        values: ``[B, H, N, C, V]``, what was written.
        T: tokens, without the padding of the last chunk.

    Returns:
        ``[B, T, H, V]``.
    """
    o = torch.baddbmm(
        (inside @ values).flatten(0, 2), reading.flatten(0, 2), before.flatten(0, 2)
    ).view_as(values)  # fmt: skip
    return o.flatten(2, 3)[:, :, :T].movedim(2, 1)


def clamped(log_decay: Tensor) -> Tensor:
    """Log decay of which no step exceeds the range of its type, where it is a factor of zero anyhow.

    A sum that held one step of −10⁴ would keep three digits of the weak steps beside it.
    """
    return log_decay.clamp(min=-700.0 if log_decay.dtype == torch.float64 else -100.0)


def causal(size: int, device: torch.device, *, strict: bool = False) -> Tensor:
    """``[C, C]``, True where row i may look at column j: j ≤ i, or j < i if ``strict``."""
    return torch.ones(size, size, dtype=torch.bool, device=device).tril(-1 if strict else 0)


def pair_decay(total: Tensor) -> Tensor:
    """Decay from token j to token i of a chunk.

    Args:
        total: ``[..., C]``, log decay summed from the start of the chunk.

    Returns:
        ``[..., C, C]``, exp(total_i − total_j) for j ≤ i, else 0.
    """
    difference = total.unsqueeze(-1) - total.unsqueeze(-2)
    return difference.masked_fill(~causal(total.shape[-1], total.device), -torch.inf).exp()


class Decayed(NamedTuple):
    """What `decayed_scores` makes of the tokens of chunks.

    Attributes:
        scores: for each reader ``[..., C, C]``: Σ_κ reader_iκ k_jκ Π_{j < t ≤ i} decay_tκ for j ≤ i, else 0.
        readers: ``[..., C, K]`` each, decayed from the start of the chunk: what reads the state before it.
        keys: ``[..., C, K]``, decayed to the end of the chunk: what writes the state after it.
        total: ``[..., 1, K]``, decay over the chunk.
    """

    scores: list[Tensor]
    readers: list[Tensor]
    keys: Tensor
    total: Tensor


def decayed_scores(readers: Sequence[Tensor], k: Tensor, decay: Tensor) -> Decayed:
    """Products of readers with the keys of earlier tokens, whose channels decay at rates of their own.

    Blocks of one token are joined to blocks of two, of four, and so on. Readers carry their decay from the start of
    their block and keys theirs to its end, so that readers of a later block meet keys of an earlier one in a matrix
    product, and joining two blocks multiplies the readers of the later by the decay over the earlier, and the keys of
    the earlier by that over the later. There is no logarithm and no quotient, so nothing is lost to strong decay.

    Args:
        readers: each ``[..., C, K]``.
        k: ``[..., C, K]``.
        decay: ``[..., C, K]``, from 0 to 1.
    """
    C = k.shape[-2]
    scores = [torch.diag_embed((reader * k).sum(-1)) for reader in readers]
    # Blocks of one token: [..., C, 1, K].
    total = decay.unsqueeze(-2)
    readers = [reader.unsqueeze(-2) * total for reader in readers]
    k = k.unsqueeze(-2)
    while (size := k.shape[-2]) < C:
        k_early, k_late = _pairs(k)
        total_early, total_late = _pairs(total)
        joined = []
        for reader, square in zip(readers, scores, strict=True):
            early, late = _pairs(reader)
            below = (late * k_early).sum(-1, keepdim=True) if size == 1 else late @ k_early.mT
            diagonal_blocks(square, 2 * size)[..., size:, :size].copy_(below)
            joined.append(torch.cat([early, late * total_early], dim=-2))
        readers, total = joined, total_early * total_late
        k = torch.cat([k_early * total_late, k_late], dim=-2)
    return Decayed(scores, [reader.squeeze(-3) for reader in readers], k.squeeze(-3), total.squeeze(-3))


def diagonal_blocks(square: Tensor, size: int) -> Tensor:
    """The blocks on the diagonal of ``[..., C, C]``, a view ``[..., blocks, size, size]``."""
    blocks = square.unflatten(-1, (-1, size)).unflatten(-3, (-1, size))
    return blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


def _pairs(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The earlier and the later of each two neighbouring blocks ``[..., blocks, rows, columns]``."""
    early, late = blocks.unflatten(-3, (-1, 2)).unbind(-3)
    return early, late


def carry(decay: Tensor, added: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Carry a state over chunks: S ← decay_n · S + added_n.

    Args:
        decay: ``[B, H, N, K or 1, 1]``, decay of the state over each chunk.
        added: ``[B, H, N, K, V]``, what each chunk adds.
        state: ``[B, H, K, V]`` before the first chunk.

    Returns:
        The state before each chunk ``[B, H, N, K, V]``, and the one after the last ``[B, H, K, V]``.
    """
    before = []
    # Unbound once: the gradient of a slice taken in a loop would be as large as all of them, once for each.
    for decay_n, added_n in zip(decay.unbind(2), added.unbind(2), strict=True):
        before.append(state)
        state = torch.addcmul(added_n, decay_n.expand_as(state), state)
    return torch.stack(before, dim=2), state
