"""`infinitevl-bench bench`: the speed of single operations."""

from pathlib import Path
from typing import Annotated

import typer

from ...files import given_path
from ...models.registry import known_mixer
from ...options import Device

bench = typer.Typer(help="Speed of single operations.", no_args_is_help=True, rich_markup_mode=None)


@bench.command("ops")
def ops(
    mixer: Annotated[
        list[str] | None, typer.Option(callback=known_mixer, help="A token mixer; may be repeated; all without it.")
    ] = None,
    length: Annotated[list[int] | None, typer.Option(help="Sequence length in tokens; may be repeated.")] = None,
    geometry: Annotated[
        str | None, typer.Option(help="Shapes of preset tiny or infinitevl-4b; that of the device without.")
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="reference, torch, torch-compiled, fla, …; may be repeated.")
    ] = None,
    scope: Annotated[list[str] | None, typer.Option(help="recurrence, layer or attention; may be repeated.")] = None,
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(parser=given_path, help="Also write the rows as JSON lines to this file, as they come."),
    ] = None,
) -> None:
    """Time mixers and attention alone: each form of ours, flash-linear-attention's, each beside its floor.

    Example:

      infinitevl-bench bench ops --mixer gated_deltanet --length 1024
    """
    from .command import bench_ops_command

    bench_ops_command(mixer, length, device, out, geometry=geometry, backends=backend, scopes=scope)
