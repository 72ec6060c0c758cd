"""What the chunked forms share: time in chunks, decay between tokens of a chunk, and the state carried across chunks.

Every exponent taken here is at most zero, so nothing overflows, however strong the decay: a factor that would grow is
always split at a boundary between the two tokens it belongs to.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 64
"""Most tokens of a chunk."""

LEAF = 4
"""Side of the blocks in which channel-wise decay is taken pair by pair."""


def chunk_size(T: int, K: int) -> int:
    """Tokens of a chunk, a power of two, for T tokens and keys of K channels.

    Work within chunks grows with their size, work on states (K channels a token) does not: about K tokens balance the
    two. A short sequence takes no more than the power of two that holds it.
    """
    balanced = min(LARGEST, 1 << (K - 1).bit_length())
    return max(LEAF, min(balanced, 1 << (T - 1).bit_length()))


def split(x: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """``[B, T, H, …]`` → ``[B, H, N, C, …]`` with chunks of C = ``size`` tokens, padded with zeros at the end."""
    T = x.shape[1]
    x = x.to(dtype).movedim(1, 2)
    padding = -T % size
    if padding:
        x = F.pad(x, (0, 0) * (x.ndim - 3) + (0, padding))
    return x.unflatten(2, (-1, size))


def join(x: Tensor, T: int) -> Tensor:
    """``[B, H, N, C, V]`` → ``[B, T, H, V]``: the inverse of `split`."""
    return x.flatten(2, 3)[:, :, :T].movedim(2, 1)


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


def decayed_scores(q: Tensor, k: Tensor, total: Tensor) -> Tensor:
    """Products of queries with earlier keys whose channels decay at rates of their own.

    Blocks of `LEAF` tokens are taken pair by pair; two neighbouring blocks are then joined by a matrix product whose
    two factors decay towards the boundary between them, until one block is left.

    Args:
        q, k: ``[..., C, K]``.
        total: ``[..., C, K]``, log decay of each channel summed from the start of the chunk.

    Returns:
        ``[..., C, C]``, Σ_κ q_iκ k_jκ exp(total_iκ − total_jκ) for j ≤ i, else 0.
    """
    C = q.shape[-2]
    blocks = [x.unflatten(-2, (-1, LEAF)) for x in (q, k, total)]
    difference = blocks[2].unsqueeze(-2) - blocks[2].unsqueeze(-3)
    allowed = causal(LEAF, q.device).unsqueeze(-1)
    weight = difference.masked_fill(~allowed, -torch.inf).exp()
    scores = torch.einsum("...ik,...jk,...ijk->...ij", blocks[0], blocks[1], weight)
    size = LEAF
    while size < C:
        early, late = slice(0, None, 2), slice(1, None, 2)
        q_late, _, total_late = (x.unflatten(-2, (-1, size))[..., late, :, :] for x in (q, k, total))
        _, k_early, total_early = (x.unflatten(-2, (-1, size))[..., early, :, :] for x in (q, k, total))
        boundary = total_early[..., -1:, :]
        below = (q_late * (total_late - boundary).exp()) @ (k_early * (boundary - total_early).exp()).mT
        upper = torch.cat([scores[..., early, :, :], torch.zeros_like(below)], dim=-1)
        lower = torch.cat([below, scores[..., late, :, :]], dim=-1)
        scores = torch.cat([upper, lower], dim=-2)
        size *= 2
    return scores.squeeze(-3)


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
