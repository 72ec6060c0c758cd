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
    """Where VLMEvalKit looks for the official file: in $LMUData if that is a folder, else in ~/LMUData."""
    wanted = os.environ.get("LMUData")  # noqa: SIM112
    root = Path(wanted) if wanted and Path(wanted).exists() else Path.home() / "LMUData"
    return root / f"{benchmark.dataset}.tsv"


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
        UserError: For another word, or a kind of data that this benchmark does not have here.
    """
    if data not in DATA:
        raise UserError(f"unknown data {data!r}; use auto, official or synthetic")
    path = official_path(benchmark)
    if data == "official" or (data == "auto" and path.is_file()):
        if not path.is_file():
            mend = "or use --data synthetic" if benchmark.family else "it is not downloaded for you"
            raise UserError(f"no official {benchmark.dataset} at {path}; put VLMEvalKit's file there, {mend}")
        return "official"
    if benchmark.family is None:
        raise UserError(
            f"{benchmark.name} has no synthetic twin, and there is no official file at {path}; put VLMEvalKit's there"
        )
    return "synthetic"
