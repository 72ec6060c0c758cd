"""Time per call: medians of repeats that take turns, every sample kept.

On an accelerator a sample is the time between two CUDA events around a call, so it is the larger of what the host needs
to launch the work and what the device needs to do it: a model that launches slowly is slow, and shows it. On the
processor it is the wall clock. A short call is repeated within a sample, so that the clock's own cost does not count.
"""

import itertools
import math
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

WARMUPS, REPEATS = 2, 7
MOST_TOKENS = 2**31 - 1
"""Most tokens or frames that may be asked for: far beyond any memory, and before the sizes of tensors overflow."""

SAMPLE_MS = {"cuda": 1.0, "cpu": 0.2}
"""Least length of a sample: shorter calls are repeated within one."""

MOST_CALLS = 200
"""Most calls of one sample."""

FEWEST_FOR_INTERVAL = 6
"""Fewest samples whose range covers the median with 95 % probability."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Samples:
    """Timed repeats of one call, in milliseconds a call."""

    milliseconds: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """The median."""
        return float(np.median(self.milliseconds))

    @property
    def p10_ms(self) -> float:
        """The tenth percentile."""
        return float(np.percentile(self.milliseconds, 10))

    @property
    def p90_ms(self) -> float:
        """The ninetieth percentile."""
        return float(np.percentile(self.milliseconds, 90))

    @property
    def interval_ms(self) -> tuple[float, float] | None:
        """A 95 % interval of the median, by order statistics; None for fewer than six samples, which give none."""
        count = len(self.milliseconds)
        if count < FEWEST_FOR_INTERVAL:
            return None
        ordered = sorted(self.milliseconds)
        # Of n samples, as many lie below the median as heads fall in n throws.
        tail, below = 0.5**count, 0
        while tail <= 0.025:
            below += 1
            tail += math.comb(count, below) * 0.5**count
        return ordered[below - 1], ordered[count - below]

    def scaled(self, factor: float) -> "Samples":
        """The samples times a factor: of one layer among several, say."""
        return Samples(tuple(sample * factor for sample in self.milliseconds))

    @property
    def text(self) -> str:
        """All samples in one line, for a record."""
        return " ".join(f"{sample:.5g}" for sample in self.milliseconds)


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def elapsed_ms(run: Callable[[], object], device: str, calls: int = 1) -> float:
    """Milliseconds a call, over ``calls`` calls one after the other."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(calls):
            run()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / calls
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return 1000 * (time.perf_counter() - begin) / calls


def time_in_turn(
    runs: Mapping[Key, Callable[[], object]], device: str, *, warmups: int | None = None, repeats: int | None = None
) -> dict[Key, Samples]:
    """Call everything in turn, first untimed, then timed.

    Taking turns spreads whatever else the machine does over all alike.

    Args:
        runs: what to call, by name.
        device: ``cuda`` or ``cpu``.
        warmups: untimed rounds, `WARMUPS` without it; the last of them tells how many calls a sample needs.
        repeats: timed rounds, `REPEATS` without it.
    """
    calls = dict.fromkeys(runs, 1)
    for _ in range(max(1, WARMUPS if warmups is None else warmups)):
        for key, run in runs.items():
            wanted = SAMPLE_MS[device] / max(elapsed_ms(run, device), 1e-6)
            calls[key] = min(MOST_CALLS, max(1, math.ceil(wanted)))
    samples: dict[Key, list[float]] = {key: [] for key in runs}
    for _ in range(REPEATS if repeats is None else repeats):
        for key, run in runs.items():
            samples[key].append(elapsed_ms(run, device, calls[key]))
    return {key: Samples(tuple(found)) for key, found in samples.items()}


def time_steps(step: Callable[[], object], device: str, steps: int, warmups: int = 3) -> Samples:
    """Time steps that follow each other, as decoding does: without waiting for the device between them."""
    for _ in range(warmups):
        step()
    synchronize(device)
    if device == "cuda":
        events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
        events[0].record()
        for event in events[1:]:
            step()
            event.record()
        torch.cuda.synchronize()
        return Samples(tuple(float(start.elapsed_time(end)) for start, end in itertools.pairwise(events)))
    marks = [time.perf_counter()]
    for _ in range(steps):
        step()
        marks.append(time.perf_counter())
    return Samples(tuple(1000 * (end - start) for start, end in itertools.pairwise(marks)))
