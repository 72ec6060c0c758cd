"""Projections of the same input as one matrix. The modules keep their parameters, as views into it: no second copy."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def merged(weights: list[nn.Parameter]) -> Tensor:
    """Lay parameters ``[rows, …]`` one below the other in one tensor, and let each of them be a view into it.

    Parameters that a call before has laid out so are found and not copied again.
    """
    first = weights[0]
    storage = first.untyped_storage()
    rows, offset = 0, first.storage_offset()
    for weight in weights:
        here = weight.is_contiguous() and weight.untyped_storage().data_ptr() == storage.data_ptr()
        if not here or weight.storage_offset() != offset:
            break
        rows, offset = rows + weight.shape[0], offset + weight.numel()
    else:
        return torch.as_strided(first.detach(), (rows, *first.shape[1:]), first.stride(), first.storage_offset())
    whole = torch.cat([weight.detach() for weight in weights])
    for weight, part in zip(weights, whole.split([weight.shape[0] for weight in weights]), strict=True):
        weight.data = part
    return whole
