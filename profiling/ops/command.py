"""`infinitevl-bench bench ops`: speed of mixers and of the attention that they replace, alone, each beside its floor.

Questions, for the forward pass, for forward + backward (training), and for a decode step:

    how fast is each form of a recurrence, on the same inputs and in the same run, and how does it grow with length?
    is our layer as fast as flash-linear-attention's own?
    how far is each from what its bytes and operations would take on this machine?

Times are medians over repeats that take turns between everything compared, after a warm-up; all samples are kept. No
figure is shown for a form that does not agree with its definition in this same run.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
import typer

from ...errors import UserError, unknown_name
from ...files import check_out
from ...models.device import device_name, resolve_device
from ...models.ops.kernels import LIBRARIES, Call
from ...models.registry import canonical_name, get_mixer, mixer_names
from ...printing import PlainConsole
from ...records import Record, RunSpec, environment, ship_records
from ..ceilings import measure_ceilings
from ..environment import device_state, warnings_of
from ..timing import MOST_TOKENS
from .attention import attention_subjects
from .check import check_subject
from .contenders import SCOPES, Subject
from .geometry import Geometry, get_geometry
from .layers import layer_subject
from .measure import Recorder, Timing, time_subject
from .recurrences import recurrence_subject
from .show import show, summary

BACKENDS = (
    "reference", "torch", "torch-compiled", "torch-graph", "fla", "fla-graph", "mamba_ssm", "mamba_ssm-graph",
    "transformers", "ours", "ours-graph", "fla-layer", "flash-attention",
)  # fmt: skip
ON_REQUEST = frozenset({"torch-compiled"})
"""Backends that run only when they are asked for: compiling takes minutes."""


def bench_ops_command(
    mixers: list[str] | None = None,
    lengths: list[int] | None = None,
    device: str = "auto",
    out: Path | None = None,
    *,
    geometry: str | None = None,
    backends: list[str] | None = None,
    scopes: list[str] | None = None,
) -> list[Record]:
    """Check and time; print tables and, last, one line of JSON.

    Args:
        mixers: Names or aliases; all without it, and attention with them.
        lengths: Sequence lengths in tokens; the geometry's own without it. Forms are compared at `Geometry.compared`
            tokens too, or at the longest length given if all are shorter.
        device: auto, cpu or cuda.
        out: JSON-lines file for the records, rewritten after each group that is measured, with the environment beside
            it; None writes none.
        geometry: Of `geometry.GEOMETRIES`; ``infinitevl-4b`` on an accelerator, else ``tiny``, without it.
        backends: Of `BACKENDS`; all but `ON_REQUEST` without it.
        scopes: Of `contenders.SCOPES`; on the processor, where flash-linear-attention's layers do not run, all but
            ``layer`` without it.

    Returns:
        What ``out`` holds: speeds, ratios and growth exponents.

    Raises:
        UserError: For an unknown name or device, a length below 1, a file that cannot be written, or (exit code 1) a
            form of ours that does not agree with its definition, or nothing that could be timed.
    """
    names = list(dict.fromkeys(canonical_name(name) for name in mixers or mixer_names()))
    device = resolve_device(device)
    shape = get_geometry(geometry or ("infinitevl-4b" if device == "cuda" else "tiny"))
    tokens = sorted(set(lengths or shape.lengths[device]))
    if tokens[0] < 1:
        raise UserError(f"length {tokens[0]} is no number of tokens; use --length 1 or more")
    if tokens[-1] > MOST_TOKENS:
        raise UserError(f"length {tokens[-1]} is more than can be measured; use --length {MOST_TOKENS} or less")
    if out is not None:
        check_out(out, "ops.jsonl")
    wanted = _known("backend", backends, BACKENDS) or [name for name in BACKENDS if name not in ON_REQUEST]
    chosen = _known("scope", scopes, SCOPES) or [s for s in SCOPES if device == "cuda" or s != "layer"]
    with_attention = mixers is None or scopes is not None
    compared = min(shape.compared, tokens[-1])
    tokens = sorted({*tokens, compared})
    progress = PlainConsole(stderr=True)

    notes = device_state(device)
    asked = {
        "what": "ops",
        "mixers": names,
        "lengths": tokens,
        "geometry": shape.name,
        "scopes": chosen,
        "device": device,
    }
    run_id, told = RunSpec(kind="profile", arguments=asked).id, environment(device_name(device))
    recorder = Recorder(shape, device, measure_ceilings(device), notes, run_id)
    timings: list[Timing] = []
    errors: dict[str, dict[str, float]] = {}
    trouble: dict[str, str] = {}
    for subject in _subjects(names, chosen, shape, device, with_attention):
        subject.contenders[:] = [one for one in subject.contenders if one.name in wanted]
        progress.print(f"{subject.label}, {subject.scope}: checking", highlight=False)
        right, refused = check_subject(subject, tokens, compared)
        errors[f"{subject.label} {subject.scope}"] = right
        trouble |= {f"{subject.label} {subject.scope} {name}": reason for name, reason in refused.items()}
        subject.contenders[:] = [one for one in subject.contenders if one.name not in refused]
        for group in time_subject(subject, tokens, device, trouble):
            timings += group
            for t in group:
                progress.print(f"  {t.what} {t.tokens:,} {t.backend}: {t.median_ms:.4g} ms", highlight=False)
            if out is not None:
                ship_records(out, recorder.records(timings), {run_id: told})
    if not timings:
        reasons = "; ".join(f"{what}: {why}" for what, why in trouble.items()) or _nothing(
            names, chosen, wanted, device
        )
        raise UserError(f"nothing was timed: {reasons}; ask for another --backend or --scope", 1)
    idle = [name for name in backends or () if name not in {t.backend for t in timings}]
    remarks = [
        *warnings_of(notes), *(f"{what}: {why}" for what, why in trouble.items()),
        *(f"backend {name} timed nothing: {_nothing(names, chosen, [name], device)}" for name in idle),
    ]  # fmt: skip
    show(timings, shape, recorder.ceilings, device, remarks)
    typer.echo(json.dumps(summary(timings, shape, recorder.ceilings, device, errors, remarks)))
    return recorder.records(timings)


def _subjects(
    names: list[str], scopes: list[str], shape: Geometry, device: str, with_attention: bool
) -> Iterator[Subject]:
    """What to time, made when its turn has come, so that the weights of one layer stand in memory at a time."""
    if "attention" in scopes and with_attention:
        yield from attention_subjects(shape, device)
    for name in names:
        if "recurrence" in scopes and get_mixer(name).recurrence is not None:
            yield recurrence_subject(name, shape, device)
        if "layer" in scopes:
            yield layer_subject(name, shape, device)


def _nothing(names: list[str], scopes: list[str], backends: list[str], device: str) -> str:
    """Why there was nothing to time, and what to ask for instead."""
    said = []
    for name in names if "recurrence" in scopes else ():
        recurrence = get_mixer(name).recurrence
        if recurrence is None:
            said.append(f"{name} has no recurrence (--scope layer times its layer)")
            continue
        call = Call(device, torch.bfloat16 if device == "cuda" else torch.float32, T=1024, K=128, V=256)
        for backend in LIBRARIES:
            trouble = recurrence.trouble(backend, call) if {backend, f"{backend}-graph"} & {*backends} else None
            if trouble:
                said.append(f"backend {backend} cannot run {recurrence.name} ({trouble})")
    return "; ".join(dict.fromkeys(said)) or (
        f"backend {', '.join(backends)} has no part in scope {', '.join(scopes)} on {device}"
    )


def _known(kind: str, names: list[str] | None, known: tuple[str, ...]) -> list[str]:
    for name in names or ():
        if name not in known:
            raise unknown_name(kind, name, known)
    return list(dict.fromkeys(names or ()))
