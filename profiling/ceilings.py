"""What this machine can do at best: bytes copied and multiply-adds done per second, measured in the run that uses them.

A pass cannot be faster than its bytes over the first, nor than its operations over the second. Both are taken from the
fastest of several repeats of one large copy and one large square matrix product, so they are what is reached, which is
below what a data sheet says, and ratios to them are fair.
"""

from dataclasses import dataclass

import torch

from .timing import time_in_turn

COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 26}
"""Size of the buffer that is copied: many times any cache."""

MATRIX_SIDE = {"cuda": 8192, "cpu": 768}


@dataclass(frozen=True)
class Ceilings:
    """Measured limits of a device.

    Attributes:
        copy_gb_per_s: Bytes read and written by a copy, in 1e9 bytes/s.
        matmul_tflops: Rate of a square matrix product, in 1e12 floating-point operations/s.
        dtype: Type of that product: bfloat16 on an accelerator, else float32.
    """

    copy_gb_per_s: float
    matmul_tflops: float
    dtype: str

    @property
    def extra(self) -> dict[str, float | str]:
        """As records carry them."""
        return {
            "ceiling_copy_gb_per_s": round(self.copy_gb_per_s, 1),
            "ceiling_matmul_tflops": round(self.matmul_tflops, 3),
            "ceiling_dtype": self.dtype,
        }


def measure_ceilings(device: str) -> Ceilings:
    """Measure both on ``cuda`` or ``cpu``; about a tenth of a second."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    source = torch.zeros(COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    side = MATRIX_SIDE[device]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)
    samples = time_in_turn(
        {"copy": lambda: target.copy_(source), "matmul": lambda: torch.mm(left, right, out=product)}, device
    )
    best = {name: min(found.milliseconds) for name, found in samples.items()}
    return Ceilings(
        copy_gb_per_s=2 * source.numel() / best["copy"] / 1e6,
        matmul_tflops=2 * side**3 / best["matmul"] / 1e9,
        dtype=str(dtype).removeprefix("torch."),
    )
