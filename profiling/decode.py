"""Latency of a decode step against context: claim C4, figure 4 (left).

What bounds it. A step reads every weight of the decoder once, and all that is remembered: for the hybrid a window and
states of fixed size, for the Transformer keys and values of every token. Both are bytes over bandwidth; at one sequence
there is next to nothing to compute. The rest is what launching some two thousand kernels costs, which a captured graph
takes away: so a captured model is compared with a captured one (matched), and, as was published, the captured hybrid
with an eager Transformer (as-published).

A step feeds its own greedy token back. The past is counted, not run: which numbers a cache holds does not change how
long it takes to read them.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..records import Record
from .checks import check_decoder
from .eager import EagerDecoder
from .models import Profiled
from .request import Request
from .session import ESTIMATE, OUT_OF_MEMORY, Cell, DoesNotFitError, Session, protocols_of
from .timing import Samples, time_steps

CONTEXTS = {
    "cuda": (1024, 8192, 32768, 65536, 131072, 262144, 360448, 524288, 1048576),
    "cpu": (64, 256, 1024, 4096, 16384),
}
QUICK_CONTEXTS = {"cuda": (8192, 65536, 262144, 360448, 1024), "cpu": (64, 1024)}
STEPS = {"graph": 64, "eager": 24}
WARMUPS = {"graph": 8, "eager": 4}
HEADLINE_CONTEXT = 65536
"""The published bar of latency is from the plot's long end; ours is taken here."""


def decode_cells(request: Request, models: Mapping[str, list[str]], device: str) -> list[Cell]:
    """Every context of every model on every path, by model."""
    contexts = request.contexts or (QUICK_CONTEXTS if request.quick else CONTEXTS)[device]
    return [
        Cell("decode", model, path, {"context": context})
        for model, paths in models.items()
        for path in paths
        for context in contexts
    ]


def measure_decode(session: Session, cell: Cell) -> list[Record]:
    """One cell; where memory does not hold the context, what bytes and bandwidth say of it, marked as an estimate."""
    profiled = session.model(cell.model)
    ensure_checked(session, profiled, cell)
    context = int(cell.arguments["context"])
    try:
        samples = _samples(session, profiled, cell.path, context)
    except DoesNotFitError as reason:
        return _estimates(session, profiled, cell, context, str(reason))
    except torch.OutOfMemoryError:
        session.drop_decoder()
        return [
            session.record(
                profiled, cell, "fig4_latency", "latency_ms", 0.0, "ms", protocol=protocol, context=context,
                status=OUT_OF_MEMORY,
            )
            for protocol in protocols_of(cell.path, profiled.full_attention)
        ]  # fmt: skip
    work = profiled.work.decode(context, session.batch)
    artifacts = ["fig4_latency", *(["fig1"] if context == HEADLINE_CONTEXT else [])]
    return [
        session.record(
            profiled, cell, artifact, "latency_ms", samples.median_ms, "ms", protocol=protocol, samples=samples,
            work=work, context=context, interval=samples.interval_ms,
        )
        for artifact in artifacts
        for protocol in protocols_of(cell.path, profiled.full_attention)
    ]  # fmt: skip


def ensure_checked(session: Session, profiled: Profiled, cell: Cell) -> None:
    """Check the model once a session, before its first speed."""
    if cell.model not in session.checked:
        session.drop_decoder()
        found = session.checked[cell.model] = check_decoder(profiled, use_graph=True)
        told = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
        session.console.print(f"{cell.model}: the fast path is right ({told})")


def _samples(session: Session, profiled: Profiled, path: str, context: int) -> Samples:
    room = context + STEPS[path] + WARMUPS[path] + 8
    needed = profiled.work.cache_bytes(room, session.batch)
    if path == "graph":
        if profiled.full_attention:
            session.require(needed)
        decoder = session.decoder(profiled, room)
        decoder.set_length(context)
        return time_steps(_greedy(decoder.decode, session), session.device, STEPS[path], WARMUPS[path])
    # transformers' cache copies each layer into a larger one with every token.
    session.require(needed * (1 + 2 / len(profiled.config.text_config.layer_types)))
    eager = EagerDecoder(profiled, session.batch)
    eager.start_at(context)
    return time_steps(_greedy(eager.decode, session), session.device, STEPS[path], WARMUPS[path])


def _greedy(decode: Callable[[Tensor], Tensor], session: Session) -> Callable[[], None]:
    """A step that feeds its own token back, without waiting for the device."""
    token = torch.zeros(session.batch, 1, dtype=torch.long, device=session.device)

    def step() -> None:
        token.copy_(decode(token).argmax(dim=-1, keepdim=True))

    return step


def _estimates(session: Session, profiled: Profiled, cell: Cell, context: int, reason: str) -> list[Record]:
    """The floor at this context times the ratio to the floor at the longest context that was measured."""
    work = profiled.work.decode(context, session.batch)
    floor = work.floor_ms(session.ceilings)
    found = []
    for protocol in protocols_of(cell.path, profiled.full_attention):
        same = [
            record
            for record in session.records
            if record.metric == "latency_ms" and record.model == profiled.name and "ratio_to_floor" in record.extra
            and record.extra.get("protocol") == protocol and record.pattern == profiled.config.text_config.pattern
        ]  # fmt: skip
        last = max(same, key=lambda record: record.context or 0, default=None)
        ratio = float(str(last.extra["ratio_to_floor"])) if last is not None else 1.0
        record = session.record(
            profiled, cell, "fig4_latency", "latency_ms", floor * ratio, "ms", protocol=protocol, context=context,
            status=ESTIMATE, reason=reason, floor_ms=floor, assumed_ratio_to_floor=ratio,
        )  # fmt: skip
        found.append(record)
    return found
