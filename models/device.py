"""Which device to run on."""

from pathlib import Path

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


def free_bytes(device: str) -> float:
    """Memory that can still be had."""
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else ():
        if line.startswith("MemAvailable"):
            return 1024 * float(line.split()[1])
    return float("inf")
