"""Which device to run on."""

import torch

from ..errors import UserError


def resolve_device(device: str) -> str:
    """Turn auto, cpu or cuda into cpu or cuda.

    Raises:
        UserError: for another word, or cuda where there is none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {device!r}; use auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch sees no CUDA device; use --device cpu, or see `infinitevl-bench doctor`")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def device_name(device: str) -> str:
    """What records call the device: the accelerator's own name, or "cpu"."""
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"
