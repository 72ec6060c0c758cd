"""`infinitevl-bench data`: the files that benchmarks are read from."""

from pathlib import Path
from typing import Annotated

import typer

from ..files import given_path
from ..options import MOST_SEED

data = typer.Typer(
    help="Benchmark files: which are here, and synthetic ones.", no_args_is_help=True, rich_markup_mode=None
)


@data.command("status")
def status() -> None:
    """Show which official files are here, where they belong, their sizes, and whether their checksums are right.

    Example:

      infinitevl-bench data status
    """
    from .data_command import print_status

    print_status()


@data.command("make-synthetic")
def make_synthetic(
    benchmark: Annotated[list[str] | None, typer.Argument(help="Benchmarks; all of them without it.")] = None,
    out: Annotated[Path, typer.Option(parser=given_path, help="Folder of the files.")] = Path("synthetic"),
    questions: Annotated[int, typer.Option(min=1, help="Questions of each.")] = 200,
    level: Annotated[int, typer.Option(min=1, max=4, help="Difficulty.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the pages.")] = 0,
) -> None:
    """Write the synthetic twins of benchmarks, in the official files' columns.

    Example:

      infinitevl-bench data make-synthetic MME DocVQA --questions 50
    """
    from . import data_command

    data_command.make_synthetic(benchmark or (), out, questions=questions, level=level, seed=seed)
