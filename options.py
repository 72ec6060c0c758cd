"""Options that every group of commands has."""

from pathlib import Path
from typing import Annotated

import typer

from .files import given_path

Runs = Annotated[
    Path, typer.Option("--runs", parser=given_path, help="Folder of all runs.", envvar="INFINITEVL_BENCH_RUNS")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
