"""The command line: a few lines of glue a command; everything heavy is imported inside."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import __version__
from .archive.cli import runs_app
from .errors import UserError
from .eval.cli import data
from .files import given_path
from .mistakes import UsageError, told
from .models.registry import known_mixer
from .options import FEWEST_PIXELS, MOST_PIXELS, MOST_SEED, Device, Runs, finite
from .profiling.cli import profile
from .profiling.ops.cli import bench
from .training.cli import app as train

app = typer.Typer(
    name="infinitevl-bench",
    help="Reproduction and ablation suite for InfiniteVL: swap the token mixer and the SWA ratio, evaluate through "
    "VLMEvalKit, report published beside measured.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(bench, name="bench")
app.add_typer(train, name="train")
app.add_typer(data, name="data")
app.add_typer(profile, name="profile")
app.add_typer(runs_app, name="runs")

INTERRUPTED = 130


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
    study: Annotated[
        str | None,
        typer.Option(help="A registered study, not a grid: mixer_choice, swa_ratio, frame_scaling, mqar, mqar_vision."),
    ] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm of the study; repeatable.")] = None,
    frames: Annotated[
        list[int] | None, typer.Option(min=1, help="With frame_scaling: test this many frames; repeatable.")
    ] = None,
    mixer: Annotated[
        list[str] | None, typer.Option(callback=known_mixer, help="A token mixer; may be repeated.")
    ] = None,
    swa_ratio: Annotated[
        list[str] | None, typer.Option(help="Share of SWA layers: 0, 1/8, 1/4, 1/2, 1; repeatable.")
    ] = None,
    pattern: Annotated[
        list[str] | None, typer.Option(help="A layer pattern such as SLLL instead of a ratio; repeatable.")
    ] = None,
    scale: Annotated[str, typer.Option(help="tiny (two CPU cores) or small (one GPU).")] = "tiny",
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Seeds of every cell: 0, 1, …")] = 1,
    recipe: Annotated[
        list[str] | None, typer.Option(help="scratch, inherit or distill; repeatable; the scale's own without.")
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(help="What all arms have alike: params, widen, state or none; params, or widen if inheriting."),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Whom students learn from: shipped, or trained, at the scale before them.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps instead of the scale's.")] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(min=1e-9, max=10.0, callback=finite, help="Peak learning rate instead of the scale's."),
    ] = None,
    questions: Annotated[int | None, typer.Option(min=1, help="Test questions of each benchmark.")] = None,
    pages: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Training pages.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cells at a time; by default one a core, or one on a GPU.")
    ] = None,
    ray: Annotated[str | None, typer.Option(help="Run the cells on Ray: local, auto, or a cluster's address.")] = None,
    gpus_per_cell: Annotated[
        float | None,
        typer.Option(min=0.0, callback=finite, help="With --ray: GPUs of each cell, such as 0.25; one without."),
    ] = None,
    device: Device = "auto",
    runs: Runs = Path("runs"),
) -> None:
    """Train and score every combination of mixers and SWA ratios; finished cells are skipped, interrupted ones go on.

    Examples:

      infinitevl-bench ablate --mixer gla

      infinitevl-bench ablate --mixer gated_deltanet --swa-ratio 1/8 --swa-ratio 1/4 --seeds 3

      infinitevl-bench ablate --mixer gated_deltanet --recipe distill --recipe scratch --teacher trained

      infinitevl-bench ablate --study mixer_choice --scale small
    """
    from .ablations.studies import check_study

    if study is not None:
        # Before all that trains is imported.
        check_study(study)
    from .ablations.command import ablate_command, check_study_options, study_command

    own = {"--mixer": mixer, "--swa-ratio": swa_ratio, "--pattern": pattern, "--recipe": recipe, "--match": match,
           "--teacher": teacher, "--learning-rate": learning_rate, "--questions": questions, "--pages": pages,
           "--ray": ray}  # fmt: skip
    check_study_options(study, arm, frames, own)
    if study:
        study_command(
            study=study, arms=arm, scale=scale, steps=steps, jobs=jobs, device=device, runs=runs, frames=frames
        )
        return

    overrides = {
        name: value for name, value in {"steps": steps, "learning_rate": learning_rate}.items() if value is not None
    }
    ablate_command(
        mixers=mixer, ratios=swa_ratio, patterns=pattern, scale=scale, seeds=seeds, recipes=recipe, match=match,
        overrides=overrides, questions=questions, pages=pages, jobs=jobs, device=device, runs=runs, ray=ray,
        gpus_per_cell=gpus_per_cell, teacher=teacher,
    )  # fmt: skip


@app.command("eval")
def evaluate(
    benchmark: Annotated[
        list[str] | None, typer.Argument(help="Benchmarks by the paper's names or VLMEvalKit's, e.g. DocVQA.")
    ] = None,
    suite: Annotated[str | None, typer.Option(help="general, text-rich, video or paper: all its benchmarks.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Folder, run, preset, hub id, or best: the best finished run; else the shipped model."),
    ] = None,
    data: Annotated[str, typer.Option(help="auto, official or synthetic.")] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many questions.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Questions at a time; 16 without it.")] = None,
    graph: Annotated[
        bool, typer.Option("--graph", help="Answer one at a time by captured decode steps: fast on a GPU.")
    ] = False,
    level: Annotated[int, typer.Option(min=1, max=4, help="Difficulty of the synthetic split.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the synthetic split.")] = 0,
    prompts: Annotated[
        str, typer.Option(help="Whose words: dataset, as VLMEvalKit sets Qwen2.5-VL up, or qwen, its wrapper's own.")
    ] = "dataset",
    min_pixels: Annotated[
        int | None,
        typer.Option(min=FEWEST_PIXELS, max=MOST_PIXELS, help="Smallest area of a picture, in pixels."),
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=FEWEST_PIXELS, max=MOST_PIXELS, help="Largest area of a picture, in pixels."),
    ] = None,
    frames: Annotated[
        list[int] | None,
        typer.Option(min=2, max=65_536, help="Frames of a video, an even number, 64 without it; repeatable."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="A judge of VLMEvalKit, e.g. gpt-4o-mini; exact matching without it.")
    ] = None,
    blind: Annotated[bool, typer.Option(help="Also ask with grey pictures.")] = True,
    max_bad: Annotated[int, typer.Option(min=0, help="Rows of a file that may be bad; they are left out.")] = 0,
    device: Device = "auto",
    runs: Runs = Path("runs"),
) -> None:
    """Evaluate a model on benchmarks through VLMEvalKit's own dataset classes and scorers.

    The official TSV is read from $LMUData (or ~/LMUData) and never downloaded; without it, `--data auto` takes our
    synthetic split, says so, and writes split=synthetic into every record. Several processes share the questions
    under `accelerate launch -m infinitevl_bench.cli eval …`.

    Examples:

      infinitevl-bench eval DocVQA

      infinitevl-bench eval --suite paper --data official --model hustvl/InfiniteVL

      infinitevl-bench eval --suite video --frames 32 --frames 256 --frames 1024
    """
    from .eval.command import Request, eval_command

    request = Request(
        model=model, data=data, limit=limit, batch_size=batch_size, level=level, seed=seed, device=device, runs=runs,
        prompts=prompts, min_pixels=min_pixels, max_pixels=max_pixels, frames=tuple(frames or (64,)), judge=judge,
        blind=blind, max_bad=max_bad, graph=graph,
    )  # fmt: skip
    eval_command(benchmark or (), suite, request)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="A finished run: its id or folder.")],
    second: Annotated[str, typer.Argument(help="Another, on the same questions.")],
    runs: Runs = Path("runs"),
) -> None:
    """Compare two evaluations sample by sample: the difference, its interval, and a sign test.

    Example:

      infinitevl-bench compare eval-0123456789ab eval-ba9876543210
    """
    from .eval.compare import compare_command

    compare_command(first, second, runs)


@app.command()
def report(
    artifacts: Annotated[list[str] | None, typer.Argument(help="Artifacts such as table3; all without it.")] = None,
    out: Annotated[Path, typer.Option(parser=given_path, help="Folder of the report.")] = Path("report"),
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="md, latex, csv, html, png, svg, pdf; repeatable.")
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


@app.command()
def verify(
    claims: Annotated[list[str] | None, typer.Argument(help="Claims such as C4; all without it.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Judge the paper's claims from recorded results; the exit code is 0 only if all that are asked for are decided.

    Example:

      infinitevl-bench verify C4 C6
    """
    from .reports.verify import verify_command

    text, decided = verify_command(runs, claims)
    typer.echo(text)
    raise typer.Exit(0 if decided else 1)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Folder, hub id, hybrid or teacher; ours, Qwen2.5-VL's or published.")],
    target: Annotated[Path, typer.Argument(parser=given_path, help="A new folder.")],
    pattern: Annotated[str | None, typer.Option(help="Make a student with this layer pattern, such as SLLL.")] = None,
    mixer: Annotated[
        str | None, typer.Option(callback=known_mixer, help="Token mixer of the student; else gated_deltanet.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, max=10**9, help="Sliding window of the student; else 8192 tokens.")
    ] = None,
    to: Annotated[str, typer.Option(help="ours, or infinitevl: what the released modeling code loads.")] = "ours",
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of what a student does not inherit.")] = 0,
) -> None:
    """Convert a checkpoint, or make an untrained student from a full-attention teacher.

    Examples:

      infinitevl-bench convert Qwen/Qwen2.5-VL-3B-Instruct student --pattern SLLL --mixer gla

      infinitevl-bench convert runs/ablate-0123456789ab/model released --to infinitevl
    """
    from .models.convert import convert_command

    convert_command(source, target, pattern=pattern, mixer=mixer, window=window, to=to, seed=seed)


@app.command()
def stream(
    video: Annotated[Path, typer.Argument(parser=given_path, help="A video file.")],
    ask: Annotated[list[str] | None, typer.Option(help="FRAME:QUESTION, asked after that frame; repeatable.")] = None,
    model: Annotated[str | None, typer.Option(help="Folder, run, preset or hub id; the shipped model without.")] = None,
    frames_per_second: Annotated[
        float | None, typer.Option("--fps", min=1e-3, callback=finite, help="Frames of a second of video; all without.")
    ] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    device: Device = "auto",
) -> None:
    """Watch a video as a stream, at constant memory, and answer questions on the way.

    Example:

      infinitevl-bench stream street.mp4 --ask '100:what does the sign say ?' --model infinitevl-4b
    """
    from .eval.stream_command import stream_command

    stream_command(
        video, ask or [], model=model, frames_per_second=frames_per_second, max_frames=max_frames,
        max_new_tokens=max_new_tokens, device=device,
    )  # fmt: skip


@app.command("list")
def list_names(what: Annotated[Listing, typer.Argument(help="What to list.")], runs: Runs = Path("runs")) -> None:
    """List mixers, benchmarks, presets, artifacts or runs.

    Example:

      infinitevl-bench list mixers
    """
    if what is Listing.RUNS:
        from .archive.commands import list_runs

        list_runs(runs)
    else:
        from .listing import print_listing

        print_listing(what.value)


@app.command()
def doctor() -> None:
    """Show versions, devices, and which backends and extras are usable, and why not."""
    from .doctor import print_diagnosis

    print_diagnosis()


def main() -> None:
    """Run the command line; a user's mistake is one line and a non-zero exit code."""
    try:
        status = app(prog_name="infinitevl-bench", standalone_mode=False)
    except (UserError, typer.Abort, OSError, UsageError) as error:
        if os.environ.get("INFINITEVL_BENCH_DEBUG"):
            raise
        message, status = told(error)
        typer.echo(message, err=True)
    if status == INTERRUPTED:
        typer.echo("infinitevl-bench: interrupted; nothing is lost, call the same command again to go on", err=True)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
