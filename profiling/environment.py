"""The state of the GPU while it was measured: clocks, throttling, temperature, and who else uses it."""

import shutil
import subprocess

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
FOREIGN_MB = 1024
"""Memory beyond our own from which another process is taken to be there: a context of its own, and then some."""


def device_state(device: str) -> dict[str, Scalar]:
    """Notes for a record; only ``threads`` on the processor, and nothing that could not be asked."""
    if device != "cuda":
        return {"threads": torch.get_num_threads()}
    notes: dict[str, Scalar] = dict(_query())
    free, total = torch.cuda.mem_get_info()
    foreign = (total - free - torch.cuda.memory_reserved()) / 1e6
    notes["memory_of_others_mb"] = round(foreign)
    if foreign > FOREIGN_MB:
        notes["warning"] = "another process uses this GPU"
    return notes


def warnings_of(notes: dict[str, Scalar]) -> list[str]:
    """What a reader of a figure must know, in words."""
    found = [str(notes["warning"])] if "warning" in notes else []
    reasons = str(notes.get("throttle_reasons", NONE))
    if reasons not in (NONE, IDLE, "Not Active", "[N/A]"):
        found.append(f"the driver names reasons for lower clocks ({reasons})")
    return found


def _query() -> dict[str, str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    # By its own name: the number that torch gives a device depends on what is visible to it.
    card = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
    command = [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits", f"--id={card}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(_FIELDS.values(), values, strict=True)) if len(values) == len(_FIELDS) else {}
