"""The control without text: the colour of the whole page, whatever stands on it.

It is what every arm of a study should learn early: the answer is in almost every image token, those right before the
question included, so that it is reached through a few short windows alone, without a mixer that carries anything far.
An arm that does not learn it has not been trained, and says nothing about recall. Shapes of other colours stand on the
page, so that naming any colour that is seen is not enough; the colours are drawn evenly, so that a guess gains nothing.
"""

import random

from .drawing import Colour
from .pages import Page, Question
from .shapes import SHAPES, paint

COLOURS: dict[str, Colour] = {
    "red": (208, 32, 36),
    "green": (30, 140, 60),
    "blue": (36, 70, 200),
    "yellow": (235, 190, 20),
    "orange": (240, 120, 20),
    "purple": (130, 50, 160),
    "black": (30, 30, 32),
    "white": (244, 244, 242),
}
TEMPLATES = ("what colour is the page?", "which colour does the page have?")

# level → page width and height in pixels, columns and rows of cells, fewest and most shapes
LAYOUTS = {
    1: ((140, 112), (5, 4), (1, 3)),
    2: ((140, 140), (5, 5), (2, 5)),
    3: ((168, 168), (6, 6), (4, 8)),
    4: ((196, 196), (7, 7), (8, 14)),
}


def draw_page(rng: random.Random, level: int) -> Page:
    """Draw a page of one colour with a few small shapes of others, and ask for its colour."""
    size, cells, (fewest, most) = LAYOUTS[level]
    names = list(COLOURS)
    colour = rng.choice(names)
    others = [name for name in names if name != colour]
    painted = [(rng.choice(SHAPES), rng.choice(others)) for _ in range(rng.randint(fewest, most))]
    ground = shaded(rng, COLOURS[colour])
    image, _ = paint(rng, size, cells, painted, COLOURS, ground)
    options = rng.sample([colour, *rng.sample(others, 3)], 4)
    question = Question(rng.choice(TEMPLATES), (colour,), tuple(options), "background", open_in_training=True)
    values = (colour, *dict.fromkeys(name for _, name in painted))
    return Page(image, (question,), values, "backgrounds", level)


def shaded(rng: random.Random, colour: Colour) -> Colour:
    """A shade of a colour."""
    red, green, blue = (max(0, min(255, part + rng.randint(-12, 12))) for part in colour)
    return red, green, blue
