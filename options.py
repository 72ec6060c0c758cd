"""Options that every group of commands has."""

import math
from pathlib import Path
from typing import Annotated

import typer

from .files import given_path

Runs = Annotated[
    Path, typer.Option("--runs", parser=given_path, help="Folder of all runs.", envvar="INFINITEVL_BENCH_RUNS")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]

MOST_SEED = 2**32 - 1
"""The highest seed that every generator of random numbers takes."""

FEWEST_PIXELS, MOST_PIXELS = 28 * 28, 10**9
"""Area of a picture: one visual token, and more than any picture that is shown whole."""

TEMPORAL_PATCH = 2
"""Frames of a video that the vision tower joins into one."""


def finite(value: float | None) -> float | None:
    """A number, or none, as an option gives it; ``nan`` lies between all bounds, and ``inf`` above what has none.

    Raises:
        BadParameter: for one of these.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number that can be worked with; give a finite one")
    return value
