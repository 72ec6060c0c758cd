"""The command line: a few lines of glue a command; everything heavy is imported inside."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import __version__
from .errors import UserError
from .profiling.cli import profile

app = typer.Typer(
    name="infinitevl-bench",
    help="Reproduction and ablation suite for InfiniteVL: swap the token mixer and the SWA ratio, evaluate through "
    "VLMEvalKit, report published beside measured.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
bench = typer.Typer(help="Speed of single operations.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(bench, name="bench")
app.add_typer(profile, name="profile")

INTERRUPTED = 130

Runs = Annotated[Path, typer.Option("--runs", help="Folder of all runs.", envvar="INFINITEVL_BENCH_RUNS")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]


class Listing(StrEnum):
    """What `list` can list."""

    MIXERS = "mixers"
    BENCHMARKS = "benchmarks"
    PRESETS = "presets"
    ARTIFACTS = "artifacts"
    RUNS = "runs"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"infinitevl-bench {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""
    if debug:
        os.environ["INFINITEVL_BENCH_DEBUG"] = "1"


@app.command()
def ablate(
    mixer: Annotated[list[str] | None, typer.Option(help="A token mixer; may be repeated.")] = None,
    swa_ratio: Annotated[
        list[str] | None, typer.Option(help="Share of SWA layers: 0, 1/8, 1/4, 1/2, 1; repeatable.")
    ] = None,
    pattern: Annotated[
        list[str] | None, typer.Option(help="A layer pattern such as SLLL instead of a ratio; repeatable.")
    ] = None,
    scale: Annotated[str, typer.Option(help="tiny (two CPU cores) or small (one GPU).")] = "tiny",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every cell: 0, 1, …")] = 1,
    recipe: Annotated[
        str | None, typer.Option(help="scratch, or inherit all but the mixers; the scale's own without.")
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(help="What all arms have alike: params, state or none; params without it, none if inheriting."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps instead of the scale's.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=1e-9, help="Peak learning rate instead of the scale's.")
    ] = None,
    questions: Annotated[int | None, typer.Option(min=1, help="Test questions of each benchmark.")] = None,
    pages: Annotated[int | None, typer.Option(min=1, help="Training pages.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cells at a time; by default one a core, or one on a GPU.")
    ] = None,
    device: Device = "auto",
    runs: Runs = Path("runs"),
) -> None:
    """Train and score every combination of mixers and SWA ratios; finished cells are skipped, interrupted ones go on.

    Examples:

      infinitevl-bench ablate --mixer gla

      infinitevl-bench ablate --mixer gated_deltanet --swa-ratio 1/8 --swa-ratio 1/4 --seeds 3
    """
    from .ablations.command import ablate_command

    overrides = {
        name: value for name, value in {"steps": steps, "learning_rate": learning_rate}.items() if value is not None
    }
    ablate_command(
        mixers=mixer, ratios=swa_ratio, patterns=pattern, scale=scale, seeds=seeds, recipe=recipe, match=match,
        overrides=overrides, questions=questions, pages=pages, jobs=jobs, device=device, runs=runs,
    )  # fmt: skip


@app.command("eval")
def evaluate(
    benchmark: Annotated[str, typer.Argument(help="A benchmark by the paper's name or VLMEvalKit's, e.g. DocVQA.")],
    model: Annotated[
        str | None,
        typer.Option(help="Folder, run, preset, hub id, or best: the best finished run; else the shipped model."),
    ] = None,
    data: Annotated[str, typer.Option(help="auto, official or synthetic.")] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many questions.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions at a time.")] = 16,
    level: Annotated[int, typer.Option(min=1, max=4, help="Difficulty of the synthetic split.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic split.")] = 0,
    device: Device = "auto",
    runs: Runs = Path("runs"),
) -> None:
    """Evaluate a model on a benchmark through VLMEvalKit's own dataset class and scorer.

    The official TSV is read from $LMUData (or ~/LMUData) and never downloaded; without it, `--data auto` takes our
    synthetic split, says so, and writes split=synthetic into every record.

    Examples:

      infinitevl-bench eval DocVQA

      infinitevl-bench eval ChartQA --model runs/ablate-0123456789ab --limit 100
    """
    from .eval.command import run_eval

    run_eval(
        benchmark, model=model, data=data, limit=limit, batch_size=batch_size, level=level, seed=seed,
        device=device, runs=runs,
    )  # fmt: skip


@app.command()
def report(
    artifacts: Annotated[list[str] | None, typer.Argument(help="Artifacts such as table3; all without it.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("report"),
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="md, latex, csv, html, png, svg; repeatable.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if a file differs from the records.")
    ] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Write every table and figure, published beside measured, from recorded results alone.

    Examples:

      infinitevl-bench report

      infinitevl-bench report table3 --format md --format latex
    """
    from .reports.build import report_command

    typer.echo(report_command(runs, out, artifacts, formats, check))


@app.command("list")
def list_names(what: Annotated[Listing, typer.Argument(help="What to list.")], runs: Runs = Path("runs")) -> None:
    """List mixers, benchmarks, presets, artifacts or runs.

    Example:

      infinitevl-bench list mixers
    """
    from .listing import print_listing

    print_listing(what.value, runs)


@app.command()
def doctor() -> None:
    """Show versions, devices, and which backends and extras are usable, and why not."""
    from .doctor import print_diagnosis

    print_diagnosis()


@bench.command("ops")
def bench_ops(
    mixer: Annotated[list[str] | None, typer.Option(help="A token mixer; may be repeated; all without it.")] = None,
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
        Path | None, typer.Option(help="Also write the rows as JSON lines to this file, as they come.")
    ] = None,
) -> None:
    """Time mixers and attention alone: each form of ours, flash-linear-attention's, each beside its floor.

    Example:

      infinitevl-bench bench ops --mixer gated_deltanet --length 1024
    """
    from .profiling.ops.command import bench_ops_command

    bench_ops_command(mixer, length, device, out, geometry=geometry, backends=backend, scopes=scope)


def main() -> None:
    """Run the command line; a user's mistake is one line and a non-zero exit code."""
    try:
        app()
    except UserError as error:
        if os.environ.get("INFINITEVL_BENCH_DEBUG"):
            raise
        typer.echo(f"infinitevl-bench: {error}", err=True)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        # typer turns an interruption into this exit code, and says nothing.
        if stop.code == INTERRUPTED:
            typer.echo("infinitevl-bench: interrupted; nothing is lost, call the same command again to go on", err=True)
        raise


if __name__ == "__main__":
    main()
