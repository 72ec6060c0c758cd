"""Rows of synthetic twins in the official files' columns: what a page's question looks like in each benchmark.

The content is ours (pages with questions about them), the form is the benchmark's: pairs of yes and no for MME, options
in every rotation for MMBench, lists of accepted answers for TextVQA, numbers and choices for MathVista. Where a scorer
sums over tasks, rows are dealt out over their official names, so that every part of it runs; those names say nothing
about what is on the page.
"""

from collections.abc import Callable
from typing import Any

from ..data.pages import Page, Question
from .benchmarks import Benchmark

Row = dict[str, Any]

OPTIONS = ("A", "B", "C", "D")
ROTATION = 1_000_000
"""What MMBench adds to a question's index for each rotation of its options."""

# TextVQA's score wants at least three of the other nine annotators to agree, so each answer stands for all ten.
ANNOTATORS = 10

MME_TASKS = (
    "OCR", "artwork", "celebrity", "color", "count", "existence", "landmark", "position", "posters", "scene",
    "code_reasoning", "commonsense_reasoning", "numerical_calculation", "text_translation",
)  # fmt: skip


def rows_of(benchmark: Benchmark, number: int, page: Page, image: str) -> list[Row]:
    """The rows of one page.

    Args:
        benchmark: Whose form.
        number: Which page of the twin, from 0; it also picks the question.
        page: The page.
        image: Its picture in base64.
    """
    question = _question(benchmark, number, page)
    rows = _FORMS[benchmark.reading](benchmark, number, page, question)
    for row in rows:
        row["image"] = image
        if not benchmark.answers:
            del row["answer"]
    return rows


def pages_for(benchmark: Benchmark, questions: int) -> int:
    """Pages that give so many questions: MME asks two about each."""
    return -(-questions // 2) if benchmark.reading == "mme" else questions


def options_of(question: Question, page: Page) -> tuple[str, ...]:
    """The options of a question; an open one gets the other values of its page beside its answer."""
    if question.options:
        return question.options
    answer = question.answers[0]
    others = [value for value in dict.fromkeys(page.values) if value.lower() != answer.lower()][: len(OPTIONS) - 1]
    place = sum(map(ord, question.text)) % (len(others) + 1)
    return (*others[:place], answer, *others[place:])


def _question(benchmark: Benchmark, number: int, page: Page) -> Question:
    if benchmark.reading == "mathvista":
        # Its scorer, when no judge reads along, compares options and whole numbers only.
        fitting = [one for one in page.questions if one.options or one.answers[0].isdigit()]
        return fitting[number % len(fitting)]
    return page.questions[number % len(page.questions)]


def _open_rows(benchmark: Benchmark, number: int, page: Page, question: Question) -> list[Row]:
    answers = list(question.answers)
    if benchmark.name == "TextVQA":
        answers = [answer for answer in answers for _ in range(ANNOTATORS)]
    # Every answer is a list, even one alone: a scorer would read the bare text "[3]" as a list.
    row = {"index": number, "question": question.text, "answer": repr(answers)}
    return [row | ({"category": benchmark.category} if benchmark.category else {})]


def _choice_rows(benchmark: Benchmark, number: int, page: Page, question: Question) -> list[Row]:
    options = options_of(question, page)
    if options.count(question.answers[0]) != 1:
        raise ValueError(f"{page.family}: not one option of {question.text!r} is {question.answers[0]!r}")
    row: Row = {"index": number, "question": question.text, "category": question.kind}
    if benchmark.name == "ScienceQA_VAL":
        row["hint"] = "The answer is in the picture." if number % 2 else ""
    if benchmark.name == "MMMU":
        row |= {"index": f"validation_{number}", "question": f"{question.text} <image 1>", "split": "validation"}
    if not benchmark.circular:
        return [row | _lettered(options, question.answers[0])]
    row |= {"l2-category": question.kind, "split": "dev" if benchmark.answers else "test"}
    rotations = [options[turn:] + options[:turn] for turn in range(len(options))]
    return [
        row | {"index": number + ROTATION * turn} | _lettered(rotated, question.answers[0])
        for turn, rotated in enumerate(rotations)
    ]


def _lettered(options: tuple[str, ...], answer: str) -> Row:
    listed = options + ("",) * (len(OPTIONS) - len(options))
    return dict(zip(OPTIONS, listed, strict=True)) | {"answer": OPTIONS[options.index(answer)]}


def _pair_rows(benchmark: Benchmark, number: int, page: Page, question: Question) -> list[Row]:
    right = question.answers[0]
    wrong = next(option for option in options_of(question, page) if option != right)
    shared = {"category": MME_TASKS[number % len(MME_TASKS)], "image_path": f"{number}.png"}
    return [
        shared
        | {
            "index": 2 * number + turn,
            "question": f"{question.text} Is the answer {claimed}? Please answer yes or no.",
            "answer": "Yes" if claimed == right else "No",
        }
        for turn, claimed in enumerate((right, wrong))
    ]


def _mathvista_rows(benchmark: Benchmark, number: int, page: Page, question: Question) -> list[Row]:
    answer = question.answers[0]
    row: Row = {
        "index": number, "question": question.text, "answer": answer, "task": "figure question answering",
        "skills": repr(["statistical reasoning"]), "precision": "1", "query": question.text,
    }  # fmt: skip
    if not question.options:
        free = {"question_type": "free_form", "answer_type": "integer", "choices": "[]", "answer_option": ""}
        return [row | free]
    options = list(question.options)
    letters = " ".join(f"({letter}) {option}" for letter, option in zip(OPTIONS, options, strict=False))
    return [
        row
        | {
            "question": f"{question.text} Choices: {letters}", "question_type": "multi_choice", "answer_type": "text",
            "choices": repr(options), "answer_option": OPTIONS[options.index(answer)],
        }
    ]  # fmt: skip


_FORMS: dict[str, Callable[[Benchmark, int, Page, Question], list[Row]]] = {
    "vqa": _open_rows,
    "ocrbench": _open_rows,
    "mcq": _choice_rows,
    "mme": _pair_rows,
    "mathvista": _mathvista_rows,
}
