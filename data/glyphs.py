"""Pictures whose every character is known by its place: what a vision tower learns to read from.

The typefaces, sizes, papers, signs, noise and slants are those of the page families; the strings are drawn at random,
so no page of a benchmark is ever among them.
"""

import math
import random
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from . import charts, documents, scene_text, shapes
from .drawing import FACES, MONO, VALUE_ALPHABET, add_noise, font, ink, paper, random_value, text_size
from .pages import TOKEN_PIXELS, Page, TextBox

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
GROUNDS = ("paper", *scene_text.SIGNS)
"""What text stands on: plain paper, or a sign of a colour."""

SLOTS = 6
"""Characters that one cell can name; the smallest type sets seven narrow ones at most, and hardly ever."""
NOTHING = -100
"""Target of what cannot be asked of a cell, such as the ground of a text that is not there."""
CLASSES = (*[len(CHARACTERS) + 1] * SLOTS, len(GROUNDS), len(shapes.SHAPES) + 1, len(shapes.COLOURS))
"""How many answers each column of the targets has; 0 is "none" for characters and for the kind of a shape."""
GROUND, KIND, COLOUR = SLOTS, SLOTS + 1, SLOTS + 2
LINE_GAP_PIXELS = 8.0

# width and height in pixels, with how often each is drawn
CANVASES = {
    (112, 112): 1, (140, 112): 2, (168, 84): 3, (168, 112): 4, (224, 140): 8, (224, 168): 2, (196, 140): 1,
    (280, 196): 1, (392, 196): 1,
}  # fmt: skip


@dataclass(frozen=True)
class Word:
    """A string without a gap.

    Attributes:
        text: Its characters.
        centres: The middle of each character, x and y in pixels.
        ground: One of ``GROUNDS``.
    """

    text: str
    centres: tuple[tuple[float, float], ...]
    ground: str = "paper"


@dataclass(frozen=True)
class Canvas:
    """A picture and all that can be named on it."""

    image: Image.Image
    words: tuple[Word, ...]
    marks: tuple[shapes.Mark, ...] = ()


def draw_canvas(rng: random.Random, size: tuple[int, int]) -> Canvas:
    """Draw a canvas of a size in pixels: text on paper, signs in a scene, a chart's labels, or shapes."""
    (drawer,) = rng.choices((_draw_text_page, _draw_signs, _draw_bars, _draw_shapes), (14, 4, 2, 2))
    return drawer(rng, size)


@cache
def _edges(face: str, size: int, text: str) -> tuple[float, ...]:
    """Where each character begins and the last ends, in pixels from the anchor at the left."""
    return tuple(font(face, size).getlength(text[:count]) for count in range(len(text) + 1))


def _placed(text: str, face: str, size: int, left: float, top: float, ground: str = "paper") -> Word:
    """The word as it stands with the top left of its ink at a place."""
    # Strings are random, so caching whole ones would only fill the memory; a character has one width in a face.
    widths = [_edges(face, size, character)[1] for character in text]
    _, height = text_size(face, size, "H")
    centres, x = [], left
    for width in widths:
        centres.append((x + width / 2, top + height / 2))
        x += width
    return Word(text, tuple(centres), ground)


def _string(rng: random.Random, longest: int) -> str:
    """Random characters mostly; at times a word that pages use, so that its letters are seen together too."""
    draw = rng.random()
    if draw < 0.25:
        word = rng.choice(documents.KEYS + scene_text.WORDS)
        if len(word) <= longest:
            return word
    length = rng.randint(1 if draw > 0.9 else 2, max(2, longest))
    if draw < 0.35:
        return "".join(rng.choices(CHARACTERS[10:], k=length))
    if draw < 0.42:
        return "".join(rng.choices(CHARACTERS[:10], k=length))
    return random_value(rng, length)


def _draw_text_page(rng: random.Random, size: tuple[int, int]) -> Canvas:
    width, height = size
    background, colour = paper(rng), ink(rng)
    image = Image.new("RGB", size, background)
    draw = ImageDraw.Draw(image)
    face, type_size = (
        rng.choice(MONO if rng.random() < 0.4 else FACES),
        rng.choice((14, 15, 16, 17, 17, 18, 19, 19, 20, 21, 22, 22, 23, 24)),
    )
    high = text_size(face, type_size, "H")[1]
    gap = text_size(face, type_size, "0")[0]
    pitch = rng.randint(high + 4, 2 * type_size)
    ruled, dotted = rng.random() < 0.15, rng.random() < 0.15
    longest = rng.choice((3, 3, 6, 6, 18))
    words = []
    top = rng.randint(0, 12)
    while top + high <= height:
        y = min(height - high, top + rng.randint(0, max(0, pitch - high - 3)))
        left = rng.randint(0, width // 3)
        while True:
            text = _string(rng, longest)
            right = left + sum(_edges(face, type_size, character)[1] for character in text)
            if right > width - 1:
                break
            draw.text((left, y), text, font=font(face, type_size), fill=colour, anchor="lt")
            words.append(_placed(text, face, type_size, left, y))
            left = math.ceil(right) + rng.randint(gap - 4, 5 * gap)
            if dotted:
                draw.point([(x, y + high - 1) for x in range(math.ceil(right) + 5, left - 4, 6)], fill=colour)
        if ruled:
            draw.line((0, top - 1, width, top - 1), fill=(150, 150, 160))
        top += pitch
    if ruled:
        draw.line((width // 2, 0, width // 2, height), fill=(150, 150, 160))
    angle = rng.uniform(-0.8, 0.8)
    if rng.random() < 0.8:
        image = image.rotate(angle, resample=Image.Resampling.BILINEAR, fillcolor=background)
        words = [_turned(word, angle, width / 2, height / 2) for word in words]
    image = add_noise(image, rng, rng.uniform(0, 7))
    return Canvas(image, tuple(words))


def _turned(word: Word, angle: float, x0: float, y0: float) -> Word:
    """The word after the picture was turned about a point by an angle in degrees, against the clock."""
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    centres = tuple(
        (x0 + (x - x0) * cosine + (y - y0) * sine, y0 - (x - x0) * sine + (y - y0) * cosine) for x, y in word.centres
    )
    return Word(word.text, centres, word.ground)


def _draw_signs(rng: random.Random, size: tuple[int, int]) -> Canvas:
    width, height = size
    image = scene_text.draw_scene(rng, width, height, rng.randint(4, 24))
    words = []
    top = rng.randint(0, 8)
    while top < height - 30:
        face, type_size = rng.choice(FACES), rng.randint(18, 23)
        text, ground = _string(rng, 5), rng.choice(tuple(scene_text.SIGNS))
        sign = scene_text.draw_sign(rng, text, face, type_size, scene_text.SIGNS[ground], rng.choice((0.0, 3.0, 7.0)))
        if sign.image.width >= width or top + sign.image.height >= height:
            break
        left = rng.randint(0, width - sign.image.width)
        image.paste(sign.image, (left, top), sign.image)
        word = _placed(text, face, type_size, left + sign.box[0], top + sign.box[1], ground)
        words.append(_turned(word, sign.angle, left + sign.image.width / 2, top + sign.image.height / 2))
        top += sign.image.height + rng.randint(0, 14)
    return Canvas(add_noise(image, rng, rng.uniform(0, 7)), tuple(words))


def _draw_bars(rng: random.Random, size: tuple[int, int]) -> Canvas:
    """Bars with a number above and a letter below each, placed as the charts place them."""
    width, height = size
    image = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(image)
    face, type_size = "DejaVuSans.ttf", rng.randint(14, 17)
    pitch = rng.randint(30, 52)
    base = height - type_size - rng.randint(5, 9)
    words = []
    for left in range(rng.randint(2, 12), width - pitch, pitch):
        top = rng.randint(type_size + 4, base - 4)
        breadth = rng.randint(pitch // 3, 3 * pitch // 4)
        kind, colour = rng.randrange(3), rng.choice(charts.PALETTE)
        middle = left + pitch / 2
        if kind == 0:
            draw.rectangle((middle - breadth / 2, top, middle + breadth / 2, base), fill=colour)
        elif kind == 1:
            draw.line((middle, top + 3, middle + pitch, rng.randint(type_size, base)), fill=colour, width=2)
            draw.ellipse((middle - 3, top, middle + 3, top + 6), fill=colour)
        texts = [
            (rng.choice(VALUE_ALPHABET[:10]) + rng.choice(VALUE_ALPHABET[:10]), top - type_size - rng.randint(0, 3))
        ]
        texts.append((rng.choice(CHARACTERS[10:]), base + 4))
        for text, y in texts:
            start = middle - text_size(face, type_size, text)[0] / 2
            draw.text((start, y), text, font=font(face, type_size), fill=(0, 0, 0), anchor="lt")
            words.append(_placed(text, face, type_size, start, y))
    draw.line((4, base, width - 5, base), fill=(0, 0, 0))
    return Canvas(add_noise(image, rng, rng.uniform(0, 4)), tuple(words))


def _draw_shapes(rng: random.Random, size: tuple[int, int]) -> Canvas:
    side = rng.choice((42, 46, 50, 56))
    cells = (size[0] // side, size[1] // side)
    count = rng.randint(1, cells[0] * cells[1])
    painted = [(rng.choice(shapes.SHAPES), rng.choice(tuple(shapes.COLOURS))) for _ in range(count)]
    image, marks = shapes.paint(rng, size, cells, painted)
    return Canvas(image, (), tuple(marks))


def cell_targets(canvas: Canvas) -> np.ndarray:
    """What each cell of a canvas holds, ``[cells, SLOTS + 3]``: characters, ground, kind and colour of a shape."""
    width, height = canvas.image.size
    columns, rows = width // TOKEN_PIXELS, height // TOKEN_PIXELS
    targets = np.full((rows * columns, len(CLASSES)), NOTHING, dtype=np.int64)
    targets[:, :SLOTS] = targets[:, KIND] = 0

    def cell_at(x: float, y: float) -> int:
        return int(min(max(y // TOKEN_PIXELS, 0), rows - 1) * columns + min(max(x // TOKEN_PIXELS, 0), columns - 1))

    inside: defaultdict[int, list[tuple[float, float, int]]] = defaultdict(list)
    for word in canvas.words:
        for character, (x, y) in zip(word.text, word.centres, strict=True):
            cell = cell_at(x, y)
            inside[cell].append((x, y, CHARACTERS.index(character) + 1))
            targets[cell, GROUND] = GROUNDS.index(word.ground)
    for cell, found in inside.items():
        named = [name for _, _, name in _reading_order(found)][:SLOTS]
        targets[cell, : len(named)] = named
    for mark in canvas.marks:
        kind, colour = shapes.SHAPES.index(mark.kind), tuple(shapes.COLOURS).index(mark.colour)
        targets[cell_at(mark.x, mark.y), KIND:] = kind + 1, colour
    return targets


def _reading_order(found: list[tuple[float, float, int]]) -> list[tuple[float, float, int]]:
    """Line by line, each from left to right; a line begins where the next lower centre is further down than a slant."""
    lines: list[list[tuple[float, float, int]]] = []
    for item in sorted(found, key=lambda item: item[1]):
        if not lines or item[1] - lines[-1][-1][1] > LINE_GAP_PIXELS:
            lines.append([])
        lines[-1].append(item)
    return [item for line in lines for item in sorted(line)]


def clear_cells(canvas: Canvas, margin: float) -> np.ndarray:
    """Which cells ``[cells]`` have no character whose centre is within ``margin`` pixels of a border they share."""
    columns, rows = canvas.image.width // TOKEN_PIXELS, canvas.image.height // TOKEN_PIXELS
    clear = np.ones((rows, columns), dtype=bool)
    for x, y in (centre for word in canvas.words for centre in word.centres):
        across = {int((x + step) // TOKEN_PIXELS) for step in (-margin, margin)}
        down = {int((y + step) // TOKEN_PIXELS) for step in (-margin, margin)}
        if len(across) + len(down) > 2:
            for row in down & set(range(rows)):
                clear[row, list(across & set(range(columns)))] = False
    return clear.ravel()


def page_canvas(page: Page) -> Canvas:
    """A page with the places of its characters, as far as its boxes tell: exact but for its slant."""
    grounds = {
        question.answers[0]: colour
        for question in page.questions
        for colour in scene_text.SIGNS
        if f" {colour} sign" in question.text
    }
    words = []
    for box in page.boxes:
        face, type_size = _typeface(box)
        words.append(_placed(box.text, face, type_size, *box.box[:2], grounds.get(box.text, "paper")))
    return Canvas(page.image, tuple(words))


def _typeface(box: TextBox) -> tuple[str, int]:
    """A typeface and a size in which the text fills its box."""
    left, top, right, bottom = box.box
    for type_size in range(8, 40):
        for face in FACES:
            if text_size(face, type_size, box.text) == (right - left, bottom - top):
                return face, type_size
    raise ValueError(f"{box} was drawn in none of the typefaces")
