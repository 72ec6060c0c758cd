"""Whose data a benchmark is evaluated on: the official file where it is at hand, else our synthetic twin."""

import os
from pathlib import Path
from typing import Literal

from ..errors import UserError
from .benchmarks import Benchmark

Split = Literal["official", "synthetic"]

DATA = ("auto", "official", "synthetic")
QUESTIONS = 200
"""Questions of a synthetic twin where no limit is given."""

MOST_QUESTIONS = 10_000
"""Questions of the largest synthetic twin: its pages are drawn one by one, and are held in memory."""


def official_path(benchmark: Benchmark) -> Path:
    """Where the official file belongs.

    Pictures: where VLMEvalKit looks, in $LMUData if that is a folder, else in ~/LMUData. Videos: the table and its
    folder of videos where VLMEvalKit has unpacked them in the hub's cache, or in a folder of that name in LMUData.
    """
    if benchmark.repository is not None and (cached := _in_hub_cache(benchmark)) is not None:
        return cached
    wanted = os.environ.get("LMUData")  # noqa: SIM112
    root = Path(wanted) if wanted and Path(wanted).exists() else Path.home() / "LMUData"
    return root / (benchmark.dataset if benchmark.video else "") / f"{benchmark.dataset}.tsv"


def _in_hub_cache(benchmark: Benchmark) -> Path | None:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    folder = hub / f"datasets--{str(benchmark.repository).replace('/', '--')}"
    return next(iter(sorted(folder.glob(f"**/{benchmark.dataset}.tsv"))), None)


def check_questions(questions: int) -> int:
    """Return how many questions a synthetic twin shall have.

    Raises:
        UserError: For more than `MOST_QUESTIONS`.
    """
    if questions > MOST_QUESTIONS:
        raise UserError(f"a synthetic benchmark has at most {MOST_QUESTIONS:,} questions, not {questions:,}; ask fewer")
    return questions


def choose_split(benchmark: Benchmark, data: str) -> Split:
    """Whose data ``data`` means for this benchmark here: auto takes the official file if it is there.

    Raises:
        UserError: For another word, or an official file that is not there.
    """
    if data not in DATA:
        raise UserError(f"unknown data {data!r}; use auto, official or synthetic")
    if data == "synthetic":
        return "synthetic"
    path = official_path(benchmark)
    if path.is_file():
        return "official"
    if data == "official":
        raise UserError(
            f"no official {benchmark.dataset} at {path}; put VLMEvalKit's file there, or use --data synthetic"
        )
    return "synthetic"
