"""Timing of contenders, and what the times mean: rates, shares of what the machine can do, ratios and growth."""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...models.device import device_name
from ...records import Record, Scalar
from ..ceilings import Ceilings
from ..floors import Work
from ..timing import Samples, time_in_turn
from .check import first_line
from .contenders import PASSES, Contender, Pass, Subject, one_pass
from .geometry import B, Geometry

YARDSTICKS = ("reference", "transformers", "fla", "fla-layer")
"""What the other contenders of a subject are related to."""

ATTENTIONS = ("full_attention", "sliding_attention")
"""What recurrences are related to, at equal length."""


@dataclass(frozen=True)
class Timing:
    """The time of one pass of one contender at one length.

    Attributes:
        label: The mixer, or the attention.
        scope: Of `contenders.SCOPES`.
        subject: What the scope holds: the name of a recurrence, of a mixer, of an attention.
        backend: The contender.
        what: The pass.
        tokens: Sequence length T; 1 for a decode step.
        samples: Every timed repeat; of one layer, where several ran.
        work: What could not be avoided.
    """

    label: str
    scope: str
    subject: str
    backend: str
    what: Pass
    tokens: int
    samples: Samples
    work: Work

    @property
    def median_ms(self) -> float:
        """Median time of one pass."""
        return self.samples.median_ms

    @property
    def tokens_per_second(self) -> float:
        """Tokens of one pass over its median time."""
        return 1000 * B * self.tokens / self.median_ms

    @property
    def us_per_token(self) -> float:
        """Median time of one pass over its tokens, in microseconds."""
        return 1000 * self.median_ms / (B * self.tokens)


def time_subject(
    subject: Subject, lengths: Sequence[int], device: str, notes: dict[str, str]
) -> Iterator[list[Timing]]:
    """Time all contenders of a subject, length by length and pass by pass, and give each group as it is measured.

    Args:
        subject: What to time.
        lengths: Sequence lengths; a decode step has none and is timed once.
        device: ``cuda`` or ``cpu``.
        notes: Takes what could not be timed, and why.
    """
    for what in PASSES:
        for T in (1,) if what == "decode" else lengths:
            inputs = subject.inputs(T)
            calls = {}
            for contender in subject.contenders:
                if contender.runs(what, T):
                    try:
                        run = one_pass(contender, what, inputs)
                        run()
                    except Exception as failure:  # noqa: BLE001 - the others are measured all the same
                        notes[f"{subject.label} {subject.scope} {contender.name} {what} {T}"] = first_line(failure)
                    else:
                        calls[contender.name] = run
            samples = time_in_turn(calls, device)
            by_name = {contender.name: contender for contender in subject.contenders}
            yield [_timing(subject, by_name[name], what, T, found) for name, found in samples.items()]
            # Graphs and gradients hold memory that the next length needs.
            calls.clear()
            if device == "cuda":
                torch.cuda.empty_cache()


def _timing(subject: Subject, contender: Contender, what: Pass, T: int, samples: Samples) -> Timing:
    layers = contender.layers if what == "decode" else 1
    work = subject.work(what, T)
    return Timing(
        subject.label, subject.scope, subject.name, contender.name, what, T, samples.scaled(1 / layers), work
    )  # fmt: skip


def speed_ratios(timings: Sequence[Timing]) -> dict[tuple[Timing, str], float]:
    """(timing, yardstick) → how many times the yardstick's speed it has, at the same length, pass and scope."""
    at = {(t.label, t.scope, t.what, t.tokens, t.backend): t.median_ms for t in timings}
    attention = {(t.subject, t.what, t.tokens): t.median_ms for t in timings if t.scope == "attention"}
    ratios = {}
    for t in timings:
        for yardstick in YARDSTICKS:
            other = at.get((t.label, t.scope, t.what, t.tokens, yardstick))
            if other is not None and t.backend != yardstick:
                ratios[t, yardstick] = other / t.median_ms
        for name in ATTENTIONS:
            other = attention.get((name, t.what, t.tokens))
            if other is not None and t.scope == "recurrence":
                ratios[t, name] = other / t.median_ms
    return ratios


def growth_exponents(timings: Iterable[Timing]) -> dict[tuple[str, str, Pass, str], float]:
    """(label, scope, pass, backend) → p of the least-squares fit time ∝ Tᵖ on a log-log scale; nothing for one T."""
    points: dict[tuple[str, str, Pass, str], list[tuple[float, float]]] = {}
    for t in timings:
        key = (t.label, t.scope, t.what, t.backend)
        points.setdefault(key, []).append((math.log(t.tokens), math.log(t.median_ms)))
    return {
        key: statistics.linear_regression(*zip(*xy, strict=True)).slope for key, xy in points.items() if len(xy) > 1
    }


class Recorder:
    """Makes records of timings, all under the same conditions.

    Args:
        geometry: The shapes.
        device: ``cuda`` or ``cpu``.
        ceilings: Of this run.
        notes: The state of the device.
        run_id: What the records name as their run.
    """

    def __init__(
        self, geometry: Geometry, device: str, ceilings: Ceilings, notes: dict[str, Scalar], run_id: str
    ) -> None:
        self.ceilings, self.device, self.run_id = ceilings, device, run_id
        self.conditions: dict[str, Scalar] = {
            "geometry": geometry.name, "B": B, "H": geometry.H, "K": geometry.K, "V": geometry.V,
            "dtype": "bfloat16, gates float32" if device == "cuda" else "float32", "torch": str(torch.__version__),
            **ceilings.extra, **notes,
        }  # fmt: skip

    def records(self, timings: Sequence[Timing]) -> list[Record]:
        """Speeds, then ratios, then growth."""
        rows = [self._speed(t) for t in timings]
        for (t, over), ratio in speed_ratios(timings).items():
            notes = {"scope": t.scope, "pass": t.what, "backend": t.backend, "over": over}
            rows.append(self._record("speed_ratio", ratio, "ratio", t, t.tokens, notes))
        last = {(t.label, t.scope, t.what, t.backend): t for t in timings}
        for key, exponent in growth_exponents(timings).items():
            t = last[key]
            notes = {"scope": t.scope, "pass": t.what, "backend": t.backend}
            rows.append(self._record("growth_exponent", exponent, "1", t, None, notes))
        return rows

    def _speed(self, t: Timing) -> Record:
        floor = t.work.floor_ms(self.ceilings)
        notes: dict[str, Scalar] = {
            "scope": t.scope, "pass": t.what, "backend": t.backend,
            "median_ms": t.median_ms, "p10_ms": t.samples.p10_ms, "p90_ms": t.samples.p90_ms,
            "floor_ms": floor, "ratio_to_floor": t.median_ms / floor,
            "mbu": t.work.mbu(t.median_ms, self.ceilings), "mfu": t.work.mfu(t.median_ms, self.ceilings),
            "samples_ms": t.samples.text,
        }  # fmt: skip
        if t.what == "decode":
            return self._record("decode_step_ms", t.median_ms, "ms", t, None, notes)
        return self._record("tokens_per_second", t.tokens_per_second, "tokens/s", t, t.tokens, notes)

    def _record(
        self, metric: str, value: float, unit: str, t: Timing, context: int | None, notes: dict[str, Any]
    ) -> Record:
        return Record(
            artifact="bench_ops", metric=metric, value=value, unit=unit, model=t.subject,
            mixer=t.label if t.scope != "attention" else None, context=context, n=len(t.samples.milliseconds),
            source="measured", device=device_name(self.device), run_id=self.run_id, extra=notes | self.conditions,
        )  # fmt: skip
