"""What the chunked forms of delta rules share: what each token of a chunk really writes, and the chunks in turn.

Within a chunk the written values w solve a unit lower triangular system, (1 + recall) w = asked − erased S, where S is
the state before the chunk: Yang et al., arXiv 2406.06484, section 3.2 (the WY representation), and arXiv 2412.06464,
section 3.3, with decay.
"""

import torch
from torch import Tensor

from .chunks import diagonal_blocks, outputs


def inverse(recall: Tensor) -> Tensor:
    """(1 + recall)⁻¹ for a strictly lower triangular ``[..., C, C]``, C a power of two.

    Blocks of one row are joined to blocks of two, of four, and so on: the inverse of [[E, 0], [B, L]] has
    −L⁻¹ B E⁻¹ below its diagonal: forward substitution in a few large products, where a solver takes C small steps.
    """
    C = recall.shape[-1]
    solution = recall.new_ones(*recall.shape[:-1], 1, 1)
    while (size := solution.shape[-1]) < C:
        early, late = solution.unflatten(-3, (-1, 2)).unbind(-3)
        below = -(late @ diagonal_blocks(recall, 2 * size)[..., size:, :size] @ early)
        upper = torch.nn.functional.pad(early, (0, size))
        solution = torch.cat([upper, torch.cat([below, late], dim=-1)], dim=-2)
    return solution.squeeze(-3)


def chunks_in_turn(
    recall: Tensor,
    values: Tensor,
    strength: Tensor,
    keys: Tensor,
    erasing: Tensor,
    inside: Tensor,
    reading: Tensor,
    keeping: Tensor,
    decay: Tensor | None,
    S: Tensor,
    T: int,
) -> tuple[Tensor, Tensor]:
    """Outputs and last state of a delta rule.

    Args:
        recall: ``[B, H, N, C, C]``, strictly lower triangular: how much token i recalls of what token j wrote, times
            token i's write strength.
        values: ``[B, H, N, C, V]``.
        strength: ``[B, H, N, C]``, write strength.
        keys: ``[B, H, N, C, K]``, with which each token recalls the state before the chunk.
        erasing: ``[B, H, N, C]``, how strongly it erases what it recalls.
        inside: ``[B, H, N, C, C]``, lower triangular: how much token i reads of what token j wrote.
        reading: ``[B, H, N, C, K]``, with which each token reads the state before the chunk.
        keeping: ``[B, H, N, C, K]``, where what a token wrote stands in the state after the chunk.
        decay: ``[B, H, N, K or 1, 1]``, of the state over a chunk; None if it does not decay.
        S: ``[B, H, K, V]``, the state before the first chunk.
        T: tokens, without the padding of the last chunk.

    Returns:
        ``[B, T, H, V]``, and the state after the last chunk ``[B, H, K, V]``.
    """
    solution = inverse(recall)
    # Strengths weigh the columns of the solution, which are fewer than those of values and keys.
    written, erased = (solution * strength.unsqueeze(-2)) @ values, (solution * erasing.unsqueeze(-2)) @ keys
    before, writes = [], []
    # Only what needs the state goes from chunk to chunk; the outputs are then one product over all chunks.
    decays = [None] * written.shape[2] if decay is None else decay.unbind(2)
    turns = zip(written.unbind(2), erased.unbind(2), keeping.mT.unbind(2), decays, strict=True)
    for written_n, erased_n, keeping_n, decay_n in turns:
        before.append(S)
        writes.append(written_n - erased_n @ S)
        S = (S if decay_n is None else decay_n * S) + keeping_n @ writes[-1]
    return outputs(reading, torch.stack(before, dim=2), inside, torch.stack(writes, dim=2), T), S
