"""Peak memory of decoding against context: claim C6, and the bar of figure 1 that counts what is remembered.

Every cell runs in a process of its own, because what an allocator once held and what a library once loaded stays. It
holds the model and a cache of this context, reads one chunk of tokens and writes some; the peak is asked of torch's
allocator and of the driver (on a processor, of the operating system). Analytically it is weights + cache + what a chunk
needs; the cache is counted from the configuration and compared with what was allocated.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import UserError
from ..models.fast.slots import FixedCache, KeyValueSlots
from ..models.graph import GraphedDecoder
from ..records import Record
from .models import profiled_model
from .request import Request
from .session import ESTIMATE, OUT_OF_MEMORY, Cell, DoesNotFitError, Session, free_bytes

CONTEXTS = {
    "cuda": (8192, 32768, 65536, 131072, 262144, 524288, 1048576),
    "cpu": (256, 1024, 4096),
}
QUICK_CONTEXTS = {"cuda": (8192, 32768, 262144, 1048576), "cpu": (256, 1024)}
CACHE_CONTEXT = 32768
"""Context at which the paper counts what is remembered."""

CHUNK, STEPS = 256, 4
METRIC = "peak_memory_gb"


def memory_cells(request: Request, models: Mapping[str, list[str]], device: str) -> list[Cell]:
    """Every context of every model; always by our static cache, which holds what has to be held and no more."""
    contexts = request.contexts or (QUICK_CONTEXTS if request.quick else CONTEXTS)[device]
    return [Cell("memory", model, "graph", {"context": context}) for model in models for context in contexts]


def measure_memory(session: Session, cell: Cell) -> list[Record]:
    """One cell, in a process of its own."""
    # The parent must not hold a model beside the child's; where none is needed, none is made.
    profiled = session.describe(cell.model)
    session.drop()
    context = int(cell.arguments["context"])
    cache_bytes = profiled.work.cache_bytes(context, session.batch)
    try:
        session.require(profiled.work.all_weight_bytes + cache_bytes)
        found = run_worker(session, cell)
    except DoesNotFitError as reason:
        peak = (profiled.work.all_weight_bytes + cache_bytes) / 1e9
        notes: dict[str, Any] = {"status": ESTIMATE, "reason": str(reason), "analytic_cache_bytes": cache_bytes}
        return [session.record(profiled, cell, "memory", METRIC, peak, "GB", context=context, **notes)]
    if found["status"] == OUT_OF_MEMORY:
        return [session.record(profiled, cell, "memory", METRIC, 0.0, "GB", context=context, status=OUT_OF_MEMORY)]
    notes = {name: found[name] for name in ("allocated_bytes", "driver_bytes", "cache_bytes")}
    records = [
        session.record(
            profiled, cell, "memory", METRIC, found["peak_bytes"] / 1e9, "GB", context=context,
            analytic_cache_bytes=cache_bytes, cache_ratio=found["cache_bytes"] / cache_bytes, **notes,
        )
    ]  # fmt: skip
    if context == CACHE_CONTEXT:
        elements = found["cache_elements"]
        records.append(session.record(profiled, cell, "fig1", "cache_elements", elements, "elements", context=context))
    return records


def run_worker(session: Session, cell: Cell) -> dict[str, Any]:
    """Measure a cell in a fresh process.

    Raises:
        UserError: with its last line, if it fails.
    """
    request = {
        "model": cell.model, "context": cell.arguments["context"], "device": session.device, "batch": session.batch,
        "dtype": str(session.dtype).removeprefix("torch."),
    }  # fmt: skip
    command = [sys.executable, "-m", "infinitevl_bench.profiling.memory", json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))  # noqa: S603
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(f"{cell.label} failed in its process: {last}", 1)
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def measure_here(request: dict[str, Any]) -> dict[str, Any]:
    """What the process of a cell does: a model, a cache, a chunk, some tokens, and the peak.

    Args:
        request: ``model``, ``context``, ``device``, ``batch``, ``dtype``.

    Returns:
        Bytes at the peak by the allocator (``peak_bytes``, ``allocated_bytes``) and by the driver, bytes and elements
        of the cache, and ``status``.
    """
    device, context = request["device"], int(request["context"])
    before = free_bytes(device)
    try:
        profiled = profiled_model(request["model"], device, getattr(torch, request["dtype"]))
        tokens = min(CHUNK, max(2, context - STEPS))
        decoder = GraphedDecoder(profiled.model, request["batch"], max(context, tokens + STEPS), tokens)
        decoder.set_length(max(0, context - tokens - STEPS))
        ids = torch.zeros(request["batch"], tokens, dtype=torch.long, device=device)
        logits = decoder.prefill(ids)
        for _ in range(STEPS):
            logits = decoder.decode(logits.argmax(dim=-1, keepdim=True))
    except torch.OutOfMemoryError:
        return {"status": OUT_OF_MEMORY}
    if device == "cuda":
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
        driver = before - torch.cuda.mem_get_info()[0]
    else:
        # Kilobytes on Linux, bytes on macOS.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        driver = peak
    return {
        "status": "ok",
        "peak_bytes": peak,
        "allocated_bytes": peak,
        "driver_bytes": round(driver),
        "cache_bytes": decoder.cache.nbytes(),
        "cache_elements": remembered_elements(decoder.cache),
    }


def remembered_elements(cache: FixedCache) -> int:
    """Elements of keys, values and recurrent states; without the convolutions' last inputs, as the paper counts."""
    total = 0
    for layer in cache.layers:
        if isinstance(layer, KeyValueSlots):
            total += layer.keys.numel() + layer.values.numel()
        elif layer.recurrent is not None:
            total += layer.recurrent.numel()
    return total


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure_here(json.loads(sys.argv[1]))) + "\n")
