"""Kernels of our own on a GPU, or in Triton's interpreter on the CPU.

Triton decides at its import whether it interprets, so without a GPU a file of tests runs itself again, in a process of
its own.
"""

import os
import subprocess
import sys

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
device = "cpu" if INTERPRETED else "cuda"
kernels = pytest.mark.parametrize("kernel_of", [pytest.param(device, marks=[] if INTERPRETED else [pytest.mark.gpu])])
once = pytest.mark.skipif(INTERPRETED, reason="this is that process")


def run_interpreted(file: str) -> None:
    """Run a file of tests in the interpreter; they must pass, and there must be some."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", file]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
