import random

import numpy as np
import pytest
from infinitevl_bench.data import glyphs
from infinitevl_bench.data.families import generate_page
from infinitevl_bench.data.glyphs import CANVASES, CHARACTERS, Canvas, Word, cell_targets, clear_cells, draw_canvas
from infinitevl_bench.data.pages import TOKEN_PIXELS
from infinitevl_bench.data.shapes import COLOURS, SHAPES, Mark
from PIL import Image

DRAWERS = (glyphs._draw_text_page, glyphs._draw_signs, glyphs._draw_bars, glyphs._draw_shapes)
drawers = pytest.mark.parametrize("drawer", DRAWERS, ids=lambda drawer: drawer.__name__.removeprefix("_draw_"))


def _canvases(drawer, count=12):
    rng = random.Random(3)
    return [drawer(rng, size) for size in CANVASES for _ in range(count // 4)]


@pytest.mark.parametrize("size", CANVASES, ids=lambda size: "x".join(map(str, size)))
def test_a_canvas_is_a_function_of_its_seed(size):
    first, second = (draw_canvas(random.Random(11), size) for _ in range(2))
    other = draw_canvas(random.Random(12), size)
    assert first.image.size == size
    assert first.image.tobytes() == second.image.tobytes()
    assert (first.words, first.marks) == (second.words, second.marks)
    assert first.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("size", CANVASES, ids=lambda size: "x".join(map(str, size)))
def test_every_size_is_a_whole_number_of_visual_tokens(size):
    assert all(side % TOKEN_PIXELS == 0 for side in size)


@drawers
def test_centres_lie_inside_the_picture(drawer):
    for canvas in _canvases(drawer):
        width, height = canvas.image.size
        centres = [centre for word in canvas.words for centre in word.centres] + [(m.x, m.y) for m in canvas.marks]
        assert centres
        assert all(0 <= x < width and 0 <= y < height for x, y in centres)


@drawers
def test_words_and_marks_are_made_of_known_names(drawer):
    for canvas in _canvases(drawer):
        assert all(set(word.text) <= set(CHARACTERS) and word.ground in glyphs.GROUNDS for word in canvas.words)
        assert all(len(word.text) == len(word.centres) for word in canvas.words)
        assert all(mark.kind in SHAPES and mark.colour in COLOURS for mark in canvas.marks)


@pytest.mark.parametrize("drawer", DRAWERS[:3], ids=("text_page", "signs", "bars"))
def test_the_ink_is_where_a_centre_says(drawer):
    """Round every centre the picture varies as strokes do, far beyond its noise."""
    for canvas in _canvases(drawer):
        grey = np.asarray(canvas.image.convert("L"), dtype=float)
        for x, y in (centre for word in canvas.words for centre in word.centres):
            patch = grey[max(0, int(y) - 7) : int(y) + 8, max(0, int(x) - 5) : int(x) + 6]
            assert np.ptp(patch) > 60


def test_the_ink_of_a_long_word_ends_where_its_last_centre_says():
    rng = random.Random(0)
    for _ in range(40):
        face, size, text = rng.choice(glyphs.FACES), rng.randint(15, 24), "".join(rng.choices(CHARACTERS, k=8))
        image = Image.new("L", (280, 40))
        glyphs.ImageDraw.Draw(image).text((9, 9), text, font=glyphs.font(face, size), fill=255, anchor="lt")
        ink = np.argwhere(np.asarray(image) > 100)
        word = glyphs._placed(text, face, size, 9, 9)
        assert ink[:, 1].max() == pytest.approx(word.centres[-1][0], abs=size / 2)
        assert ink[:, 1].min() == pytest.approx(word.centres[0][0], abs=size / 2)
        assert ink[:, 0].mean() == pytest.approx(word.centres[0][1], abs=2)


@pytest.mark.parametrize("drawer", DRAWERS[:3], ids=("text_page", "signs", "bars"))
def test_words_never_overlap(drawer):
    """Characters of two words are a letter's height apart, or a letter's width."""
    for canvas in _canvases(drawer):
        for number, word in enumerate(canvas.words):
            for other in canvas.words[number + 1 :]:
                for x, y in word.centres:
                    assert all(abs(x - u) > 5 or abs(y - v) > 8 for u, v in other.centres), (word, other)


def _blank(words=(), marks=()):
    return Canvas(Image.new("RGB", (84, 56), "white"), tuple(words), tuple(marks))


def _names(text, slots=glyphs.SLOTS):
    return [CHARACTERS.index(character) + 1 for character in text] + [0] * (slots - len(text))


def test_a_cell_names_its_characters_line_by_line_from_left_to_right():
    words = (
        Word("XY", ((4, 22), (16, 22.5)), "red"),
        Word("AB", ((20.0, 5.2), (30.0, 5.0))),
        Word("7", ((8.0, 6.0),)),
    )
    targets = cell_targets(_blank(words))
    assert targets.shape == (6, len(glyphs.CLASSES))
    assert targets[0, : glyphs.SLOTS].tolist() == _names("7AXY")
    assert targets[1, : glyphs.SLOTS].tolist() == _names("B")
    assert targets[1, glyphs.GROUND] == glyphs.GROUNDS.index("paper")
    assert (targets[2:, : glyphs.SLOTS] == 0).all()
    assert (targets[2:, glyphs.GROUND] == glyphs.NOTHING).all()


def test_a_sign_gives_its_cells_their_ground():
    targets = cell_targets(_blank([Word("GO", ((35, 40), (47, 40)), "yellow")]))
    assert targets[4, glyphs.GROUND] == glyphs.GROUNDS.index("yellow")


def test_a_mark_is_named_in_the_cell_of_its_centre_only():
    targets = cell_targets(_blank(marks=[Mark("star", "blue", 60.0, 30.0, 20.0)]))
    assert targets[5, glyphs.KIND :].tolist() == [SHAPES.index("star") + 1, tuple(COLOURS).index("blue")]
    assert (targets[:5, glyphs.KIND] == 0).all()
    assert (targets[:5, glyphs.COLOUR] == glyphs.NOTHING).all()


def test_a_crowded_cell_keeps_its_first_characters():
    crowd = Word("ABCDEFGH", tuple((2.0 + 3 * step, 14.0) for step in range(8)))
    assert cell_targets(_blank([crowd]))[0, : glyphs.SLOTS].tolist() == _names("ABCDEF")


def test_cells_that_share_a_character_at_their_border_are_not_clear():
    canvas = _blank([Word("A", ((27.0, 14.0),)), Word("B", ((70.0, 42.0),))])
    assert clear_cells(canvas, 2.0).tolist() == [False, False, True, True, True, True]
    assert clear_cells(canvas, 0.0).all()


@pytest.mark.parametrize("family", ["documents", "transcription", "scene_text"])
@pytest.mark.parametrize("level", [1, 4])
def test_a_pages_characters_are_found_in_its_boxes(family, level):
    page = generate_page(family, seed=0, index=3, split="validation", level=level)
    canvas = glyphs.page_canvas(page)
    assert [word.text for word in canvas.words] == [box.text for box in page.boxes]
    for word, box in zip(canvas.words, page.boxes, strict=True):
        left, top, right, bottom = box.box
        assert all(left < x < right and top < y < bottom for x, y in word.centres)
        assert (word.ground == "paper") == (family != "scene_text")
