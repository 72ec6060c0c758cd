"""Drawing helpers that all families share: typefaces, paper, ink, noise and slant.

The typefaces are those that matplotlib's wheel ships (DejaVu), so a page looks the same on every machine.
"""

import random
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .pages import TextBox

MONO = ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf")
FACES = (*MONO, "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf")

Colour = tuple[int, int, int]


@cache
def data_folder() -> Path:
    """The folder of matplotlib's data: typefaces, and a photograph."""
    # matplotlib itself is heavy; its folder is enough here.
    from importlib.util import find_spec

    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("matplotlib, whose typefaces the pages use, is not installed")
    return Path(spec.origin).parent / "mpl-data"


@cache
def font(face: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a shipped typeface at a size in pixels."""
    # The basic layout gives the same glyph positions with and without libraqm.
    return ImageFont.truetype(str(data_folder() / "fonts" / "ttf" / face), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def text_size(face: str, size: int, text: str) -> tuple[int, int]:
    """Width and height in pixels of the ink box of ``text``, measured from its anchor at the left top."""
    _, _, right, bottom = font(face, size).getbbox(text, anchor="lt")
    return int(np.ceil(right)), int(np.ceil(bottom))


def paper(rng: random.Random) -> Colour:
    """Pick a light background."""
    base = rng.randint(228, 255)
    return (base, base - rng.randint(0, 8), base - rng.randint(0, 18))


def ink(rng: random.Random) -> Colour:
    """Pick a dark ink."""
    base = rng.randint(0, 50)
    return (base, base + rng.randint(0, 12), base + rng.randint(0, 40))


def draw_text(
    draw: ImageDraw.ImageDraw, position: tuple[int, int], text: str, face: str, size: int, colour: Colour
) -> TextBox:
    """Draw ``text`` with the top left of its ink at ``position`` and return its box."""
    width, height = text_size(face, size, text)
    draw.text(position, text, font=font(face, size), fill=colour, anchor="lt")
    left, top = position
    return TextBox(text, (left, top, left + width, top + height))


@cache
def _noise_bank(height: int, width: int) -> np.ndarray:
    generator = np.random.default_rng(20240513)
    return generator.standard_normal((2 * height, 2 * width), dtype=np.float32)


def add_noise(image: Image.Image, rng: random.Random, deviation: float) -> Image.Image:
    """Add grey noise of a standard deviation in grey levels (0–255) to an RGB image."""
    if deviation <= 0:
        return image
    width, height = image.size
    # A random window of one fixed field: drawing fresh noise would cost more than the rest of the page.
    bank = _noise_bank(height, width)
    top, left = rng.randrange(height + 1), rng.randrange(width + 1)
    field = (bank[top : top + height, left : left + width] * deviation).astype(np.int16)
    pixels = np.asarray(image, dtype=np.int16) + field[:, :, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def slant(image: Image.Image, rng: random.Random, degrees: float, fill: Colour) -> Image.Image:
    """Rotate the page about its centre by at most ``degrees`` either way."""
    if degrees <= 0:
        return image
    angle = rng.uniform(-degrees, degrees)
    return image.rotate(angle, resample=Image.Resampling.BILINEAR, fillcolor=fill)


def random_value(rng: random.Random, length: int) -> str:
    """Draw digits and capitals; letters that print like digits (I, O) are left out."""
    return "".join(rng.choices(VALUE_ALPHABET, k=length))


VALUE_ALPHABET = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"


def distinct_values(rng: random.Random, count: int, lengths: tuple[int, int]) -> list[str]:
    """Draw ``count`` different values with lengths between the two bounds, both included."""
    values: list[str] = []
    while len(values) < count:
        value = random_value(rng, rng.randint(*lengths))
        if value not in values:
            values.append(value)
    return values
