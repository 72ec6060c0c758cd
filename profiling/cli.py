"""The commands of `infinitevl-bench profile`; everything heavy is imported inside."""

from pathlib import Path
from typing import Annotated

import typer

from ..files import given_path
from ..options import Device, Runs, finite

profile = typer.Typer(
    help="Speed and memory of whole models, each beside its floor; what is measured is kept and skipped when the "
    "command is called again.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="A preset, preset:PATTERN, or a checkpoint's folder; hybrid and Transformer without."),
]
Contexts = Annotated[list[int] | None, typer.Option("--context", help="Tokens; may be repeated.")]
Batch = Annotated[int, typer.Option("--batch", min=1, max=65_536, help="Sequences at a time.")]
Graph = Annotated[
    bool | None, typer.Option("--graph/--eager", help="Only captured, or only eager; what the protocols need without.")
]
Protocol = Annotated[str, typer.Option("--protocol", help="matched, as-published or both.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="bfloat16, float16 or float32; the device's usual without.")]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer points, the most telling first.")]
Budget = Annotated[
    float | None, typer.Option("--budget", min=0, callback=finite, help="Start nothing new after so many seconds.")
]
Again = Annotated[bool, typer.Option("--again", help="Measure anew what is finished.")]
Out = Annotated[
    Path | None, typer.Option("--out", parser=given_path, help="Also write the records as JSON lines to this file.")
]


@profile.command("all")
def everything(
    model: Models = None,
    dtype: Dtype = None,
    quick: Quick = False,
    budget: Budget = None,
    again: Again = False,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    out: Out = None,
) -> None:
    """Everything below in one process, the most telling first.

    Example:

      infinitevl-bench profile all --quick --budget 480
    """
    from .command import profile_command
    from .request import Request

    profile_command(
        Request(
            "all", model or [], dtype=dtype, quick=quick, budget_s=budget, again=again, device=device, runs=runs,
            out=out,
        )
    )  # fmt: skip


@profile.command()
def decode(
    model: Models = None,
    context: Contexts = None,
    batch: Batch = 1,
    graph: Graph = None,
    protocol: Protocol = "both",
    dtype: Dtype = None,
    quick: Quick = False,
    budget: Budget = None,
    again: Again = False,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    out: Out = None,
) -> None:
    """Latency of a token against context (claim C4, figure 4).

    Example:

      infinitevl-bench profile decode --context 8192 --context 262144
    """
    from .command import profile_command
    from .request import Request

    profile_command(
        Request(
            "decode", model or [], context or [], batch=batch, graph=graph, protocol=protocol, dtype=dtype, quick=quick,
            budget_s=budget, again=again, device=device, runs=runs, out=out,
        )
    )  # fmt: skip


@profile.command()
def prefill(
    model: Models = None,
    context: Contexts = None,
    chunk: Annotated[int | None, typer.Option("--chunk", max=10**9, help="Tokens that are read at a time.")] = None,
    batch: Batch = 1,
    graph: Graph = None,
    protocol: Protocol = "both",
    dtype: Dtype = None,
    quick: Quick = False,
    budget: Budget = None,
    again: Again = False,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    out: Out = None,
) -> None:
    """Tokens per second of reading a context, in chunks, against its length.

    Example:

      infinitevl-bench profile prefill --context 65536
    """
    from .command import profile_command
    from .request import Request

    profile_command(
        Request(
            "prefill", model or [], context or [], chunk=chunk, batch=batch, graph=graph, protocol=protocol,
            dtype=dtype, quick=quick, budget_s=budget, again=again, device=device, runs=runs, out=out,
        )
    )  # fmt: skip


@profile.command()
def stream(
    model: Models = None,
    frames: Annotated[list[int] | None, typer.Option("--frames", help="Frames watched before; repeatable.")] = None,
    frame_size: Annotated[
        int | None, typer.Option("--frame-size", min=28, max=8_192, help="Side of a frame in pixels.")
    ] = None,
    graph: Graph = None,
    protocol: Protocol = "both",
    dtype: Dtype = None,
    quick: Quick = False,
    budget: Budget = None,
    again: Again = False,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    out: Out = None,
) -> None:
    """Frames per second of a stream against frames already watched (claim C5, figure 4).

    Example:

      infinitevl-bench profile stream --frames 10 --frames 800
    """
    from .command import profile_command
    from .request import Request

    profile_command(
        Request(
            "stream", model or [], frames=frames or [], frame_size=frame_size, graph=graph, protocol=protocol,
            dtype=dtype, quick=quick, budget_s=budget, again=again, device=device, runs=runs, out=out,
        )
    )  # fmt: skip


@profile.command()
def memory(
    model: Models = None,
    context: Contexts = None,
    batch: Batch = 1,
    dtype: Dtype = None,
    quick: Quick = False,
    budget: Budget = None,
    again: Again = False,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    out: Out = None,
) -> None:
    """Peak memory of decoding against context, each point in a process of its own (claim C6, figure 1).

    Example:

      infinitevl-bench profile memory --context 32768
    """
    from .command import profile_command
    from .request import Request

    profile_command(
        Request(
            "memory", model or [], context or [], batch=batch, dtype=dtype, quick=quick, budget_s=budget, again=again,
            device=device, runs=runs, out=out,
        )
    )  # fmt: skip


@profile.command()
def training(
    model: Models = None,
    context: Contexts = None,
    batch: Batch = 1,
    dtype: Dtype = None,
    quick: Quick = False,
    budget: Budget = None,
    again: Again = False,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    out: Out = None,
) -> None:
    """Training throughput at the settings of stage 2 (claim C8, figure 1).

    Example:

      infinitevl-bench profile training --context 8192
    """
    from .command import profile_command
    from .request import Request

    profile_command(
        Request(
            "training", model or [], context or [], batch=batch, dtype=dtype, quick=quick, budget_s=budget, again=again,
            device=device, runs=runs, out=out,
        )
    )  # fmt: skip
