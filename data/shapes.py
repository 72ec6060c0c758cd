"""Coloured shapes: what colour, how many, is there one.

Every question has four options (two for yes/no), so that chance is known. Answers are drawn before the page, so that
each answer of a question is as likely as the others and a blind guess gains nothing.
"""

import math
import random
from typing import NamedTuple

from PIL import Image, ImageDraw

from .drawing import Colour, add_noise, paper
from .pages import Page, Question

COLOURS: dict[str, Colour] = {
    "red": (208, 32, 36),
    "green": (30, 140, 60),
    "blue": (36, 70, 200),
    "yellow": (235, 190, 20),
}
SHAPES = ("circle", "square", "triangle", "star")

# level → page width and height in pixels, columns and rows of cells, fewest and most shapes before the asked ones
LAYOUTS = {
    1: ((140, 112), (3, 2), (2, 3)),
    2: ((140, 140), (3, 3), (4, 5)),
    3: ((168, 168), (3, 3), (5, 7)),
    4: ((196, 196), (4, 4), (8, 11)),
}
COUNTS = {1: (0, 1, 2, 3), 2: (0, 1, 2, 3), 3: (0, 1, 2, 3), 4: (1, 2, 3, 4)}

COLOUR_TEMPLATES = ("what colour is the {shape}?", "which colour does the {shape} have?")
COUNT_TEMPLATES = ("how many {shape}s are there?", "count the {shape}s.")
EXISTENCE_TEMPLATES = ("is there a {shape}?", "do you see a {shape}?")


class Mark(NamedTuple):
    """A painted shape: its kind, the name of its colour, its centre and the radius round it, in pixels."""

    kind: str
    colour: str
    x: float
    y: float
    radius: float


def draw_page(rng: random.Random, level: int) -> Page:
    """Draw shapes on a grid of cells and ask for a colour, a count and an existence."""
    size, cells, (fewest, most) = LAYOUTS[level]
    total = rng.randint(fewest, most)
    unique, counted, asked, filler = rng.sample(SHAPES, 4)
    present = rng.random() < 0.5
    copies = rng.choice(COUNTS[level])
    # One shape of the colour question, the copies of the counted one, the asked one or none, and filler that no
    # question is about. At most six shapes are asked about, so every level has room for them.
    kinds = [unique] + [counted] * copies + [asked] * present
    kinds += [filler] * (total - len(kinds))
    questions = [
        Question(
            rng.choice(EXISTENCE_TEMPLATES).format(shape=asked),
            ("yes" if present else "no",),
            ("yes", "no"),
            "existence",
        )
    ]
    colours = {shape: rng.choice(tuple(COLOURS)) for shape in SHAPES}
    painted = [(kind, colours[kind] if kind == unique else rng.choice(tuple(COLOURS))) for kind in kinds]
    questions.append(
        Question(
            rng.choice(COLOUR_TEMPLATES).format(shape=unique),
            (colours[unique],),
            tuple(rng.sample(list(COLOURS), 4)),
            "colour",
        )
    )
    choices = [str(number) for number in COUNTS[level]]
    questions.append(
        Question(
            rng.choice(COUNT_TEMPLATES).format(shape=counted), (str(copies),), tuple(rng.sample(choices, 4)), "count"
        )
    )
    rng.shuffle(questions)
    image, _ = paint(rng, size, cells, painted)
    values = tuple(dict.fromkeys(colour for _, colour in painted))
    return Page(image, tuple(questions), values, "shapes", level)


def paint(
    rng: random.Random,
    size: tuple[int, int],
    cells: tuple[int, int],
    painted: list[tuple[str, str]],
    colours: dict[str, Colour] = COLOURS,
    ground: Colour | None = None,
) -> tuple[Image.Image, list[Mark]]:
    """Paint shapes, given as (kind, colour), each in a cell of its own of a page.

    Args:
        rng: Picks the places, the sizes and the shades.
        size: Width and height of the page in pixels.
        cells: Columns and rows.
        painted: Kind and colour of each shape; no more than there are cells.
        colours: Name → colour.
        ground: Colour of the page; that of some paper if None.
    """
    marks = []
    image = Image.new("RGB", size, ground or paper(rng))
    draw = ImageDraw.Draw(image)
    columns, rows = cells
    wide, high = size[0] / columns, size[1] / rows
    cell = min(wide, high)
    places = rng.sample(range(columns * rows), len(painted))
    for place, (kind, colour) in zip(places, painted, strict=True):
        row, column = divmod(place, columns)
        radius = cell * rng.uniform(0.30, 0.42)
        slack = cell / 2 - radius - 1
        x = (column + 0.5) * wide + rng.uniform(-slack, slack)
        y = (row + 0.5) * high + rng.uniform(-slack, slack)
        shade = tuple(max(0, min(255, part + rng.randint(-18, 18))) for part in colours[colour])
        draw_shape(draw, kind, x, y, radius, shade)
        marks.append(Mark(kind, colour, x, y, radius))
    return add_noise(image, rng, rng.uniform(0, 6)), marks


def draw_shape(
    draw: ImageDraw.ImageDraw, kind: str, x: float, y: float, radius: float, colour: tuple[int, ...]
) -> None:
    """Draw one of ``SHAPES`` round a centre; ``radius`` in pixels is that of the circle around it."""
    if kind == "circle":
        reach = radius * 0.92
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)
    elif kind == "square":
        reach = radius * 0.8
        draw.rectangle((x - reach, y - reach, x + reach, y + reach), fill=colour)
    elif kind == "triangle":
        draw.polygon(_corners(x, y, [radius] * 3), fill=colour)
    else:
        draw.polygon(_corners(x, y, [radius, radius * 0.42] * 5), fill=colour)


def _corners(x: float, y: float, radii: list[float]) -> list[tuple[float, float]]:
    step = 2 * math.pi / len(radii)
    return [
        (x + reach * math.sin(number * step), y - reach * math.cos(number * step)) for number, reach in enumerate(radii)
    ]
