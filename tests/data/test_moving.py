"""Moments of videos, and the library that numbers them."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from infinitevl_bench.data.drawing import VALUE_ALPHABET
from infinitevl_bench.data.library import LibrarySpec
from infinitevl_bench.data.moving import (
    DISTRACTORS,
    EVENTS,
    KEYS,
    SIZE,
    VALUE_LENGTH,
    Caption,
    Pan,
    draw_moment,
    photograph,
    random_caption,
    random_pan,
)

LIBRARY = LibrarySpec(split="train", captions=2, events=3, scenes=2, scene_moments=4)
STILL = Pan(40, 60, 0, 0, mirrored=False)


def test_a_moment_is_two_frames_of_the_photograph_that_moves() -> None:
    frames = draw_moment(random.Random(1), Pan(100, 50, 2, 1, mirrored=False), 3)
    assert frames.shape == (2, SIZE[1], SIZE[0], 3)
    assert frames.dtype == np.uint8
    for number, frame in enumerate(frames):
        left, top = 100 + 2 * (6 + number), 50 + 6 + number
        behind = np.asarray(photograph().crop((left, top, left + SIZE[0], top + SIZE[1])))
        # Noise of at most 6 grey levels.
        assert np.abs(frame.astype(float) - behind).mean() < 6
        assert np.abs(frame.astype(float) - np.asarray(photograph().crop((0, 0, *SIZE)))).mean() > 20


@pytest.mark.parametrize("seed", range(20))
def test_a_pan_stays_on_the_photograph(seed: int) -> None:
    pan = random_pan(random.Random(seed), 8)
    width, height = photograph().size
    for step in range(16):
        left, top = round(pan.left + pan.across * step), round(pan.top + pan.down * step)
        assert 0 <= left <= width - SIZE[0]
        assert 0 <= top <= height - SIZE[1]


def changed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Which of the 2 × 4 cells differ by more than noise does, in the first frame."""
    difference = np.abs(first[0].astype(int) - second[0]).max(-1) > 60
    return difference.reshape(2, 28, 4, 28).any(axis=(1, 3))


@pytest.mark.parametrize("seed", range(8))
def test_a_caption_stands_in_cells_of_its_own_and_a_shape_above(seed: int) -> None:
    plain = draw_moment(random.Random(seed), STILL, 0)
    written = draw_moment(random.Random(seed), STILL, 0, caption=Caption("K", "7W"))
    assert changed(plain, written).tolist() == [[False] * 4, [True, True, True, False]]
    shown = draw_moment(random.Random(seed), STILL, 0, "star")
    cells = changed(plain, shown)
    assert cells[0].sum() == 1
    assert not cells[1].any()


def test_captions_of_other_texts_are_other_pictures() -> None:
    pictures = [draw_moment(random.Random(0), STILL, 0, caption=Caption("K", f"{digit}A")) for digit in "123"]
    for first, second in pairwise(pictures):
        assert changed(first, second).tolist() == [[False] * 4, [False, True, False, False]]


def test_values_are_of_the_alphabet_and_length() -> None:
    rng = random.Random(0)
    values = [random_caption(rng, "B").value for _ in range(2000)]
    assert {len(value) for value in values} == {VALUE_LENGTH}
    assert set("".join(values)) == set(VALUE_ALPHABET)


def test_every_moment_of_a_library_is_what_its_number_says(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str | None, Caption | None]] = []

    def record(rng: random.Random, pan: Pan, moment: int, shape: str | None = None, caption: Caption | None = None):  # type: ignore[no-untyped-def]
        drawn.append((shape, caption))
        return np.zeros(1)

    monkeypatch.setattr("infinitevl_bench.data.library.draw_moment", record)
    for moment in range(sum(LIBRARY.sizes)):
        LIBRARY.draw(moment)
    expected = [
        (key, event) for key in KEYS for event in (None, *EVENTS) for _ in range(LIBRARY.captions)
    ] + [(None, event) for event in EVENTS for _ in range(LIBRARY.events)]  # fmt: skip
    expected += [(None, None)] * (LIBRARY.scenes * LIBRARY.scene_moments)
    assert len(drawn) == len(expected)
    for number, ((shape, caption), (key, event)) in enumerate(zip(drawn, expected, strict=True)):
        assert (caption.key if caption else None) == key
        assert caption == LIBRARY.written(number)
        assert shape == event or (event is None and shape in (None, *DISTRACTORS))
    assert LIBRARY.caption(3, 2, 1) == expected.index((KEYS[3], EVENTS[1])) + 1
    assert LIBRARY.event(2, 1) == expected.index((None, EVENTS[1])) + 1
    assert LIBRARY.scene(1, 0) == len(expected) - 4


def test_a_moment_is_a_function_of_its_number_and_split() -> None:
    other = LIBRARY.model_copy(update={"split": "test"})
    assert np.array_equal(LIBRARY.draw(5), LIBRARY.draw(5))
    assert not np.array_equal(LIBRARY.draw(5), other.draw(5))
    same = [LIBRARY.written(number) == other.written(number) for number in range(LIBRARY.sizes[0])]
    assert Counter(same)[True] < 5


def test_a_scene_is_one_camera_that_moves_on() -> None:
    first, second = (LIBRARY.draw(LIBRARY.scene(0, number))[0].astype(int) for number in (0, 1))
    elsewhere = LIBRARY.draw(LIBRARY.scene(1, 1))[0].astype(int)
    assert np.abs(first - second).mean() < np.abs(first - elsewhere).mean()
