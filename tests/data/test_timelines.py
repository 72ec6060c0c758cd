"""What videos show against what is asked about them, read off the moments themselves."""

from collections import Counter

import pytest
from infinitevl_bench.data.library import LibrarySpec
from infinitevl_bench.data.moving import EVENTS
from infinitevl_bench.data.timelines import COUNTS, DEPTHS, FACTS, PAIRS, Timeline, VideoSetSpec, timeline
from infinitevl_bench.errors import UserError

LIBRARY = LibrarySpec(split="test", captions=2, events=3, scenes=3)
SHORT = VideoSetSpec(library=LIBRARY, videos=400, frames=(16, 32))
LONG = VideoSetSpec(library=LIBRARY, videos=50, frames=(1024, 1024), at_depths=True)


def shown(video: Timeline) -> tuple[dict[str, tuple[int, str]], Counter[str]]:
    """Key → when it stands there and its value; and how often each event happens: from what the library draws."""
    captions: dict[str, tuple[int, str]] = {}
    events: Counter[str] = Counter()
    written, alone, _ = LIBRARY.sizes
    for place, moment in enumerate(map(int, video.moments)):
        caption = LIBRARY.written(moment)
        if caption is not None:
            assert caption.key not in captions
            captions[caption.key] = (place, caption.value)
            event = moment // LIBRARY.captions % 3
            events.update([EVENTS[event - 1]] if event else [])
        elif moment < written + alone:
            events.update([EVENTS[(moment - written) // LIBRARY.events]])
    return captions, events


@pytest.mark.parametrize("spec", [SHORT, LONG], ids=["short", "long"])
def test_every_answer_is_what_the_video_shows(spec: VideoSetSpec) -> None:
    for index in range(spec.videos):
        video = timeline(spec, index)
        captions, events = shown(video)
        assert len(captions) == FACTS
        kinds = Counter(question.kind for question in video.questions)
        assert kinds == {"needle": len(DEPTHS) if spec.at_depths else FACTS, "count": len(EVENTS), "order": PAIRS}
        for question in video.questions:
            if question.kind == "needle":
                place, value = captions[question.text[-2]]
                assert question.answer == value
                assert question.depth == pytest.approx(place / (len(video.moments) - 1), abs=1 / 1000)
                values = [other for _, other in captions.values()]
                assert question.guess == values.count(value) / FACTS
            elif question.kind == "count":
                assert question.answer == str(events[question.text.split()[2].removesuffix("s")])
            else:
                pair = question.text[-7], question.text[-2]
                assert pair[0] != pair[1]
                assert question.answer == min(pair, key=lambda key: captions[key][0])


def test_lengths_are_those_asked_for_and_depths_stand_where_they_should() -> None:
    lengths = Counter(timeline(SHORT, index).frames for index in range(SHORT.videos))
    assert set(lengths) == set(range(16, 33, 2))
    assert min(lengths.values()) > 5
    video = timeline(LONG, 0)
    assert video.frames == 1024
    assert [question.depth for question in video.questions if question.kind == "needle"] == list(DEPTHS)


def test_nobody_can_guess() -> None:
    """Answers, and the places of the questions among the turns, are as likely one as the other."""
    videos = [timeline(SHORT, index) for index in range(SHORT.videos)]
    counts = Counter(q.answer for video in videos for q in video.questions if q.kind == "count")
    assert set(counts) == set(map(str, COUNTS))
    assert max(counts.values()) < 1.4 * min(counts.values())
    orders = [q for video in videos for q in video.questions if q.kind == "order"]
    first_named = sum(q.answer == q.text[-7] for q in orders) / len(orders)
    assert 0.4 < first_named < 0.6
    firsts = Counter(video.questions[0].kind for video in videos)
    assert firsts["needle"] > firsts["order"] > 10
    assert firsts["count"] > 10
    depths = [q.depth for video in videos for q in video.questions if q.kind == "needle"]
    assert 0.45 < sum(depth or 0 for depth in depths) / len(depths) < 0.55


def test_a_video_is_a_function_of_its_number() -> None:
    first, again = timeline(SHORT, 3), timeline(SHORT, 3)
    assert first.moments.tolist() == again.moments.tolist()
    assert first.questions == again.questions
    other = timeline(SHORT.model_copy(update={"seed": 1}), 3)
    assert other.questions != first.questions


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ((14, 32), "a video of 14 frames is shorter than its 8 captions of 2 frames; ask for 16 frames or more"),
        ((33, 64), "give even numbers"),
        ((64, 32), "in order"),
    ],
)
def test_frames_that_make_no_video_are_refused(frames: tuple[int, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        VideoSetSpec(library=LIBRARY, videos=1, frames=frames)
