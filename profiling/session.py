"""A measuring session: one process, one device, its ceilings, and the cells that it measures.

A cell is one run folder, so what is finished is skipped when a command is called again, and a command that is stopped
loses the cell that it was at and no other. Before the first speed of a model is recorded, its correctness is checked in
the same session, and every record says in which session it was made.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..models.device import device_name, free_bytes
from ..models.graph import GraphedDecoder
from ..printing import PlainConsole
from ..records import Record, RunFolder, RunSpec, Scalar
from .ceilings import Ceilings, measure_ceilings
from .environment import device_state, warnings_of
from .floors import Work
from .models import Profiled, described_model, profiled_model
from .timing import Samples

MATCHED, AS_PUBLISHED, EAGER = "matched", "as-published", "eager"
PROTOCOLS = (MATCHED, AS_PUBLISHED)
ESTIMATE, OUT_OF_MEMORY = "estimate", "out_of_memory"
CHECKED = ("decode", "prefill", "stream")
"""What the checks of a model's fast path vouch for."""

HEADROOM_BYTES = {"cuda": 3e9, "cpu": 5e8}
"""Memory left for activations, compiled kernels and the allocator when it is asked whether something fits."""


@dataclass(frozen=True)
class Cell:
    """One measurement: of what, of which model, how it is run, and the rest of what tells it from others.

    ``path`` is ``graph`` (our static cache, captured where there is an accelerator) or ``eager`` (the model's own
    forward pass with transformers' cache).
    """

    what: str
    model: str
    path: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """In a few words, for progress."""
        return " ".join([self.what, self.model, self.path, *(f"{k}={v}" for k, v in self.arguments.items())])


class DoesNotFitError(Exception):
    """Memory would not hold it: said before anything is allocated."""

    def __init__(self, needed: float, free: float) -> None:
        super().__init__(f"needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")


def paths_of(protocols: Sequence[str], full_attention: bool) -> list[str]:
    """How a model has to be run for these protocols: the published one compares a captured hybrid with an eager
    Transformer, the matched one captures both."""
    wanted = {"eager" if protocol == AS_PUBLISHED and full_attention else "graph" for protocol in protocols}
    return [path for path in ("graph", "eager") if path in wanted]


def protocols_of(path: str, full_attention: bool) -> tuple[str, ...]:
    """The protocols that a measurement belongs to."""
    if path == "graph":
        return (MATCHED,) if full_attention else (MATCHED, AS_PUBLISHED)
    return (AS_PUBLISHED,) if full_attention else (EAGER,)


class Session:
    """Measures cells, one after the other.

    Args:
        device: ``cuda`` or ``cpu``.
        dtype: of the weights.
        runs: Folder of all runs.
        batch: Sequences at a time.
        budget_s: Start no cell after so many seconds; None without limit.
        again: Measure finished cells anew.
    """

    def __init__(
        self, device: str, dtype: torch.dtype, runs: Path, batch: int = 1, budget_s: float | None = None,
        again: bool = False,
    ) -> None:  # fmt: skip
        self.device, self.dtype, self.runs, self.batch, self.again = device, dtype, runs, batch, again
        self.deadline = None if budget_s is None else time.monotonic() + budget_s
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.console = PlainConsole(stderr=True, highlight=False, soft_wrap=True)
        self.records: list[Record] = []
        self.checked: dict[str, dict[str, float]] = {}
        self._ceilings: Ceilings | None = None
        self._notes: dict[str, Scalar] | None = None
        self._held: tuple[str, Profiled] | None = None
        self._decoder: tuple[tuple[Any, ...], GraphedDecoder] | None = None

    @property
    def ceilings(self) -> Ceilings:
        """Of this session, measured when first needed."""
        if self._ceilings is None:
            self._ceilings = measure_ceilings(self.device)
            for warning in warnings_of(self.notes()):
                self.console.print(f"note: {warning}")
        return self._ceilings

    def notes(self) -> dict[str, Scalar]:
        """The state of the device, asked once a cell."""
        if self._notes is None:
            self._notes = device_state(self.device)
        return self._notes

    def model(self, reference: str) -> Profiled:
        """A model on the device; the one before it is given up first."""
        if self._held is None or self._held[0] != reference:
            self.drop()
            started = time.monotonic()
            self._held = (reference, profiled_model(reference, self.device, self.dtype))
            self.console.print(f"{reference}: on {self.device} after {time.monotonic() - started:.1f} s")
        return self._held[1]

    def describe(self, reference: str) -> Profiled:
        """What is known of a model without running it: a preset is not made, its ``model`` stays on the meta device."""
        return described_model(reference, self.dtype) or self.model(reference)

    def decoder(self, profiled: Profiled, max_length: int | None, chunk: int | None = None) -> GraphedDecoder:
        """A decoder of the model, kept while nothing about it changes."""
        key = (profiled.name, max_length if profiled.full_attention else None, chunk)
        if self._decoder is None or self._decoder[0] != key:
            self._decoder = None
            self.free_memory()
            self._decoder = (key, GraphedDecoder(profiled.model, self.batch, max_length, chunk))
        return self._decoder[1]

    def drop(self) -> None:
        """Give up the model and its decoder."""
        self._decoder = self._held = None
        self.free_memory()

    def drop_decoder(self) -> None:
        """Give up the decoder's memory."""
        self._decoder = None
        self.free_memory()

    def free_memory(self) -> None:
        """Return what is no longer used; on the processor the interpreter does so by itself."""
        if self.device == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def require(self, needed: float) -> None:
        """Make sure that so many bytes more are free.

        Raises:
            DoesNotFitError: if not.
        """
        if needed + HEADROOM_BYTES[self.device] > free_bytes(self.device):
            self.drop_decoder()
        free = free_bytes(self.device)
        if needed + HEADROOM_BYTES[self.device] > free:
            raise DoesNotFitError(needed, free)

    def spec(self, cell: Cell) -> RunSpec:
        """The run that a cell is."""
        return RunSpec(
            kind="profile",
            arguments={
                "what": cell.what, "model": cell.model, "path": cell.path, "device": device_name(self.device),
                "dtype": str(self.dtype).removeprefix("torch."), "batch": self.batch, **cell.arguments,
            },
        )  # fmt: skip

    def run(self, cells: Sequence[Cell], measure: Callable[["Session", Cell], list[Record]]) -> list[Record]:
        """Measure every cell that is not finished; the records of all that now are.

        What runs out of memory is a result, and is recorded as one by ``measure`` or here not at all.
        """
        left = 0
        for cell in cells:
            folder = RunFolder(self.runs, self.spec(cell))
            if folder.finished and not self.again:
                self.records += folder.records()
                self.console.print(f"{cell.label}: measured before")
                continue
            if self.deadline is not None and time.monotonic() > self.deadline:
                left += 1
                continue
            self._notes = None
            with folder:
                folder.write_environment(device_name(self.device))
                found = [r.model_copy(update={"run_id": folder.spec.id}) for r in measure(self, cell)]
                folder.finish(found, status="ok")
            self.records += found
            for line in dict.fromkeys(_told(found)):
                self.console.print(f"{cell.label}: {line}")
        if left:
            self.console.print(f"{left} cells left when the time was up; call the same command again to go on")
        return self.records

    def record(
        self, profiled: Profiled, cell: Cell, artifact: str, metric: str, value: float, unit: str, *,
        protocol: str | None = None, samples: Samples | None = None, work: Work | None = None,
        context: int | None = None, frames: int | None = None, interval: tuple[float, float] | None = None,
        **notes: Scalar,
    ) -> Record:  # fmt: skip
        """A record of this session.

        Args:
            profiled: The model.
            cell: What was measured.
            artifact: Where it is shown.
            metric: Name of the number.
            value: The number.
            unit: Its unit.
            protocol: Of `PROTOCOLS`, or `EAGER`; None where there is no such difference.
            samples: Times behind it.
            work: What could not be avoided in one of those times.
            context: Tokens before.
            frames: Frames before.
            interval: 95 % interval of the value, in its unit.
            **notes: What else must be known.
        """
        text = profiled.config.text_config
        extra: dict[str, Scalar] = {
            "path": cell.path, "captured": cell.path == "graph" and self.device == "cuda",
            "weights": "random" if profiled.random_weights else "checkpoint", "batch": self.batch,
            "dtype": str(self.dtype).removeprefix("torch."), "session": self.started, **notes,
            **(self.checked.get(cell.model, {}) if cell.what in CHECKED else {}),
        }  # fmt: skip
        if protocol is not None:
            extra["protocol"] = protocol
        if samples is not None:
            extra |= {
                "median_ms": samples.median_ms, "p10_ms": samples.p10_ms, "p90_ms": samples.p90_ms,
                "samples_ms": samples.text, **self.ceilings.extra, **self.notes(),
            }  # fmt: skip
            if work is not None:
                floor = work.floor_ms(self.ceilings)
                extra |= {
                    "floor_ms": floor, "ratio_to_floor": samples.median_ms / floor,
                    "bytes": work.bytes, "flops": work.flops,
                    "mbu": work.mbu(samples.median_ms, self.ceilings),
                    "mfu": work.mfu(samples.median_ms, self.ceilings),
                }  # fmt: skip
        low, high = interval or (None, None)
        return Record(
            artifact=artifact, metric=metric, value=value, unit=unit, model=profiled.name, source="measured",
            mixer=text.mixer if text.linear_layers else None, pattern=text.pattern, context=context, frames=frames,
            n=len(samples.milliseconds) if samples is not None else None, ci_low=low, ci_high=high,
            scale=profiled.scale, device=device_name(self.device), extra=extra,
        )  # fmt: skip


def _told(records: Sequence[Record]) -> Iterator[str]:
    for record in records:
        at = f" at {record.context:,} tokens" if record.context is not None else ""
        at += f" after {record.frames:,} frames" if record.frames is not None else ""
        floor = record.extra.get("ratio_to_floor")
        over = f", {floor:.2f} × floor" if isinstance(floor, float) else ""
        status = f" ({record.extra['status']})" if "status" in record.extra else ""
        yield f"{record.metric}{at}: {record.value:,.5g} {record.unit}{over}{status}"
