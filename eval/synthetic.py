"""Synthetic twins: our own pages in the official format, for benchmarks whose official files are not at hand.

A twin is written once for a request and found again by the hash of the request and of the package's drawing code.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from ..data.families import generate_page
from ..data.pages import Page, Question
from ..data.tsv import encode_image, write_tsv
from ..errors import UserError
from ..records import atomic_write, locked, package_path
from .benchmarks import BENCHMARKS, Benchmark
from .sources import check_questions

SPLIT = "test"
OPTIONS = ("A", "B", "C", "D")

# TextVQA's score wants at least three of the other nine annotators to agree, so each answer stands for all ten.
ANNOTATORS = 10


def synthetic_tsv(benchmark: Benchmark, root: Path, *, questions: int, seed: int, level: int) -> tuple[Path, Path]:
    """Draw the synthetic twin of a benchmark, or find it where an earlier call left it.

    Args:
        benchmark: One with a page family.
        root: Folder that holds all twins.
        questions: How many questions; each is about a page of its own, from the test split.
        seed: Of the pages.
        level: Difficulty, 1 to 4.

    Returns:
        The table, and the ``.pages.jsonl`` beside it: a line an index with the values that stand on the page.

    Raises:
        UserError: If the benchmark has no twin, for too many questions, or if the files cannot be written. Damaged
            files are drawn again.
    """
    if benchmark.family is None:
        known = ", ".join(one.name for one in BENCHMARKS.values() if one.family)
        raise UserError(f"{benchmark.name} has no synthetic twin; those that have one: {known}")
    key = _request_key(benchmark, check_questions(questions), seed, level)
    table = root / f"{benchmark.twin}-{key}.tsv"
    sidecar = root / f"{benchmark.twin}-{key}.pages.jsonl"
    digest = root / f"{benchmark.twin}-{key}.sha256"
    with locked(root / f".{benchmark.twin}-{key}.lock"):
        # The digest is written last: where it fits, both are whole and as they were drawn.
        if not digest.is_file() or digest.read_bytes() != _digest(table, sidecar):
            rows, values = _draw(benchmark, questions, seed, level)
            atomic_write(sidecar, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in values))
            write_tsv(table, rows)
            atomic_write(digest, _digest(table, sidecar))
    return table, sidecar


def _digest(*paths: Path) -> bytes:
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes() if path.is_file() else b"")
    return found.hexdigest().encode()


def page_values(sidecar: Path) -> dict[str, tuple[str, ...]]:
    """Values on the page of every index (as a string) of a twin."""
    lines = (json.loads(line) for line in sidecar.read_text(encoding="utf-8").splitlines())
    return {str(line["index"]): tuple(line["values"]) for line in lines}


def _draw(
    benchmark: Benchmark, questions: int, seed: int, level: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows, values = [], []
    for index in range(questions):
        page = generate_page(str(benchmark.family), seed=seed, index=index, split=SPLIT, level=level)
        question = page.questions[index % len(page.questions)]
        rows.append(_row(benchmark, index, page, question))
        values.append({"index": index, "values": list(page.values)})
    return rows, values


def _row(benchmark: Benchmark, index: int, page: Page, question: Question) -> dict[str, Any]:
    row: dict[str, Any] = {"index": index, "image": encode_image(page.image), "question": question.text}
    if benchmark.multiple_choice:
        listed = question.options + ("",) * (len(OPTIONS) - len(question.options))
        options = dict(zip(OPTIONS, listed, strict=True))
        letters = [letter for letter, option in options.items() if option == question.answers[0]]
        if len(letters) != 1:
            raise ValueError(f"{page.family}: not one option of {question.text!r} is {question.answers[0]!r}")
        return row | options | {"answer": letters[0], "category": question.kind}
    answers = list(question.answers)
    if benchmark.name == "TextVQA":
        answers = [answer for answer in answers for _ in range(ANNOTATORS)]
    # Every answer is a list, even one alone: a scorer would read the bare text "[3]" as a list.
    return row | {"answer": repr(answers)} | ({"category": benchmark.category} if benchmark.category else {})


def _request_key(benchmark: Benchmark, questions: int, seed: int, level: int) -> str:
    """Hash of what is asked for and of the code that draws it: a page drawn otherwise is another page."""
    digest = hashlib.sha256()
    for path in [*sorted(package_path("data").glob("*.py")), Path(__file__)]:
        digest.update(path.read_bytes())
    request = {"twin": benchmark.twin, "family": benchmark.family, "questions": questions, "seed": seed, "level": level}
    digest.update(json.dumps(request, sort_keys=True).encode())
    return digest.hexdigest()[:12]
