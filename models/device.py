"""Which device to run on."""

import os
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


def visible_accelerators() -> list[str]:
    """The CUDA devices of this process, each as ``CUDA_VISIBLE_DEVICES`` names it."""
    count = torch.cuda.device_count()
    chosen = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return chosen[:count] if len(chosen) >= count else [str(number) for number in range(count)]


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
