"""The state of the GPU while it was measured: clocks, throttling, temperature, and who else uses it."""

import os
import shutil
import subprocess
from pathlib import Path

import torch

from ..records import Scalar

_FIELDS = {
    "driver_version": "driver",
    "clocks.sm": "sm_clock_mhz",
    "clocks.max.sm": "sm_clock_max_mhz",
    "clocks.mem": "memory_clock_mhz",
    "clocks_event_reasons.active": "throttle_reasons",
    "temperature.gpu": "temperature_c",
    "power.draw": "power_w",
}
IDLE = "0x0000000000000001"
NONE = "0x0000000000000000"


def device_state(device: str) -> dict[str, Scalar]:
    """Notes for a record; only ``threads`` on the processor, and nothing that could not be asked."""
    if device != "cuda":
        return {"threads": torch.get_num_threads()}
    notes: dict[str, Scalar] = dict(_query())
    free, total = torch.cuda.mem_get_info()
    # Contexts, loaded kernels and captured graphs are ours too, so this alone shows nobody else.
    notes["memory_beyond_allocator_mb"] = round((total - free - torch.cuda.memory_reserved()) / 1e6)
    others = _other_processes()
    if others:
        notes["warning"] = f"{len(others)} other process{'es' * (len(others) > 1)} on this GPU"
    return notes


def warnings_of(notes: dict[str, Scalar]) -> list[str]:
    """What a reader of a figure must know, in words."""
    found = [str(notes["warning"])] if "warning" in notes else []
    reasons = str(notes.get("throttle_reasons", NONE))
    if reasons not in (NONE, IDLE, "Not Active", "[N/A]"):
        found.append(f"the driver names reasons for lower clocks ({reasons})")
    return found


def _query() -> dict[str, str]:
    values = [value.strip() for value in _ask(f"--query-gpu={','.join(_FIELDS)}").split(",")]
    return dict(zip(_FIELDS.values(), values, strict=True)) if len(values) == len(_FIELDS) else {}


def _other_processes() -> set[int]:
    """Processes that compute on this GPU and are neither this one nor its children.

    A container may see the numbers that its host gave; then this process is not among them, and nothing is known.
    """
    found = {int(line) for line in _ask("--query-compute-apps=pid").splitlines() if line.strip().isdigit()}
    return {pid for pid in found if os.getpid() not in _ancestry(pid)} if os.getpid() in found else set()


def _ancestry(pid: int) -> list[int]:
    """A process, its parent, and so on."""
    found = []
    while pid > 0:
        found.append(pid)
        try:
            # The name stands in brackets and may hold anything; the parent is the second field after it.
            pid = int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            break
    return found


def _ask(query: str) -> str:
    """What nvidia-smi answers about this card; "" where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    # By its own name: the number that torch gives a device depends on what is visible to it.
    card = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
    command = [program, query, "--format=csv,noheader,nounits", f"--id={card}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
