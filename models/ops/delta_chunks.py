"""What the chunked forms of delta rules share: what each token of a chunk really writes, and the chunks in turn.

Within a chunk the written values w solve a unit lower triangular system, (1 + recall) w = asked − erased S, where S is
the state before the chunk: Yang et al., arXiv 2406.06484, section 3.2 (the WY representation), and arXiv 2412.06464,
section 3.3, with decay.
"""

import torch
from torch import Tensor


def chunks_in_turn(
    recall: Tensor,
    asked: Tensor,
    erased: Tensor,
    inside: Tensor,
    reading: Tensor,
    keeping: Tensor,
    decay: Tensor | None,
    S: Tensor,
) -> tuple[Tensor, Tensor]:
    """Outputs and last state of a delta rule.

    Args:
        recall: ``[B, H, N, C, C]``, strictly lower triangular: how much token i recalls of what token j wrote, times
            token i's write strength.
        asked: ``[B, H, N, C, V]``, values times write strength.
        erased: ``[B, H, N, C, K]``, what each token recalls of the state before the chunk, times its write strength.
        inside: ``[B, H, N, C, C]``, lower triangular: how much token i reads of what token j wrote.
        reading: ``[B, H, N, C, K]``, what each token reads of the state before the chunk.
        keeping: ``[B, H, N, C, K]``, where what a token wrote stands in the state after the chunk.
        decay: ``[B, H, N, K or 1, 1]``, of the state over a chunk; None if it does not decay.
        S: ``[B, H, K, V]``, the state before the first chunk.

    Returns:
        ``[B, H, N, C, V]``, and the state after the last chunk ``[B, H, K, V]``.
    """
    solved = torch.linalg.solve_triangular(recall, torch.cat([asked, erased], dim=-1), upper=False, unitriangular=True)
    written, erased = solved.split([asked.shape[-1], erased.shape[-1]], dim=-1)
    before, values = [], []
    # Only what needs the state goes from chunk to chunk; the outputs are then one product over all chunks.
    decays = [None] * written.shape[2] if decay is None else decay.unbind(2)
    turns = zip(written.unbind(2), erased.unbind(2), keeping.mT.unbind(2), decays, strict=True)
    for written_n, erased_n, keeping_n, decay_n in turns:
        before.append(S)
        values.append(written_n - erased_n @ S)
        S = (S if decay_n is None else decay_n * S) + keeping_n @ values[-1]
    return reading @ torch.stack(before, dim=2) + inside @ torch.stack(values, dim=2), S
