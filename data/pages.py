"""What a page is: an image, the questions about it, and the values that stand on it."""

from dataclasses import dataclass

from PIL import Image

TOKEN_PIXELS = 28
"""Side of one visual token in pixels: patch 14, merged 2 by 2."""

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Question:
    """One question about a page.

    Attributes:
        text: The question, as it is put to the model.
        answers: Every accepted answer; the first is the one trained on.
        options: Choices of the multiple-choice form, the answer among them; empty where the question is open.
        kind: What the question is about (``lookup``, ``colour``, ``count``, …), for breakdowns.
        open_in_training: Trained on and asked in studies without its options, which only benchmarks of choices show.
    """

    text: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    kind: str = "lookup"
    open_in_training: bool = False


@dataclass(frozen=True)
class TextBox:
    """A piece of text on a page and the pixels it covers.

    Attributes:
        text: The characters drawn.
        box: Left, top, right and bottom in pixels; right and bottom are exclusive.
    """

    text: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Page:
    """One procedural page.

    Attributes:
        image: RGB image, both sides multiples of ``TOKEN_PIXELS``.
        questions: At least one question.
        values: All answer-like strings on the page; "some value of this page" baselines draw from them.
        family: Name of the family that drew it.
        level: Difficulty, 1 the easiest.
        boxes: Where the text stands, before any rotation.
    """

    image: Image.Image
    questions: tuple[Question, ...]
    values: tuple[str, ...]
    family: str
    level: int
    boxes: tuple[TextBox, ...] = ()
