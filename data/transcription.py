"""Transcription: lines of random characters, to be read one by one, without any word to guess from."""

import random

from PIL import Image, ImageDraw

from .drawing import MONO, TextBox, add_noise, distinct_values, draw_text, ink, paper, slant, text_size
from .pages import Page, Question

# level → width, height, lines, size of type (pixels), shortest and longest line
LAYOUTS = {
    1: (168, 84, 2, 23, (3, 6)),
    2: (196, 112, 3, 22, (5, 8)),
    3: (224, 140, 4, 20, (8, 12)),
    4: (280, 196, 6, 19, (12, 18)),
}
TEMPLATES = ("read line {number}", "what does line {number} say?", "copy the text of line {number}")


def draw_page(rng: random.Random, level: int) -> Page:
    """Draw lines of text of a level; each question asks for one line."""
    width, height, count, size, lengths = LAYOUTS[level]
    background, colour = paper(rng), ink(rng)
    image = Image.new("RGB", (width, height), background)
    draw = ImageDraw.Draw(image)
    face = rng.choice(MONO)
    values = distinct_values(rng, count, lengths)
    pitch = (height - 12) // count
    boxes: list[TextBox] = []
    for row, value in enumerate(values):
        free = width - 12 - text_size(face, size, value)[0]
        left = 6 + rng.randint(0, min(free, 20))
        top = 6 + row * pitch + rng.randint(2, pitch - size)
        boxes.append(draw_text(draw, (left, top), value, face, size, colour))
    image = slant(image, rng, 0.6, background)
    image = add_noise(image, rng, rng.uniform(0, 6))
    questions = [
        Question(rng.choice(TEMPLATES).format(number=row), (value,)) for row, value in enumerate(values, start=1)
    ]
    rng.shuffle(questions)
    return Page(image, tuple(questions), tuple(values), "transcription", level, tuple(boxes))
