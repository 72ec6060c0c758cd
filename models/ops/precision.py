"""What autocast would make of a tensor's products."""

import torch
from torch import Tensor


def autocast_type(x: Tensor) -> torch.dtype | None:
    """The type that autocast takes products of tensors like x in, where it is on; else None."""
    device = x.device.type
    # A tensor without storage has no device that autocast knows.
    on = device != "meta" and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else None
