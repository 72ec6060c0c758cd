"""`infinitevl-bench profile`: from what was asked for to cells, and from their records to a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rich.table import Table

from ..errors import UserError
from ..files import check_out
from ..models.device import resolve_device
from ..printing import PlainConsole
from ..records import Record, write_records
from . import decode, memory, prefill, streaming, training
from .models import DEFAULTS, config_of, resolve_dtype
from .request import Request
from .session import PROTOCOLS, Cell, Session, paths_of
from .timing import MOST_TOKENS

Plan = Callable[[Request, Mapping[str, list[str]], str], list[Cell]]
Measure = Callable[[Session, Cell], list[Record]]

PROFILES: dict[str, tuple[Plan, Measure]] = {
    "decode": (decode.decode_cells, decode.measure_decode),
    "stream": (streaming.stream_cells, streaming.measure_stream),
    "memory": (memory.memory_cells, memory.measure_memory),
    "training": (training.training_cells, training.measure_training),
    "prefill": (prefill.prefill_cells, prefill.measure_prefill),
}
"""What can be profiled: its cells, for models with their paths on a device, and what measures one. `all` takes them in
this order, the most telling first."""


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
    plans = [
        plan(replace(request, what=kind), device) for kind in (PROFILES if request.what == "all" else [request.what])
    ]
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
    cells_of, measure = PROFILES[request.what]
    return cells_of(request, models, device), measure


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
