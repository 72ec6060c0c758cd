"""Pages of all families: determinism, splits, answers that stand on the page, and balance."""

import hashlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from infinitevl_bench.data import backgrounds, charts, documents, scene_text, shapes, transcription
from infinitevl_bench.data.families import FAMILIES, LEVELS, family_names, generate_page
from infinitevl_bench.data.pages import SPLITS, TOKEN_PIXELS, Page
from infinitevl_bench.errors import UserError

ALL = [(family, level) for family in FAMILIES for level in LEVELS]
READ_FROM_PAGE = {"lookup", "value"}


def digest(page: Page) -> str:
    return hashlib.sha256(page.image.tobytes() + repr((page.questions, page.values)).encode()).hexdigest()


def page_of(family: str, level: int, index: int, split: str = "train", seed: int = 0) -> Page:
    return generate_page(family, seed=seed, index=index, split=split, level=level)


@pytest.mark.parametrize(("family", "level"), ALL)
def test_every_level_draws_pages_of_whole_tokens(family: str, level: int) -> None:
    for index in range(8):
        page = page_of(family, level, index)
        width, height = page.image.size
        assert page.image.mode == "RGB"
        assert width % TOKEN_PIXELS == 0
        assert height % TOKEN_PIXELS == 0
        assert (page.family, page.level) == (family, level)
        assert len({question.text for question in page.questions}) == len(page.questions)
        for question in page.questions:
            if question.kind in READ_FROM_PAGE:
                assert question.answers[0] in page.values
            if question.options:
                assert question.answers[0] in question.options
                assert len(set(question.options)) == len(question.options)
                assert len(question.options) == (2 if question.kind == "existence" else 4)


@pytest.mark.parametrize(
    ("family", "level"), [pair for pair in ALL if pair[0] in ("documents", "transcription", "scene_text")]
)
def test_text_lies_inside_the_page_and_never_overlaps(family: str, level: int) -> None:
    for index in range(25):
        page = page_of(family, level, index)
        width, height = page.image.size
        texts = [box.text for box in page.boxes]
        assert set(page.values) <= set(texts)
        for number, one in enumerate(page.boxes):
            left, top, right, bottom = one.box
            assert left >= 0
            assert top >= 0
            assert right <= width
            assert bottom <= height
            for other in page.boxes[number + 1 :]:
                x0, y0, x1, y1 = other.box
                assert right <= x0 or x1 <= left or bottom <= y0 or y1 <= top, (one, other)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("charts", "shapes", "backgrounds")])
def test_the_ink_of_each_value_is_there(family: str) -> None:
    """Inside a value's box the page has contrast; a value drawn in the paper's colour would fail."""
    for index in range(10):
        page = page_of(family, 1, index)
        grey = page.image.convert("L")
        for box in page.boxes:
            low, high = grey.crop(box.box).getextrema()
            assert high - low > 90


def test_another_process_draws_the_same_pages() -> None:
    code = (
        "import hashlib\n"
        "from infinitevl_bench.data.families import FAMILIES, generate_page\n"
        "for family in FAMILIES:\n"
        "    page = generate_page(family, seed=3, index=7, split='test', level=2)\n"
        "    text = repr((page.questions, page.values)).encode()\n"
        "    print(family, hashlib.sha256(page.image.tobytes() + text).hexdigest())\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    theirs = dict(line.split() for line in out.stdout.splitlines())
    # The other order of calls, with other pages in between.
    ours = {}
    for family in reversed(family_names()):
        page_of(family, 3, 1)
        ours[family] = digest(page_of(family, 2, 7, "test", seed=3))
    assert theirs == ours


@pytest.mark.parametrize("family", FAMILIES)
def test_splits_seeds_and_indices_differ(family: str) -> None:
    count = 6 if family == "charts" else 40
    pages = [digest(page_of(family, 1, index, split)) for split in SPLITS for index in range(count)]
    pages += [digest(page_of(family, 1, index, "train", seed=1)) for index in range(count)]
    assert len(set(pages)) == len(pages)


def test_what_documents_say_differs_between_splits() -> None:
    said = [{page_of("documents", 1, index, split).values for index in range(200)} for split in SPLITS]
    assert not said[0] & said[1]
    assert not said[0] & said[2]
    assert not said[1] & said[2]


def test_answers_about_shapes_are_balanced() -> None:
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in ("existence", "colour", "count")}
    letters: Counter[int] = Counter()
    for index in range(800):
        for question in page_of("shapes", 1, index).questions:
            counts[question.kind][question.answers[0]] += 1
            if len(question.options) == 4:
                letters[question.options.index(question.answers[0])] += 1
    # Four standard deviations around the even share.
    assert all(abs(n - 400) < 57 for n in counts["existence"].values())
    assert set(counts["colour"]) == set(shapes.COLOURS)
    assert set(counts["count"]) == {"0", "1", "2", "3"}
    for kind in ("colour", "count"):
        assert all(abs(n - 200) < 49 for n in counts[kind].values())
    assert all(abs(n - 400) < 70 for n in letters.values())


def test_the_control_is_balanced_and_answered_by_most_of_the_page() -> None:
    asked: Counter[str] = Counter()
    letters: Counter[int] = Counter()
    for index in range(1600):
        page = page_of("backgrounds", 1 + index % 4, index)
        (question,) = page.questions
        asked[question.answers[0]] += 1
        letters[question.options.index(question.answers[0])] += 1
        # Another colour stands on every page, so that naming one that is seen may be wrong.
        assert len(page.values) > 1
    assert set(asked) == set(backgrounds.COLOURS)
    # Four standard deviations around the even share.
    assert all(abs(n - 200) < 53 for n in asked.values())
    assert all(abs(n - 400) < 70 for n in letters.values())


@pytest.mark.parametrize("level", LEVELS)
def test_the_controls_answer_is_the_colour_of_most_of_every_row_of_tokens(level: int) -> None:
    """So the last tokens before the question tell it, and no arm needs to carry anything far."""
    names = list(backgrounds.COLOURS)
    anchors = np.array([backgrounds.COLOURS[name] for name in names], dtype=float)
    for index in range(10):
        page = page_of("backgrounds", level, index)
        pixels = np.asarray(page.image, dtype=float)
        nearest = np.linalg.norm(pixels[:, :, None] - anchors, axis=-1).argmin(-1)
        own = nearest == names.index(page.questions[0].answers[0])
        for top in range(0, own.shape[0], TOKEN_PIXELS):
            assert own[top : top + TOKEN_PIXELS].mean() > 0.6


def test_place_of_a_question_does_not_tell_its_answer() -> None:
    places: Counter[int] = Counter()
    for index in range(400):
        page = page_of("documents", 1, index)
        places[page.values.index(page.questions[0].answers[0])] += 1
    assert all(abs(n - 100) < 35 for n in places.values())
    assert len(places) == 4


def test_chart_extremes_follow_from_the_values() -> None:
    for index in range(6):
        for level in LEVELS:
            page = page_of("charts", level, index)
            values = dict(
                zip(page.values[len(page.values) // 2 :], map(int, page.values[: len(page.values) // 2]), strict=True)
            )
            for question in page.questions:
                if question.kind == "extreme":
                    pick = max if question.text.split()[-1] in ("highest?", "largest?") else min
                    assert question.answers[0] == pick(values, key=values.__getitem__)


def test_charts_ignore_the_readers_own_style() -> None:
    import matplotlib

    plain = digest(page_of("charts", 2, 0))
    with matplotlib.rc_context({"font.size": 20.0, "axes.facecolor": "black", "font.family": ["serif"]}):
        assert digest(page_of("charts", 2, 0)) == plain


def test_wrong_requests() -> None:
    with pytest.raises(UserError, match="did you mean documents"):
        page_of("document", 1, 0)
    with pytest.raises(UserError, match="level 5"):
        page_of("shapes", 5, 0)
    with pytest.raises(UserError, match="split"):
        page_of("shapes", 1, 0, "dev")
    with pytest.raises(UserError, match="negative"):
        page_of("shapes", 1, -1)


def test_templates_are_lower_case() -> None:
    templates = [*documents.TEMPLATES, *transcription.TEMPLATES, *scene_text.TEMPLATES, *charts.VALUE_TEMPLATES]
    templates += [*charts.EXTREME_TEMPLATES, *shapes.COLOUR_TEMPLATES, *shapes.COUNT_TEMPLATES]
    templates += [*shapes.EXISTENCE_TEMPLATES, *backgrounds.TEMPLATES]
    assert all(template == template.lower() for template in templates)
