"""Moments of a synthetic video: two frames each, as the vision tower joins them, over a real photograph in motion.

A window pans over a photograph; shapes move across it; and some moments carry a caption, a key on a sign and its value
beside it. Each character stands in a visual token of its own, so that what is hard is to remember, not to read:

    photograph  photograph  shape  photograph         the shape in any of the four
    KEY         VALUE       VALUE  photograph         at some moments; else photograph throughout

The photograph is the one that matplotlib ships (`grace_hopper.jpg`, of the public domain).
"""

import random
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from ..errors import UserError
from .drawing import FACES, VALUE_ALPHABET, add_noise, data_folder, font, ink, paper, text_size
from .pages import TOKEN_PIXELS
from .scene_text import SIGNS
from .shapes import COLOURS, draw_shape

COLUMNS, ROWS = 4, 2
"""Visual tokens of a moment, across and down."""

FRAMES = 2
"""Frames of a moment."""

SIZE = (COLUMNS * TOKEN_PIXELS, ROWS * TOKEN_PIXELS)
"""Width and height of a frame, in pixels."""

KEYS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
VALUE_LENGTH = 2
EVENTS = ("star", "triangle")
"""Shapes that are counted."""
DISTRACTORS = ("circle", "square")
"""Shapes that nothing is asked about."""

SIGN_COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Caption:
    """A key and its value."""

    key: str
    value: str


@dataclass(frozen=True)
class Pan:
    """Where on the photograph a moment begins, in pixels, how far it moves a frame, and whether it is mirrored."""

    left: float
    top: float
    across: float
    down: float
    mirrored: bool


def random_caption(rng: random.Random, key: str) -> Caption:
    """A value for a key."""
    return Caption(key, "".join(rng.choices(VALUE_ALPHABET, k=VALUE_LENGTH)))


def random_pan(rng: random.Random, moments: int) -> Pan:
    """A pan that stays on the photograph for so many moments."""
    width, height = photograph().size
    steps = moments * FRAMES
    across, down = (rng.choice((-1, 1)) * rng.uniform(0.5, 2.5) for _ in range(2))
    room = (width - SIZE[0] - abs(across) * steps - 1, height - SIZE[1] - abs(down) * steps - 1)
    if min(room) < 0:
        raise ValueError(f"{moments} moments do not fit on the photograph")
    left = rng.uniform(0, room[0]) + (abs(across) * steps if across < 0 else 0)
    top = rng.uniform(0, room[1]) + (abs(down) * steps if down < 0 else 0)
    return Pan(left, top, across, down, rng.random() < 0.5)


def draw_moment(
    rng: random.Random, pan: Pan, moment: int, shape: str | None = None, caption: Caption | None = None
) -> np.ndarray:
    """Draw the two frames of a moment, ``[2, height, width, 3]`` in 8 bits.

    Args:
        rng: Picks places, shades, typefaces and noise.
        pan: The camera.
        moment: How many moments it has moved already.
        shape: One of `shapes.SHAPES`, or none.
        caption: What is written, or nothing.
    """
    frames = [_background(pan, moment * FRAMES + number) for number in range(FRAMES)]
    if shape is not None:
        _add_shape(rng, frames, shape)
    if caption is not None:
        _add_caption(rng, frames, caption)
    noise = rng.uniform(0, 6)
    return np.stack([np.asarray(add_noise(frame, rng, noise)) for frame in frames])


@cache
def photograph() -> Image.Image:
    """The photograph.

    Raises:
        UserError: if this matplotlib came without its sample data.
    """
    path = data_folder() / "sample_data" / "grace_hopper.jpg"
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error}); install matplotlib from its wheel, which ships this photograph", 1
        ) from None


def _background(pan: Pan, step: int) -> Image.Image:
    left, top = round(pan.left + pan.across * step), round(pan.top + pan.down * step)
    frame = photograph().crop((left, top, left + SIZE[0], top + SIZE[1]))
    return frame.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if pan.mirrored else frame


def _add_shape(rng: random.Random, frames: list[Image.Image], shape: str) -> None:
    colour = tuple(max(0, min(255, part + rng.randint(-18, 18))) for part in COLOURS[rng.choice(tuple(COLOURS))])
    radius = rng.uniform(9.5, 11)
    disc = radius + 1.5
    # A pixel of each is left for the movement.
    slack = TOKEN_PIXELS / 2 - disc - 1
    x = (rng.randrange(COLUMNS) + 0.5) * TOKEN_PIXELS + rng.uniform(-slack, slack)
    y = TOKEN_PIXELS / 2 + rng.uniform(-slack, slack)
    dx, dy = rng.uniform(-1, 1), rng.uniform(-1, 1)
    ground = paper(rng)
    for number, frame in enumerate(frames):
        draw = ImageDraw.Draw(frame)
        place = (x + dx * number, y + dy * number)
        # On a pale disc, as a sticker: a dark shape would be lost on a dark coat.
        draw.ellipse((place[0] - disc, place[1] - disc, place[0] + disc, place[1] + disc), fill=ground)
        draw_shape(draw, shape, *place, radius, colour)


def _add_caption(rng: random.Random, frames: list[Image.Image], caption: Caption) -> None:
    face, size = rng.choice(FACES), rng.randint(19, 23)
    sign, ground, dark = SIGNS[rng.choice(SIGN_COLOURS)], paper(rng), ink(rng)
    places = []
    for number, character in enumerate(caption.key + caption.value):
        width, height = text_size(face, size, character)
        left = number * TOKEN_PIXELS + (TOKEN_PIXELS - width) / 2 + rng.uniform(-2, 2)
        places.append((left, (ROWS - 1) * TOKEN_PIXELS + (TOKEN_PIXELS - height) / 2 + rng.uniform(-2, 2)))
    top = (ROWS - 1) * TOKEN_PIXELS
    for frame in frames:
        draw = ImageDraw.Draw(frame)
        draw.rectangle((0, top, TOKEN_PIXELS - 1, SIZE[1]), fill=sign)
        draw.rectangle((TOKEN_PIXELS, top, (1 + VALUE_LENGTH) * TOKEN_PIXELS - 1, SIZE[1]), fill=ground)
        for number, (character, place) in enumerate(zip(caption.key + caption.value, places, strict=True)):
            colour = (250, 250, 245) if number == 0 else dark
            draw.text(place, character, font=font(face, size), fill=colour, anchor="lt")
