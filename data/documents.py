"""Documents: a key and its value on each line, as forms, receipts and tables show them.

Every question names a key and asks for the value beside it.
"""

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .drawing import FACES, Colour, add_noise, distinct_values, draw_text, ink, paper, slant, text_size
from .pages import Page, Question, TextBox

KEYS = (
    "NAME", "NUMBER", "TITLE", "LABEL", "PAGE", "TABLE", "ROW", "COLUMN", "CELL", "FIELD", "ENTRY", "CHART",
    "POINT", "IMAGE", "GRAPH", "LETTER", "CHOICE", "TOP", "BOTTOM", "LEFT", "RIGHT", "SLICE", "COUNT", "MIDDLE",
)  # fmt: skip
"""Printed in capitals; a question names one in lower case, where each is one token, as a common word is anywhere."""

TEMPLATES = ("what is the {key}?", "read the value of {key}.", "which value is next to {key}?")


@dataclass(frozen=True)
class Layout:
    """What a level looks like; sizes in pixels.

    Attributes:
        width: Page width.
        height: Page height.
        entries: Entries on the page.
        size: Size of the type.
        lengths: Shortest and longest value.
        columns: Columns of entries.
        styles: Decorations to choose from.
    """

    width: int
    height: int
    entries: int
    size: int
    lengths: tuple[int, int]
    columns: int
    styles: tuple[str, ...]


LAYOUTS = {
    1: Layout(224, 140, 4, 22, (2, 3), 1, ("plain",)),
    2: Layout(224, 196, 6, 22, (3, 4), 1, ("plain", "receipt")),
    3: Layout(224, 224, 8, 19, (3, 5), 1, ("plain", "receipt", "table")),
    4: Layout(392, 196, 12, 17, (4, 6), 2, ("plain", "table")),
}


def draw_page(rng: random.Random, level: int) -> Page:
    """Draw one document of a level."""
    layout = LAYOUTS[level]
    background, colour = paper(rng), ink(rng)
    image = Image.new("RGB", (layout.width, layout.height), background)
    draw = ImageDraw.Draw(image)
    face, style = rng.choice(FACES), rng.choice(layout.styles)
    keys = rng.sample(KEYS, layout.entries)
    values = distinct_values(rng, layout.entries, layout.lengths)
    per_column = layout.entries // layout.columns
    column_width = layout.width // layout.columns
    boxes: list[TextBox] = []
    for column in range(layout.columns):
        rows = slice(column * per_column, (column + 1) * per_column)
        left = column * column_width
        boxes += _draw_column(
            draw,
            rng,
            layout,
            style,
            face,
            colour,
            left,
            left + column_width,
            list(zip(keys[rows], values[rows], strict=True)),
        )
    image = slant(image, rng, 0.6, background)
    image = add_noise(image, rng, rng.uniform(0, 6))
    questions = tuple(
        Question(rng.choice(TEMPLATES).format(key=key.lower()), (value,))
        for key, value in zip(keys, values, strict=True)
    )
    # Questions come in random order: the place of a question must not tell the place of its answer.
    shuffled = tuple(rng.sample(questions, len(questions)))
    return Page(image, shuffled, tuple(values), "documents", level, tuple(boxes))


def _draw_column(
    draw: ImageDraw.ImageDraw,
    rng: random.Random,
    layout: Layout,
    style: str,
    face: str,
    colour: Colour,
    left: int,
    right: int,
    entries: list[tuple[str, str]],
) -> list[TextBox]:
    """Draw entries between two x positions, evenly down the page; ``left`` and ``right`` in pixels."""
    margin = 8
    pitch = (layout.height - 2 * margin) // len(entries)
    widest = max(text_size(face, layout.size, value)[0] for _, value in entries)
    key_width = max(text_size(face, layout.size, key)[0] for key, _ in entries)
    inner = right - left - 2 * margin
    # The size shrinks only where a wide face meets long values.
    size = layout.size
    while key_width + widest + 12 > inner:
        size -= 1
        widest = max(text_size(face, size, value)[0] for _, value in entries)
        key_width = max(text_size(face, size, key)[0] for key, _ in entries)
    free = inner - key_width - widest
    value_left = left + margin + key_width + rng.randint(12 if free >= 12 else free, free)
    boxes = []
    for row, (key, value) in enumerate(entries):
        top = margin + row * pitch
        text_top = top + rng.randint(1, max(1, pitch - size - 2))
        boxes.append(draw_text(draw, (left + margin + rng.randint(-3, 0), text_top), key, face, size, colour))
        value_width, _ = text_size(face, size, value)
        flush = widest - value_width if style == "receipt" else 0
        boxes.append(draw_text(draw, (value_left + flush + rng.randint(0, 3), text_top), value, face, size, colour))
        if style == "receipt":
            _dots(draw, boxes[-2].box, boxes[-1].box, colour)
        if style == "table":
            draw.rectangle((left + 2, top - 1, right - 3, top + pitch - 1), outline=_faint(colour))
    if style == "table":
        bottom = margin + pitch * len(entries) - 1
        draw.line((value_left - 5, margin - 1, value_left - 5, bottom), fill=_faint(colour))
    return boxes


def _dots(
    draw: ImageDraw.ImageDraw, key: tuple[int, int, int, int], value: tuple[int, int, int, int], colour: Colour
) -> None:
    for x in range(key[2] + 5, value[0] - 4, 6):
        draw.point((x, key[3] - 1), fill=colour)


def _faint(colour: Colour) -> Colour:
    return (colour[0] + 110, colour[1] + 110, colour[2] + 110)
