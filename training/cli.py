"""The options of the `train` commands; everything heavy is imported inside."""

from pathlib import Path
from typing import Annotated

import typer

from ..models.registry import known_mixer
from ..options import MOST_SEED, Device, Runs, finite

app = typer.Typer(
    help="The stages of training: distillation from a teacher, tuning, long sequences.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Data = Annotated[
    list[str] | None,
    typer.Option(help=".json, .jsonl, .parquet, a data set's folder, or pages:FAMILY; =WEIGHT behind it; repeatable."),
]
Model = Annotated[str | None, typer.Option(help="What to go on from: a run, a folder or a hub id.")]
Teacher = Annotated[str | None, typer.Option(help="Folder or hub id; the small one that is shipped without.")]
Mixer = Annotated[str, typer.Option(callback=known_mixer, help="Token mixer of a student made of the teacher.")]
Ratio = Annotated[str | None, typer.Option("--swa-ratio", help="Its share of SWA layers; 1/4 without.")]
Pattern = Annotated[str | None, typer.Option(help="Its layer pattern instead of a ratio.")]
Window = Annotated[int | None, typer.Option(min=1, max=10**9, help="Tokens that its SWA layers see.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps; one pass over the data without.")]
Context = Annotated[int | None, typer.Option(min=1, help="Most tokens of a sequence.")]
Rate = Annotated[float | None, typer.Option(min=1e-9, max=10.0, callback=finite, help="Peak learning rate.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Sequences a step, over all processes.")]
Seed = Annotated[int | None, typer.Option(min=0, max=MOST_SEED, help="Of the order and of what is not inherited.")]
Changes = Annotated[list[str] | None, typer.Option("--set", help="Any other setting as NAME=VALUE; repeatable.")]


@app.command("distill-layers")
def distill_layers(
    teacher: Teacher = None,
    mixer: Mixer = "gated_deltanet",
    swa_ratio: Ratio = None,
    pattern: Pattern = None,
    window: Window = None,
    data: Data = None,
    steps: Steps = None,
    context: Context = None,
    learning_rate: Rate = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    changes: Changes = None,
    device: Device = "auto",
    runs: Runs = Path("runs"),
) -> None:
    """Stage 1a: each new token mixer learns what its teacher's layer puts out, on that layer's own input.

    Examples:

      infinitevl-bench train distill-layers --mixer gla

      infinitevl-bench train distill-layers --teacher Qwen/Qwen2.5-VL-3B-Instruct --data captions.jsonl
    """
    from .command import train_command

    train_command(
        "distill-layers", teacher=teacher, mixer=mixer, ratio=swa_ratio, pattern=pattern, window=window, data=data,
        options=_options(steps, context, learning_rate, batch_size, seed), changes=changes, device=device, runs=runs,
    )  # fmt: skip


@app.command("distill-logits")
def distill_logits(
    model: Model = None,
    teacher: Teacher = None,
    mixer: Mixer = "gated_deltanet",
    swa_ratio: Ratio = None,
    pattern: Pattern = None,
    window: Window = None,
    data: Data = None,
    steps: Steps = None,
    context: Context = None,
    learning_rate: Rate = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    changes: Changes = None,
    device: Device = "auto",
    runs: Runs = Path("runs"),
) -> None:
    """Stage 1b: the student's next-token distribution is drawn to its teacher's.

    Example:

      infinitevl-bench train distill-logits --model runs/train-0123456789ab
    """
    from .command import train_command

    train_command(
        "distill-logits", model=model, teacher=teacher, mixer=mixer, ratio=swa_ratio, pattern=pattern, window=window,
        data=data, options=_options(steps, context, learning_rate, batch_size, seed), changes=changes, device=device,
        runs=runs,
    )  # fmt: skip


@app.command("sft")
def sft(
    model: Model = None,
    data: Data = None,
    steps: Steps = None,
    context: Context = None,
    learning_rate: Rate = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    changes: Changes = None,
    device: Device = "auto",
    runs: Runs = Path("runs"),
) -> None:
    """Stage 2: tuning on instructions; vision encoder and language-model head stay as they are.

    Examples:

      infinitevl-bench train sft --model runs/train-0123456789ab

      infinitevl-bench train sft --model runs/train-0123456789ab --data text.jsonl=35.4 --data charts.parquet=11.9
    """
    from .command import train_command

    train_command(
        "sft", model=model, data=data, options=_options(steps, context, learning_rate, batch_size, seed),
        changes=changes, device=device, runs=runs,
    )  # fmt: skip


@app.command("long-sft")
def long_sft(
    model: Model = None,
    data: Data = None,
    steps: Steps = None,
    context: Context = None,
    learning_rate: Rate = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    changes: Changes = None,
    device: Device = "auto",
    runs: Runs = Path("runs"),
) -> None:
    """Stage 3: tuning on long sequences by LoRA, merged into the model that is saved.

    Example:

      infinitevl-bench train long-sft --model runs/train-0123456789ab --data videos.jsonl=1 --data short.jsonl=4
    """
    from .command import train_command

    train_command(
        "long-sft", model=model, data=data, options=_options(steps, context, learning_rate, batch_size, seed),
        changes=changes, device=device, runs=runs,
    )  # fmt: skip


def _options(
    steps: int | None, context: int | None, learning_rate: float | None, batch_size: int | None, seed: int | None
) -> dict[str, float | None]:
    """The settings that have an option of their own; ``--set`` takes the others."""
    return {
        "steps": steps, "context": context, "learning_rate": learning_rate, "batch_size": batch_size, "seed": seed,
    }  # fmt: skip
