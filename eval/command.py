"""The `eval` command: one model on one benchmark, kept as a run of its own."""

import hashlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ..errors import UserError
from ..models.shipped import SHIPPED, TEACHER, VISION_TOWER
from ..records import Record, RunFolder, RunSpec, file_digest, finished_runs, package_path
from .benchmarks import Benchmark, find_benchmark
from .sources import QUESTIONS, Split, choose_split, official_path

if TYPE_CHECKING:
    from ..models.checkpoints import LoadedModel
    from .runner import EvalResult

BEST = "best"
"""As a model: the finished `ablate` run that scored best."""

MEANINGS = {
    "score": "score",
    "blind": "baseline: the same model, grey picture",
    "page_value": "baseline: naming any value on the page",
}


def run_eval(
    benchmark: str,
    *,
    model: str | None,
    data: str,
    limit: int | None,
    batch_size: int,
    level: int,
    seed: int,
    device: str,
    runs: Path,
) -> "EvalResult":
    """Evaluate a model, or show what an earlier call with the same request found.

    Args:
        benchmark: The paper's or VLMEvalKit's name.
        model: Folder, run, preset or hub id, or `BEST`; None takes the model that the package ships.
        data: auto, official or synthetic.
        limit: About how many questions; all, or `sources.QUESTIONS` synthetic ones, if None.
        batch_size: Questions at a time.
        level: Difficulty of synthetic pages.
        seed: Of synthetic pages.
        device: auto, cpu or cuda.
        runs: Folder of all runs.

    Raises:
        UserError: For unknown names, missing data, or a model that cannot be loaded.
    """
    found = find_benchmark(benchmark)
    split = choose_split(found, data)
    console = Console()
    reference = _reference(model, found, runs, console)

    from ..models.device import resolve_device

    device = resolve_device(device)
    loaded = None
    weights = _fingerprint(reference)
    if weights is None:
        loaded = _load(reference, device)
        weights = f"hub:{getattr(loaded.model.config, '_commit_hash', None) or reference}"
    spec = RunSpec(
        kind="eval",
        arguments={
            "benchmark": found.name,
            "model": Path(reference).name,
            "weights": weights,
            "data": split,
            "data_sha256": _data_hash(found, split, runs / "data", limit, seed, level),
            "limit": limit if split == "official" else limit or QUESTIONS,
            "seed": seed if split == "synthetic" else None,
            "level": level if split == "synthetic" else None,
            "batch_size": batch_size,
            "device": device,
            "vlmevalkit": metadata.version("ms-vlmeval"),
        },
    )
    with RunFolder(runs, spec) as folder:
        if folder.finished:
            result = _finished(folder, found, split)
            console.print(f"already evaluated in {folder.path}; shown again", highlight=False, soft_wrap=True)
        else:
            result = _run(
                folder, loaded or _load(reference, device), found, split, limit, seed, level, batch_size, runs
            )
    _show(console, result, spec)
    return result


def _run(
    folder: RunFolder,
    loaded: "LoadedModel",
    benchmark: Benchmark,
    split: Split,
    limit: int | None,
    seed: int,
    level: int,
    batch_size: int,
    runs: Path,
) -> "EvalResult":
    from ..models.accounting import state_elements
    from ..models.device import device_name
    from .runner import evaluate

    folder.write_environment(device_name(loaded.model.device.type))
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = {kind: bars.add_task(kind, total=None) for kind in ("sighted", "blind")}
        result = evaluate(
            loaded.model,
            loaded.processor,
            benchmark.name,
            data=split,
            limit=limit,
            seed=seed,
            level=level,
            folder=folder,
            data_root=runs / "data",
            batch_size=batch_size,
            model_name=loaded.name,
            progress=lambda kind, done, total: bars.update(tasks[kind], completed=done, total=total),
        )
    extra = {"weights": "random" if loaded.random_weights else "trained"}
    elements = state_elements(loaded.model.config)
    result.records = [
        record.model_copy(update={"run_id": folder.spec.id, "state_elements": elements, "extra": record.extra | extra})
        for record in result.records
    ]
    folder.finish(result.records, status="ok")
    return result


def _load(reference: str, device: str) -> "LoadedModel":
    from transformers.utils import logging

    from ..models.checkpoints import load_model

    # Weights are read in a moment, and the bar would stand above a message.
    logging.disable_progress_bar()
    return load_model(reference, device=device)


def _finished(folder: RunFolder, benchmark: Benchmark, split: Split) -> "EvalResult":
    from .runner import EvalResult, predictions_name

    return EvalResult(benchmark, split, folder.records(), folder.rows(predictions_name(benchmark, split)))


def _reference(model: str | None, benchmark: Benchmark, runs: Path, console: Console) -> str:
    """What to load, named to the user where they left it open."""
    if model == BEST:
        return _best_run(benchmark, runs, console)
    if model is None:
        console.print(
            f"model: {SHIPPED}, the small full-attention model that the package ships, trained on synthetic pages; "
            f"--model {BEST} takes the best finished run",
            highlight=False,
            soft_wrap=True,
        )
    return model or SHIPPED


def _best_run(benchmark: Benchmark, runs: Path, console: Console) -> str:
    """The finished training run that scored best on the benchmark; where none was scored on it, by its mean score."""
    candidates: list[tuple[bool, float, Path]] = []
    for folder, result in finished_runs(runs):
        if not folder.name.startswith("ablate-") or not (folder / "model" / "config.json").is_file():
            continue
        scores = [record for record in result["records"] if record.get("metric") == "score"]
        own = [float(record["value"]) for record in scores if record.get("benchmark") == benchmark.name]
        values = own or [float(record["value"]) for record in scores]
        if values:
            candidates.append((bool(own), sum(values) / len(values), folder))
    if not candidates:
        raise UserError(
            f"no finished run in {runs}; train one with `infinitevl-bench ablate --mixer gated_deltanet`, "
            "or name a --model"
        )
    own_score, value, folder = max(candidates, key=lambda candidate: candidate[:2])
    what = f"{value:.1f} % on {benchmark.name}" if own_score else f"{value:.1f} % on average"
    console.print(f"model: {folder}, the best finished run ({what})", highlight=False, soft_wrap=True)
    return str(folder)


def _fingerprint(reference: str) -> str | None:
    """What tells these weights from others without loading them; None for a hub's, known only once loaded."""
    path = Path(reference)
    path = path / "model" if (path / "model" / "config.json").exists() else path
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if files:
        return _hash(*files, path / "config.json")
    if reference == SHIPPED:
        return "-".join(file_digest(package_path(*parts)) for parts in (TEACHER, VISION_TOWER))
    from ..models.presets import PRESETS

    return f"preset:{reference}" if reference in PRESETS else None


def _data_hash(benchmark: Benchmark, split: Split, root: Path, limit: int | None, seed: int, level: int) -> str:
    if split == "official":
        return _hash(official_path(benchmark))
    from .synthetic import synthetic_tsv

    return _hash(*synthetic_tsv(benchmark, root, questions=limit or QUESTIONS, seed=seed, level=level))


def _hash(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; mend it, or name another") from None
    return digest.hexdigest()


def _show(console: Console, result: "EvalResult", spec: RunSpec) -> None:
    first = result.records[0]
    table = Table(
        box=None, pad_edge=False, header_style="bold", title=f"{first.benchmark} · {first.model}", title_justify="left"
    )
    for heading, justify in (("", "left"), (first.unit, "right"), ("95 % interval", "right"), ("n", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for record in result.records:
        table.add_row(MEANINGS[record.metric], f"{record.value:.1f}", _interval(record), str(record.n))
    console.print(table)
    console.print(_data_line(result, spec.arguments), highlight=False, soft_wrap=True)
    if first.extra.get("weights") == "random":
        console.print(
            "weights: RANDOM; nothing was trained, so these numbers say nothing about a model", soft_wrap=True
        )
    else:
        console.print("weights: read from the checkpoint", soft_wrap=True)


def _interval(record: Record) -> str:
    return "" if record.ci_low is None or record.ci_high is None else f"{record.ci_low:.1f} to {record.ci_high:.1f}"


def _data_line(result: "EvalResult", arguments: Mapping[str, Any]) -> str:
    dataset = result.records[0].extra["dataset"]
    if result.split == "official":
        limit = arguments["limit"]
        return f"data: official {dataset}" + (
            f", {limit} questions spread over it" if limit is not None else ", all of it"
        )
    return (
        f"data: SYNTHETIC {dataset}, our own pages (level {arguments['level']}, seed {arguments['seed']}); "
        "not comparable with published scores"
    )
