"""`infinitevl-bench profile`: from what was asked for to cells, and from their records to a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.table import Table

from ..errors import UserError
from ..files import check_out
from ..models.device import resolve_device
from ..printing import PlainConsole
from ..records import Record, write_records
from . import decode, memory, prefill, streaming, training
from .models import DEFAULTS, config_of, resolve_dtype
from .session import PROTOCOLS, Cell, Session, paths_of
from .timing import MOST_TOKENS

KINDS = ("decode", "stream", "memory", "training", "prefill")
"""What can be profiled; `all` takes them in this order, the most telling first."""

Measure = Callable[[Session, Cell], list[Record]]


@dataclass(frozen=True)
class Request:
    """What was asked for; None and empty lists mean the default of the device.

    Attributes:
        what: Of `KINDS`, or ``all``: one after the other in one process, since importing takes its time.
        models: Presets, ``preset:PATTERN``, or folders of checkpoints.
        contexts: Tokens before what is measured.
        frames: Frames before what is measured.
        frame_size: Side of a square frame in pixels.
        chunk: Tokens of a prefill chunk.
        batch: Sequences at a time.
        graph: Only captured (True), only eager (False), or what the protocols need (None).
        protocol: ``matched``, ``as-published`` or ``both``.
        dtype: Of the weights.
        device: auto, cpu or cuda.
        quick: Fewer cells, the most telling first.
        budget_s: Start no cell after so many seconds.
        again: Measure what is finished anew.
        runs: Folder of all runs.
        out: JSON-lines file that the records are written to as well; None writes none.
    """

    what: str
    models: list[str] = field(default_factory=list)
    contexts: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    frame_size: int | None = None
    chunk: int | None = None
    batch: int = 1
    graph: bool | None = None
    protocol: str = "both"
    dtype: str | None = None
    device: str = "auto"
    quick: bool = False
    budget_s: float | None = None
    again: bool = False
    runs: Path = Path("runs")
    out: Path | None = None


def profile_command(request: Request) -> list[Record]:
    """Measure what is not measured yet, and print a table of all that was asked for.

    Raises:
        UserError: For a name or number that means nothing, or (exit code 1) a model whose results are not right.
    """
    device = resolve_device(request.device)
    dtype = resolve_dtype(request.dtype, device)
    for number in (*request.contexts, *request.frames):
        if number < 1:
            raise UserError(f"{number} is no number of tokens or frames; use 1 or more")
        if number > MOST_TOKENS:
            raise UserError(f"{number} tokens or frames are more than can be measured; use {MOST_TOKENS} or less")
    if request.protocol not in (*PROTOCOLS, "both"):
        raise UserError(f"unknown protocol {request.protocol!r}; use matched, as-published or both")
    if request.out is not None:
        check_out(request.out, "profile.jsonl")
    plans = [plan(replace(request, what=kind), device) for kind in (KINDS if request.what == "all" else [request.what])]
    session = Session(device, dtype, request.runs, request.batch, request.budget_s, request.again)
    for cells, measure in plans:
        session.run(cells, measure)
        session.drop()
        if request.out is not None:
            write_records(request.out, session.records)
    show(session.records)
    return session.records


def plan(request: Request, device: str) -> tuple[list[Cell], Measure]:
    """The cells of a request, and what measures them."""
    models = {reference: _paths(request, reference) for reference in request.models or DEFAULTS[device]}
    quick = request.quick
    if request.what == "decode":
        contexts = request.contexts or (decode.QUICK_CONTEXTS if quick else decode.CONTEXTS)[device]
        return decode.decode_cells(models, contexts), decode.measure_decode
    if request.what == "prefill":
        contexts = request.contexts or (prefill.QUICK_CONTEXTS if quick else prefill.CONTEXTS)[device]
        chunk = prefill.CHUNK[device] if request.chunk is None else request.chunk
        return prefill.prefill_cells(models, contexts, chunk), prefill.measure_prefill
    if request.what == "stream":
        if request.batch != 1:
            raise UserError(f"a stream is one sequence, not {request.batch}; leave --batch out")
        frames = request.frames or (streaming.QUICK_FRAMES if quick else streaming.FRAMES)[device]
        size = streaming.FRAME_SIZE[device] if request.frame_size is None else request.frame_size
        for reference in models:
            config = config_of(reference)
            if config is not None:
                # Said before a model is made.
                streaming.grid_of(config, size)
        return streaming.stream_cells(models, frames, size), streaming.measure_stream
    if request.what == "memory":
        contexts = request.contexts or (memory.QUICK_CONTEXTS if quick else memory.CONTEXTS)[device]
        return memory.memory_cells(models, contexts), memory.measure_memory
    contexts = request.contexts or (training.QUICK_CONTEXTS if quick else training.CONTEXTS)[device]
    return training.training_cells(models, contexts), training.measure_training


def _paths(request: Request, reference: str) -> list[str]:
    config = config_of(reference)
    full = config is not None and config.text_config.pattern == "F"
    if request.graph is not None:
        return ["graph" if request.graph else "eager"]
    return paths_of(PROTOCOLS if request.protocol == "both" else [request.protocol], full)


def show(records: Sequence[Record]) -> None:
    """Print the records, each beside its floor."""
    console = PlainConsole()
    if not console.is_terminal:
        console.width = 130
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "pattern", "path", "protocol", "metric"):
        table.add_column(heading)
    for heading in ("tokens", "frames", "value", "p10–p90 ms", "× floor", "MBU", "MFU"):
        table.add_column(heading, justify="right")
    for record in records:
        extra = record.extra
        spread = f"{extra['p10_ms']:.4g}–{extra['p90_ms']:.4g}" if "p10_ms" in extra else str(extra.get("status", ""))
        table.add_row(
            record.model, record.pattern, str(extra["path"]), str(extra.get("protocol", "")), record.metric,
            "" if record.context is None else f"{record.context:,}",
            "" if record.frames is None else f"{record.frames:,}",
            f"{record.value:,.4g} {record.unit}", spread,
            *(f"{extra[name]:.2f}" if name in extra else "" for name in ("ratio_to_floor", "mbu", "mfu")),
        )  # fmt: skip
    console.print(table)
