"""Scene text: signs with words over cluttered, procedural scenes.

Each sign has its own colour, and the question names the colour, so the model must find the sign before it reads.
"""

import random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from .drawing import FACES, Colour, add_noise, distinct_values, draw_text, text_size
from .pages import Page, Question, TextBox

SIGNS: dict[str, Colour] = {
    "red": (196, 40, 40),
    "green": (36, 130, 66),
    "blue": (40, 70, 180),
    "yellow": (240, 205, 50),
    "black": (25, 25, 28),
    "white": (250, 250, 250),
}
WORDS = (
    "OPEN", "EXIT", "STOP", "SALE", "CAFE", "TAXI", "BANK", "PARK", "SHOP", "HOTEL", "BOOKS", "METRO", "PIZZA",
    "BREAD", "MUSIC", "NORTH", "SOUTH", "LAKE", "FARM", "TOOLS", "WATER", "LIGHT", "MAPLE", "RIVER", "STONE",
)  # fmt: skip
TEMPLATES = ("what does the {colour} sign say?", "read the {colour} sign.", "which word is on the {colour} sign?")

# level → page width, height, signs, size of type (pixels), clutter shapes, slant of a sign (degrees)
LAYOUTS = {
    1: (168, 112, 2, 22, 6, 0.0),
    2: (196, 140, 3, 21, 10, 3.0),
    3: (224, 168, 4, 19, 16, 5.0),
    4: (280, 196, 5, 18, 24, 7.0),
}


class Sign(NamedTuple):
    """A sign with transparent surroundings.

    Attributes:
        image: RGBA.
        box: Left, top, right and bottom of the text in it, before it was turned; in pixels.
        angle: How far it was turned about its centre, in degrees against the clock.
    """

    image: Image.Image
    box: tuple[int, int, int, int]
    angle: float


def draw_page(rng: random.Random, level: int) -> Page:
    """Draw a scene with signs of a level; each question asks for the text of one sign."""
    width, height, count, size, clutter, slant = LAYOUTS[level]
    image = draw_scene(rng, width, height, clutter)
    colours = rng.sample(list(SIGNS), count)
    texts = _texts(rng, count)
    band = height // count
    boxes: list[TextBox] = []
    # One band a sign, so that no sign hides another.
    for row, (colour, text) in enumerate(zip(colours, texts, strict=True)):
        sign, inside, _ = draw_sign(rng, text, rng.choice(FACES), size, SIGNS[colour], slant)
        left = rng.randint(2, width - sign.width - 2)
        top = row * band + rng.randint(1, max(1, band - sign.height - 1))
        image.paste(sign, (left, top), sign)
        boxes.append(TextBox(text, (left + inside[0], top + inside[1], left + inside[2], top + inside[3])))
    image = add_noise(image, rng, rng.uniform(1, 7))
    questions = [
        Question(rng.choice(TEMPLATES).format(colour=colour), (text,))
        for colour, text in zip(colours, texts, strict=True)
    ]
    rng.shuffle(questions)
    return Page(image, tuple(questions), tuple(texts), "scene_text", level, tuple(boxes))


def _texts(rng: random.Random, count: int) -> list[str]:
    """Draw words and, as often, codes that no language model could guess."""
    words = rng.sample(WORDS, count)
    codes = distinct_values(rng, count, (3, 5))
    return [word if rng.random() < 0.5 else code for word, code in zip(words, codes, strict=True)]


def draw_sign(rng: random.Random, text: str, face: str, size: int, colour: Colour, slant: float) -> Sign:
    """Draw a sign; ``size`` of the type in pixels, ``slant`` the most it is turned either way, in degrees."""
    wide, high = text_size(face, size, text)
    pad = rng.randint(4, 7)
    bright = sum(colour) > 400
    sign = Image.new("RGBA", (wide + 2 * pad, high + 2 * pad), (0, 0, 0, 0))
    draw = ImageDraw.Draw(sign)
    border = (60, 60, 60) if bright else (235, 235, 235)
    draw.rounded_rectangle(
        (0, 0, sign.width - 1, sign.height - 1), radius=rng.randint(0, 6), fill=colour, outline=border
    )
    lettering = (20, 20, 20) if bright else (250, 250, 245)
    box = draw_text(draw, (pad, pad), text, face, size, lettering).box
    angle = rng.uniform(-slant, slant)
    if slant <= 0:
        return Sign(sign, box, 0.0)
    turned = sign.rotate(angle, resample=Image.Resampling.BICUBIC, expand=True)
    dx, dy = (turned.width - sign.width) // 2, (turned.height - sign.height) // 2
    return Sign(turned, (box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy), angle)


def draw_scene(rng: random.Random, width: int, height: int, clutter: int) -> Image.Image:
    """A two-colour gradient with muted shapes and lines on it."""
    top = np.array([rng.randint(90, 220) for _ in range(3)], dtype=np.float32)
    bottom = np.array([rng.randint(90, 220) for _ in range(3)], dtype=np.float32)
    ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    column = (top * (1 - ramp) + bottom * ramp).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(np.broadcast_to(column[:, None, :], (height, width, 3))))
    draw = ImageDraw.Draw(image)
    for _ in range(clutter):
        x, y = rng.randint(-20, width), rng.randint(-20, height)
        reach_x, reach_y = rng.randint(10, width // 3), rng.randint(10, height // 3)
        muted = tuple(rng.randint(80, 200) for _ in range(3))
        kind = rng.randrange(3)
        if kind == 0:
            draw.rectangle((x, y, x + reach_x, y + reach_y), fill=muted)
        elif kind == 1:
            draw.ellipse((x, y, x + reach_x, y + reach_y), fill=muted)
        else:
            draw.line((x, y, x + reach_x, y + rng.randint(-30, 30)), fill=muted, width=rng.randint(1, 3))
    return image
