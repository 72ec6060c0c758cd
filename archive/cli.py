"""The commands of `infinitevl-bench runs`; everything heavy is imported inside."""

from pathlib import Path
from typing import Annotated

import typer

from ..options import Runs

runs_app = typer.Typer(
    help="The runs of a folder: list, show, diff, export, prune.", no_args_is_help=True, rich_markup_mode=None
)

Name = Annotated[str, typer.Argument(help="A run's id, the beginning of it, or its folder.")]


@runs_app.command("list")
def list_command(runs: Runs = Path("runs")) -> None:
    """List all runs: finished, held by a process, unfinished or damaged.

    Example:

      infinitevl-bench runs list
    """
    from .commands import list_runs

    list_runs(runs)


@runs_app.command("show")
def show_command(run: Name, runs: Runs = Path("runs")) -> None:
    """Show what a run was asked for, where it ran, and what it found.

    Example:

      infinitevl-bench runs show ablate-0123456789ab
    """
    from .commands import show_run

    show_run(run, runs)


@runs_app.command("diff")
def diff_command(first: Name, second: Name, runs: Runs = Path("runs")) -> None:
    """Show in what two runs differ: request, environment, numbers.

    Example:

      infinitevl-bench runs diff ablate-0123456789ab ablate-ba9876543210
    """
    from .commands import diff_runs

    diff_runs(first, second, runs)


@runs_app.command("export")
def export_command(
    out: Annotated[Path, typer.Argument(help="A file that ends in .parquet, .csv or .jsonl.")],
    runs: Runs = Path("runs"),
) -> None:
    """Write all measured records as one tidy table: a row a number.

    As .jsonl: those of the runs alone, as the package ships records (reports/measured), with their environments beside.

    Example:

      infinitevl-bench runs export records.parquet
    """
    from .commands import export_records

    export_records(out, runs)


@runs_app.command("prune")
def prune_command(
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it, only tell what would go.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Remove unfinished runs that no process works on; finished ones always stay.

    Example:

      infinitevl-bench runs prune --yes
    """
    from .commands import prune_runs

    prune_runs(runs, yes)
