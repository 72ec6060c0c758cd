"""Every kernel, and the chunked form, against the definition on a GPU: ``pytest -m gpu tests/models``.

Each runs in a process of its own (`gpu_comparison`), so that one that crashes ends nothing but its own test, and a
library's kernels are compiled side by side (``-n 16``), one shape and type a process. What was found before a process
ran out of time stays. With ``INFINITEVL_BENCH_GPU_RECORD`` set, every error is appended to that file as a record; a
library may enter `ops.kernels.COMPARED` for a recurrence whose tests pass.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from infinitevl_bench.records import Record

from .gpu_comparison import ALL, PARTS
from .recurrences import KERNELS, RECURRENCES

# Our own forms share a process: they cannot leave the device unusable.
SUBJECTS = {"torch": ("torch", ALL, list(RECURRENCES))} | {
    f"{subject}-{part}": (backend, part, [recurrence.name])
    for subject, (recurrence, backend) in KERNELS.items()
    for part in PARTS
}
SECONDS = 590

# Largest relative RMS error of outputs and states, and of gradients. Kernels multiply float32 as TF32, ten bits.
BOUNDS = {
    ("torch", "float32"): (1e-5, 5e-5),
    ("torch", "float16"): (1e-3, 2e-3),
    ("torch", "bfloat16"): (5e-3, 1e-2),
    ("kernel", "float32"): (3e-3, 5e-3),
    ("kernel", "float16"): (3e-3, 5e-3),
    ("kernel", "bfloat16"): (1e-2, 1.5e-2),
}
LAYER_BOUND = 3e-2
"""A layer in bfloat16 rounds a dozen times in a row."""


def bound_of(backend: str, row: dict[str, Any]) -> float:
    if "mixer" in row:
        return LAYER_BOUND
    of_outputs, of_gradients = BOUNDS["torch" if backend == "torch" else "kernel", row["dtype"]]
    return of_gradients if row["what"] == "gradients" else of_outputs


def record_of(backend: str, device: str, row: dict[str, Any], bound: float) -> Record:
    """One error as a record; what is no number is counted as such."""
    finite = math.isfinite(row["error"])
    return Record(
        artifact="kernel_errors",
        metric="relative_rms_error" if finite else "not_a_number",
        value=row["error"] if finite else 1.0,
        unit="1",
        model=row["recurrence"],
        mixer=row.get("mixer"),
        context=row["T"],
        source="measured",
        device=device,
        extra={key: row[key] for key in ("dtype", "what", "tensor", "K", "V") if key in row}
        | {"backend": backend, "bound": bound},
    )


def judge(backend: str, output: str) -> tuple[list[Record], list[str], str | None]:
    """Records, what is wrong, and why nothing was compared (None if something was)."""
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    skipped = next((row["reason"] for row in found if row["what"] == "not here"), None)
    device = next((row["name"] for row in found if row["what"] == "device"), "unknown")
    records, wrong = [], []
    for row in (row for row in found if "error" in row):
        bound = bound_of(backend, row)
        records.append(record_of(backend, device, row, bound))
        if not row["error"] <= bound:
            wrong.append(f"{row} is over {bound}")
    return records, wrong, skipped


def compared(command: list[str], seconds: float) -> tuple[str, str | None]:
    """What a program printed, and what ended it too early; None if nothing did."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as late:
        printed = late.stdout or b""
        return printed.decode() if isinstance(printed, bytes) else printed, f"not done in {seconds} seconds"
    return done.stdout, done.stderr[-3000:] if done.returncode else None


@pytest.mark.gpu
@pytest.mark.timeout(SECONDS + 5)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_form_is_the_definition(subject: str) -> None:
    backend, part, names = SUBJECTS[subject]
    program = Path(__file__).with_name("gpu_comparison.py")
    output, trouble = compared([sys.executable, str(program), backend, part, *names], SECONDS)
    records, wrong, skipped = judge(backend, output)
    target = os.environ.get("INFINITEVL_BENCH_GPU_RECORD")
    if target and records:
        lines = "".join(record.model_dump_json(exclude_none=True) + "\n" for record in records)
        # At once, so that tests side by side can share the file.
        with open(target, "ab", buffering=0) as file:
            file.write(lines.encode())
    assert trouble is None, f"after {len(records)} results: {trouble}"
    if skipped is not None:
        pytest.skip(skipped)
    assert records
    assert not wrong, "\n".join(wrong)


# --- the judge itself, on any machine ---------------------------------------------------------------------------------


def test_what_is_judged() -> None:
    right = {
        "what": "forward",
        "tensor": "o",
        "dtype": "bfloat16",
        "T": 63,
        "K": 64,
        "V": 64,
        "error": 4e-3,
        "recurrence": "delta_rule",
    }
    lines = [
        {"what": "device", "name": "GPU"}, right, right | {"error": 2e-2}, right | {"error": math.nan},
        right | {"what": "gradients", "error": 1.2e-2}, {"what": "not taken", "reason": "float64"},
        {"what": "layer, packed", "tensor": "y", "dtype": "bfloat16", "T": 200, "mixer": "gla", "error": 1e-2,
         "recurrence": "gated_linear_attention"},
    ]  # fmt: skip
    records, wrong, skipped = judge("fla", "a warning\n" + "\n".join(map(json.dumps, lines)))
    assert skipped is None
    assert [record.metric for record in records] == [*["relative_rms_error"] * 2, "not_a_number"] + [
        "relative_rms_error"
    ] * 2
    assert len(wrong) == 2
    assert records[0].device == "GPU"
    assert records[-1].mixer == "gla"
    assert judge("mamba_ssm", '{"what": "not here", "reason": "no"}') == ([], [], "no")


@pytest.mark.parametrize(
    ("ending", "trouble"),
    [("", None), ("; time.sleep(60)", "not done in 5 seconds"), ("; sys.exit('no memory')", "no memory\n")],
)
def test_what_was_printed_before_the_end_stays(ending: str, trouble: str | None) -> None:
    program = f"import sys, time; print('found', flush=True){ending}"
    assert compared([sys.executable, "-c", program], 5) == ("found\n", trouble)
