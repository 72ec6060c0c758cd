"""Pages of multi-query recall: a key and its value on each line, each a code of two characters on a tile of its own.

A tile is as large as one visual token: a page of P pairs is P rows of two image tokens, in the order of the sequence.
"""

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..errors import UserError
from .drawing import MONO, VALUE_ALPHABET, add_noise, draw_text, ink, paper, text_size
from .pages import TOKEN_PIXELS

COLUMNS = 2
TYPE_PIXELS = 20
"""Two characters of this size are as wide as the tile is with a small margin."""

MOST_CODES = len(VALUE_ALPHABET) ** 2


def code_of(token: int) -> str:
    """What stands on the tile of a token.

    Raises:
        UserError: for a token beyond the codes that there are.
    """
    if token >= MOST_CODES:
        raise UserError(f"two characters name {MOST_CODES} tokens and not {token + 1}; take a smaller vocabulary")
    first, second = divmod(token, len(VALUE_ALPHABET))
    return VALUE_ALPHABET[first] + VALUE_ALPHABET[second]


def draw_pairs(tokens: Sequence[int], seed: int) -> NDArray[np.uint8]:
    """Draw keys and values, given in turn.

    Args:
        tokens: k₁ v₁ k₂ v₂ …
        seed: of typeface, paper, ink, noise and the place of each code on its tile.

    Returns:
        ``[height, width, 3]``, two tiles wide.
    """
    rng = random.Random(seed)
    size = (COLUMNS * TOKEN_PIXELS, len(tokens) // COLUMNS * TOKEN_PIXELS)
    face, colour = rng.choice(MONO), ink(rng)
    image = Image.new("RGB", size, paper(rng))
    draw = ImageDraw.Draw(image)
    for place, token in enumerate(tokens):
        row, column = divmod(place, COLUMNS)
        code = code_of(token)
        width, height = text_size(face, TYPE_PIXELS, code)
        left = column * TOKEN_PIXELS + _place(rng, TOKEN_PIXELS - width)
        top = row * TOKEN_PIXELS + _place(rng, TOKEN_PIXELS - height)
        draw_text(draw, (left, top), code, face, TYPE_PIXELS, colour)
    return np.array(add_noise(image, rng, rng.uniform(0, 6)))


def _place(rng: random.Random, free: int) -> int:
    """Where a code begins on its tile, with a pixel to spare on either side where there is one."""
    return min(1, free // 2) + int(rng.random() * max(1, free - 1))
