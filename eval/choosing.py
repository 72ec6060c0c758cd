"""Which model an evaluation means, and what tells its data from others without reading them as data."""

from pathlib import Path

from ..errors import UserError
from ..files import with_home
from ..models.fingerprint import hash_of
from ..models.shipped import DEFAULT, named
from ..printing import PlainConsole
from ..records import finished_runs, records_of
from .benchmarks import Benchmark
from .sources import QUESTIONS, Split, official_path

BEST = "best"
"""As a model: the finished `ablate` run that scored best."""


def choose_model(model: str | None, benchmark: Benchmark, runs: Path, console: PlainConsole) -> str:
    """What to load, named to the user where they left it open.

    Raises:
        UserError: if the best run is asked for and there is none, or an empty name (an unset variable) or a path that
            leads nowhere is given.
    """
    chosen = named(model, "--model")
    if chosen.startswith((".", "/", "~")) and not with_home(chosen).exists():
        # A path and nothing else: said before all that loads a model is imported.
        raise UserError(f"no model at {chosen}; give a folder with config.json and *.safetensors, or a hub id")
    if chosen == BEST:
        return _best_run(benchmark, runs, console)
    if model is None:
        console.print(
            f"model: {DEFAULT}, the small Gated DeltaNet hybrid that the package ships, trained on synthetic pages; "
            f"--model {BEST} takes the best finished run",
            highlight=False,
            soft_wrap=True,
        )
    return chosen


def data_hash(
    benchmark: Benchmark, split: Split, root: Path, limit: int | None, seed: int, level: int, frames: int
) -> str:
    """Hash of the data's file; a twin is drawn for it.

    Raises:
        UserError: if the file cannot be read, or drawn.
    """
    if split == "official":
        return hash_of(official_path(benchmark))
    from .synthetic import synthetic_tsv

    return hash_of(*synthetic_tsv(benchmark, root, questions=limit or QUESTIONS, seed=seed, level=level, frames=frames))


def _best_run(benchmark: Benchmark, runs: Path, console: PlainConsole) -> str:
    """The finished training run that scored best on the benchmark; where none was scored on it, by its mean score."""
    candidates: list[tuple[bool, float, Path]] = []
    for folder, result in finished_runs(runs):
        if not folder.name.startswith("ablate-") or not (folder / "model" / "config.json").is_file():
            continue
        scores = [record for record in records_of(folder, result) if record.metric == "score"]
        own = [record.value for record in scores if record.benchmark == benchmark.name]
        values = own or [record.value for record in scores]
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
