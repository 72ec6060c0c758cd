"""`infinitevl-bench bench ops`: speed of every mixer's recurrence, alone, at the geometry of preset tiny.

Two questions, for the forward pass and for forward + backward (training, which the chunked form is there for):

    how much faster is the chunked form than the recurrence step by step, on the same inputs and in the same run?
    does the time of the chunked form grow in proportion to the length?

What bounds them. A step is a handful of small operations on a state of H·K·V numbers, so step by step the time is that
of launching them T times, and in training also of recording them, keeping every state, and walking back. The chunked
form does about C·(K + V) multiply-adds a token and head inside chunks of C tokens, and 2·K·V for the state, in a few
large matrix products: at this size it is bound by memory traffic and by what the products cost to start, not by
arithmetic. Its work is proportional to T. Where its time grows faster, the tensors of a pass have outgrown the
processor's caches, or something in it (such as the gradient of a slice, which is as large as what it was cut from) is
not proportional to T.

Times are medians over repeats that take turns between everything compared, after a warm-up; all samples are kept. No
figure is shown for a form that does not agree with the reference in this same run.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from ..errors import UserError
from ..models.device import device_name, resolve_device
from ..models.ops.kernels import library_trouble
from ..models.ops.recurrence import Recurrence
from ..models.registry import canonical_name, get_recurrence, recurrent_mixers
from ..records import Record, write_records

B, H, K, V = 1, 4, 32, 64
"""Batch, heads, key and value width of a layer of preset tiny."""

COMPARED_LENGTH = 1024
"""Tokens at which forms are compared."""

LENGTHS = (1024, 2048, 4096, 8192, 16384)
"""Tokens at which growth is measured, without ``--length``."""

PASSES = ("forward", "training")
WARMUPS, REPEATS = 2, 7
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest relative RMS error against the reference, by the type of q, k and v."""


@dataclass
class Timing:
    """The samples of one form at one length.

    Attributes:
        mixer: Name of the mixer.
        recurrence: Name of its recurrence.
        backend: Which form ran.
        kind: ``forward`` or ``training``.
        tokens: Sequence length T.
        samples_ms: Every timed repeat, in milliseconds.
    """

    mixer: str
    recurrence: str
    backend: str
    kind: str
    tokens: int
    samples_ms: list[float] = field(default_factory=list)

    @property
    def median_ms(self) -> float:
        """Median time of one pass."""
        return statistics.median(self.samples_ms)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of one pass over its median time."""
        return 1000 * B * self.tokens / self.median_ms

    @property
    def us_per_token(self) -> float:
        """Median time of one pass over its tokens, in microseconds."""
        return 1000 * self.median_ms / (B * self.tokens)


def bench_ops_command(
    mixers: list[str] | None, lengths: list[int] | None, device: str, out: Path | None
) -> list[Record]:
    """Check and time the recurrences of some mixers, and print two tables and, last, one line of JSON.

    Args:
        mixers: Names or aliases; all without it.
        lengths: Sequence lengths of the growth measurement, in tokens; `LENGTHS` without it. Forms are compared at
            `COMPARED_LENGTH` tokens, or at the longest length given if all are shorter.
        device: auto, cpu or cuda.
        out: JSON-lines file for the records; None writes none.

    Returns:
        What ``out`` holds: tokens/s of every form, length and pass, speed ratios, and growth exponents.

    Raises:
        UserError: For an unknown mixer or device, a length below 1, a file that cannot be written, or (exit code 1) a
            form that does not agree with the reference.
    """
    names = list(dict.fromkeys(canonical_name(name) for name in mixers or recurrent_mixers()))
    tokens = sorted(set(lengths or LENGTHS))
    if tokens[0] < 1:
        raise UserError(f"length {tokens[0]} is no number of tokens; use --length 1 or more")
    if out is not None and out.is_dir():
        raise UserError(f"{out} is a folder; give --out a file, such as {out / 'ops.jsonl'}")
    device = resolve_device(device)
    compared = min(COMPARED_LENGTH, tokens[-1])
    timings, errors = [], {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=2 * len(names))
        for name in names:
            recurrence = get_recurrence(name)
            progress.update(task, description=f"{name}: checking")
            errors[name] = check_against_reference(
                recurrence, backends_of(recurrence, device), tokens, compared, device
            )
            progress.update(task, description=f"{name}: timing", advance=1)
            timings += time_mixer(name, recurrence, tokens, compared, device)
            progress.advance(task)
    ratios, growth = speed_ratios(timings, compared), growth_exponents(timings)
    records = _records(timings, ratios, growth, device)
    if out is not None:
        write_records(out, records)
    _show(timings, ratios, growth, compared, device)
    typer.echo(json.dumps(_summary(timings, ratios, growth, errors, compared, device)))
    return records


def backends_of(recurrence: Recurrence, device: str) -> list[str]:
    """The forms to compare with the reference on this device: always ``torch``, and kernels that may be trained."""
    if device != "cuda":
        return ["torch"]
    return ["torch", *(name for name in recurrence.kernels if library_trouble(name, recurrence.name, True) is None)]


def check_against_reference(
    recurrence: Recurrence, backends: Sequence[str], lengths: Sequence[int], compared: int, device: str
) -> dict[str, float]:
    """Compare every form with the reference: outputs and states at every length, gradients at ``compared`` tokens.

    Returns:
        Backend → the largest relative RMS error seen.

    Raises:
        UserError: With exit code 1, if an error exceeds `TOLERANCE`.
    """
    worst = dict.fromkeys(backends, 0.0)
    for T in sorted({*lengths, compared}):
        inputs = _inputs(recurrence, T, device)
        bound = TOLERANCE[inputs[2].dtype]
        wide = tuple(x.float() for x in inputs)
        expected = _results(recurrence, wide, "reference", gradients=compared == T)
        for backend in backends:
            found = _results(recurrence, inputs, backend, gradients=compared == T)
            for what, value in expected.items():
                error = relative_error(found[what], value)
                # A NaN compares false with everything, so the condition is that of being right.
                if not error <= bound:
                    raise UserError(
                        f"no speed is shown: {what} of {recurrence.name} by backend {backend} is off by {error:.1e} of "
                        f"its RMS at {T} tokens (at most {bound:.0e}); run tests/models/test_ops.py and report it",
                        1,
                    )
                worst[backend] = max(worst[backend], error)
    return worst


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of what was expected."""
    difference = (actual.double() - expected.double()).norm()
    return float(difference / expected.double().norm().clamp(min=1e-12))


def time_mixer(name: str, recurrence: Recurrence, lengths: Sequence[int], compared: int, device: str) -> list[Timing]:
    """Time one mixer, forward and training: all forms at ``compared`` tokens, all but the reference at every length."""
    backends = backends_of(recurrence, device)
    timings = []
    for kind in PASSES:
        cases = [
            (Timing(name, recurrence.name, backend, kind, T), _pass(recurrence, backend, kind, T, device))
            for T, backend in _cases(backends, lengths, compared)
        ]
        interleaved(cases, device)
        timings += [timing for timing, _ in cases]
    return timings


def _cases(backends: Sequence[str], lengths: Sequence[int], compared: int) -> Iterator[tuple[int, str]]:
    yield compared, "reference"
    for T in sorted({*lengths, compared}):
        for backend in backends:
            yield T, backend


def interleaved(cases: Sequence[tuple[Timing, Callable[[], None]]], device: str) -> None:
    """Run all cases in turn, `WARMUPS` times untimed and `REPEATS` times timed, and add the samples to their timings.

    Taking turns spreads whatever else the machine does over all cases alike.
    """
    for repeat in range(-WARMUPS, REPEATS):
        for timing, run in cases:
            _synchronize(device)
            start = time.perf_counter()
            run()
            _synchronize(device)
            if repeat >= 0:
                timing.samples_ms.append(1000 * (time.perf_counter() - start))


def speed_ratios(timings: Sequence[Timing], compared: int) -> dict[tuple[str, str, str], float]:
    """(mixer, pass, backend) → how many times the reference's speed it has at ``compared`` tokens."""
    at = {(t.mixer, t.kind, t.backend): t.median_ms for t in timings if t.tokens == compared}
    return {
        (mixer, kind, backend): at[mixer, kind, "reference"] / median
        for (mixer, kind, backend), median in at.items()
        if backend != "reference"
    }


def growth_exponents(timings: Sequence[Timing]) -> dict[tuple[str, str, str], float]:
    """(mixer, pass, backend) → p of the least-squares fit time ∝ Tᵖ on a log-log scale; nothing for a single length."""
    points: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for t in timings:
        points.setdefault((t.mixer, t.kind, t.backend), []).append((math.log(t.tokens), math.log(t.median_ms)))
    return {
        key: statistics.linear_regression(*zip(*xy, strict=True)).slope for key, xy in points.items() if len(xy) > 1
    }


def _inputs(recurrence: Recurrence, T: int, device: str) -> tuple[Tensor, ...]:
    """Random inputs: float32; on an accelerator q, k and v in bfloat16 beside gates in float32, as mixers give them."""
    inputs = recurrence.random_inputs(B, T, H, K, V)
    narrow = torch.bfloat16 if device == "cuda" else torch.float32
    return tuple(x.to(device, narrow if index < 3 else torch.float32) for index, x in enumerate(inputs))


def _results(recurrence: Recurrence, inputs: tuple[Tensor, ...], backend: str, *, gradients: bool) -> dict[str, Tensor]:
    """Output, last state and, if asked for, the gradient of each input for a fixed random loss."""
    leaves = [x.detach().requires_grad_(gradients) for x in inputs]
    o, last = recurrence(*leaves, backend=backend)
    found = {"the output": o.detach(), "the last state": last.detach()}
    if gradients:
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(x.shape, generator=generator).to(x) for x in (o, last)]
        gradient = torch.autograd.grad([o, last], leaves, weights)
        names = ["q", "k", "v", *(f"gate {n}" for n in range(1, len(leaves) - 2))]
        found |= {f"the gradient of {name}": value for name, value in zip(names, gradient, strict=True)}
    return found


def _pass(recurrence: Recurrence, backend: str, kind: str, T: int, device: str) -> Callable[[], None]:
    """One pass to time; inputs and incoming gradients are made beforehand."""
    inputs = _inputs(recurrence, T, device)

    def forward() -> None:
        with torch.no_grad():
            recurrence(*inputs, backend=backend)

    if kind == "forward":
        return forward
    leaves = [x.requires_grad_() for x in inputs]
    incoming = torch.ones_like(inputs[2])

    def training() -> None:
        o, _ = recurrence(*leaves, backend=backend)
        torch.autograd.grad(o, leaves, incoming)

    return training


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _records(
    timings: Sequence[Timing],
    ratios: dict[tuple[str, str, str], float],
    growth: dict[tuple[str, str, str], float],
    device: str,
) -> list[Record]:
    conditions: dict[str, Any] = {
        "B": B, "H": H, "K": K, "V": V, "dtype": _dtype(device), "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }  # fmt: skip
    recurrences = {t.mixer: t.recurrence for t in timings}
    compared = next(t.tokens for t in timings if t.backend == "reference")

    def record(metric: str, value: float, unit: str, mixer: str, context: int | None, **extra: Any) -> Record:
        return Record(
            artifact="bench_ops", metric=metric, value=value, unit=unit, model=recurrences[mixer], mixer=mixer,
            context=context, n=REPEATS, source="measured", device=device_name(device), extra=conditions | extra,
        )  # fmt: skip

    rows = [
        record(
            "tokens_per_second", t.tokens_per_second, "tokens/s", t.mixer, t.tokens, backend=t.backend,
            **{"pass": t.kind}, median_ms=t.median_ms, samples_ms=" ".join(f"{sample:.4f}" for sample in t.samples_ms),
        )
        for t in timings
    ]  # fmt: skip
    for (mixer, kind, backend), value in ratios.items():
        over = {"pass": kind, "backend": backend, "over": "reference"}
        rows.append(record("speed_ratio", value, "ratio", mixer, compared, **over))
    for (mixer, kind, backend), value in growth.items():
        rows.append(record("growth_exponent", value, "1", mixer, None, **{"pass": kind, "backend": backend}))
    return rows


def _show(
    timings: Sequence[Timing],
    ratios: dict[tuple[str, str, str], float],
    growth: dict[tuple[str, str, str], float],
    compared: int,
    device: str,
) -> None:
    console = Console()
    console.print(
        f"geometry of preset tiny: B {B}, H {H}, K {K}, V {V}; {_dtype(device)}; {device_name(device)}, "
        f"{torch.get_num_threads()} threads; medians of {REPEATS} interleaved repeats\n"
    )
    table = Table(title=f"at {compared} tokens", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in ("mixer", "pass", "backend", "ms", "tokens/s", "over step by step"):
        table.add_column(heading, justify="left" if heading in ("mixer", "pass", "backend") else "right")
    for t in (t for t in timings if t.tokens == compared):
        ratio = ratios.get((t.mixer, t.kind, t.backend))
        table.add_row(
            t.mixer, t.kind, t.backend, f"{t.median_ms:.2f}", f"{t.tokens_per_second:,.0f}",
            "" if ratio is None else f"{ratio:.1f}×",
        )  # fmt: skip
    console.print(table)
    lengths = sorted({t.tokens for t in timings})
    if len(lengths) < 2:
        return
    table = Table(
        title="\nmicroseconds per token, and p of time ∝ Tᵖ (1 is linear)", title_justify="left", box=None,
        pad_edge=False, header_style="bold",
    )  # fmt: skip
    for heading in ("mixer", "pass", "backend", *map(str, lengths), "p"):
        table.add_column(heading, justify="left" if heading in ("mixer", "pass", "backend") else "right")
    at = {(t.mixer, t.kind, t.backend, t.tokens): t for t in timings}
    for (mixer, kind, backend), exponent in growth.items():
        times = (f"{at[mixer, kind, backend, T].us_per_token:.2f}" for T in lengths)
        table.add_row(mixer, kind, backend, *times, f"{exponent:.2f}")
    console.print(table)


def _summary(
    timings: Sequence[Timing],
    ratios: dict[tuple[str, str, str], float],
    growth: dict[tuple[str, str, str], float],
    errors: dict[str, dict[str, float]],
    compared: int,
    device: str,
) -> dict[str, Any]:
    """The machine-readable result, units in the keys."""
    return {
        "artifact": "bench_ops",
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch_version": torch.__version__,
        "dtype": _dtype(device),
        "geometry": {"B": B, "H": H, "K": K, "V": V},
        "compared_at_tokens": compared,
        "repeats": REPEATS,
        "relative_rms_error": errors,
        "speed_ratio_over_reference": [
            {"mixer": mixer, "pass": kind, "backend": backend, "ratio": round(value, 3)}
            for (mixer, kind, backend), value in ratios.items()
        ],
        "growth": [
            {"mixer": mixer, "pass": kind, "backend": backend, "exponent": round(value, 4)}
            for (mixer, kind, backend), value in growth.items()
        ],
        "rows": [
            {
                "mixer": t.mixer, "recurrence": t.recurrence, "backend": t.backend, "pass": t.kind,
                "context_tokens": t.tokens, "median_ms": round(t.median_ms, 4),
                "tokens_per_second": round(t.tokens_per_second, 1), "us_per_token": round(t.us_per_token, 4),
                "samples_ms": [round(sample, 4) for sample in t.samples_ms],
            }
            for t in timings
        ],
    }  # fmt: skip


def _dtype(device: str) -> str:
    return "bfloat16, gates float32" if device == "cuda" else "float32"
