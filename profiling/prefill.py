"""Time to read a context, in chunks of fixed size: tokens per second against length.

What bounds it. A chunk reads the weights once and does two operations a weight for each of its tokens, so from a few
hundred tokens on it is bound by the matrix rate. Attention to a window and recurrent states add the same for every
chunk; attention to everything adds in proportion to what was read before, so the whole takes the square of the length.
"""

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import UserError
from ..records import Record
from .decode import ensure_checked
from .eager import EagerDecoder
from .models import Profiled
from .request import Request
from .session import ESTIMATE, OUT_OF_MEMORY, Cell, DoesNotFitError, Session, protocols_of
from .timing import Samples, elapsed_ms

CONTEXTS = {"cuda": (1024, 8192, 32768, 65536, 131072, 262144, 1048576), "cpu": (64, 256, 1024, 4096)}
QUICK_CONTEXTS = {"cuda": (8192, 65536), "cpu": (64, 1024)}
CHUNK = {"cuda": 4096, "cpu": 64}
LONG = 100_000
"""Tokens from which on one repeat has to do."""

REPEATS = 3
METRIC = "prefill_tokens_per_second"


def prefill_cells(request: Request, models: Mapping[str, list[str]], device: str) -> list[Cell]:
    """Every context of every model on every path, by model.

    Raises:
        UserError: for a chunk of less than two tokens.
    """
    contexts = request.contexts or (QUICK_CONTEXTS if request.quick else CONTEXTS)[device]
    chunk = CHUNK[device] if request.chunk is None else request.chunk
    if chunk < 2:
        raise UserError(f"a chunk of {chunk} tokens is none; use --chunk 2 or more")
    return [
        Cell("prefill", model, path, {"context": context, "chunk": chunk})
        for model, paths in models.items()
        for path in paths
        for context in contexts
    ]


def measure_prefill(session: Session, cell: Cell) -> list[Record]:
    """One cell; where memory does not hold the context, the floor, marked as an estimate."""
    profiled = session.model(cell.model)
    ensure_checked(session, profiled, cell)
    context, chunk = int(cell.arguments["context"]), int(cell.arguments["chunk"])
    work = profiled.work.prefill(context, batch=session.batch)
    notes: dict[str, Any] = {"chunk": chunk}
    try:
        samples = _samples(session, profiled, cell.path, context, chunk)
        value = 1000 * session.batch * context / samples.median_ms
    except DoesNotFitError as reason:
        samples, value = None, 1000 * session.batch * context / work.floor_ms(session.ceilings)
        notes |= {"status": ESTIMATE, "reason": str(reason)}
    except torch.OutOfMemoryError:
        session.drop_decoder()
        samples, value = None, 0.0
        notes |= {"status": OUT_OF_MEMORY}
    return [
        session.record(
            profiled, cell, "prefill", METRIC, value, "tokens/s", protocol=protocol, samples=samples, work=work,
            context=context, **notes,
        )
        for protocol in protocols_of(cell.path, profiled.full_attention)
    ]  # fmt: skip


def _samples(session: Session, profiled: Profiled, path: str, context: int, chunk: int) -> Samples:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 100, (session.batch, context), generator=generator).to(session.device)
    session.require(profiled.work.cache_bytes(context, session.batch))
    repeats = REPEATS if context < LONG else 1
    if path == "graph":
        decoder = session.decoder(profiled, context, chunk)

        def run() -> None:
            decoder.reset()
            decoder.prefill(ids)

    else:

        def run() -> None:
            eager = EagerDecoder(profiled, session.batch)
            for piece in ids.split(chunk, dim=1):
                eager.prefill(piece)

    if path == "graph" and context >= chunk:
        # Captures the chunk, and compiles what has to be compiled.
        decoder.prefill(ids[:, :chunk])
    elif context < LONG:
        run()
    return Samples(tuple(elapsed_ms(run, session.device) for _ in range(repeats)))
