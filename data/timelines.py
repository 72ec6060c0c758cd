"""What a synthetic video shows and when, and what is asked about it.

A video is a row of moments of a library. Among many that matter to no question stand a few captions, each key once, and
a few events. Three kinds of questions, each about the whole of the video:

    needle   the value beside a key, at a known depth: 0 is the first moment, 1 the last
    count    how often a shape appeared
    order    which of two keys appeared first

How many captions and events there are does not depend on the length: a longer video is more to see and wait through,
not more to remember.
"""

import random
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator

from ..errors import UserError
from .library import LibrarySpec
from .moving import EVENTS, FRAMES, KEYS

FACTS = 8
"""Captions of a video."""

COUNTS = (1, 2, 3, 4)
"""How often an event may happen; each as likely."""

PAIRS = 2
"""Questions of order."""

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where captions stand in videos that measure depth, and which of them are asked about."""

KINDS = ("needle", "count", "order")
FEWEST = FACTS
"""Moments that a video must have to hold its captions, and so its events."""


class VideoSetSpec(BaseModel):
    """Which videos a set holds: each a function of the specification and its number.

    Attributes:
        library: what they are made of.
        videos: how many.
        frames: fewest and most of a video; lengths between them are as likely by their logarithm.
        seed: of the set.
        at_depths: whether captions stand at `DEPTHS` and only these are asked about; else anywhere, and all are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    library: LibrarySpec
    videos: PositiveInt
    frames: tuple[PositiveInt, PositiveInt]
    seed: int = 0
    at_depths: bool = False

    @model_validator(mode="after")
    def _long_enough(self) -> "VideoSetSpec":
        fewest, most = self.frames
        if fewest % FRAMES or most % FRAMES or fewest > most:
            raise UserError(
                f"{fewest} to {most} frames: the vision tower joins {FRAMES}, so give even numbers, in order"
            )
        if fewest < FEWEST * FRAMES:
            raise UserError(
                f"a video of {fewest} frames is shorter than its {FACTS} captions of {FRAMES} frames; "
                f"ask for {FEWEST * FRAMES} frames or more"
            )
        return self

    @property
    def split(self) -> str:
        """The split of its library."""
        return self.library.split


@dataclass(frozen=True)
class VideoQuestion:
    """One question about a video.

    Attributes:
        kind: one of `KINDS`.
        text: as it is put.
        answer: the only right one.
        guess: how likely one who names any value, count or key at hand is right.
        depth: where in the video the answer stands, 0 to 1; None where it stands at several places.
    """

    kind: str
    text: str
    answer: str
    guess: float
    depth: float | None = None


@dataclass(frozen=True)
class Timeline:
    """The moments of a video, by their numbers in the library, and the questions about it."""

    moments: np.ndarray
    questions: tuple[VideoQuestion, ...]

    @property
    def frames(self) -> int:
        """Frames of the video."""
        return len(self.moments) * FRAMES


def timeline(spec: VideoSetSpec, index: int) -> Timeline:
    """Video ``index`` of a set."""
    rng = random.Random(f"video|{spec.split}|{spec.seed}|{spec.frames}|{spec.at_depths}|{index}")
    fewest, most = (frames // FRAMES for frames in spec.frames)
    length = min(most, int(fewest * ((most + 1) / fewest) ** rng.random()))
    depths = [round(depth * (length - 1)) for depth in DEPTHS] if spec.at_depths else []
    places = depths + rng.sample([place for place in range(length) if place not in depths], FACTS - len(depths))
    keys = rng.sample(range(len(KEYS)), FACTS)
    counts = [rng.choice(COUNTS) for _ in EVENTS]
    happens = dict.fromkeys(range(length), 0)
    kinds = [event for event, count in enumerate(counts, start=1) for _ in range(count)]
    happens |= dict(zip(rng.sample(range(length), len(kinds)), kinds, strict=True))
    moments = _background(rng, spec.library, length)
    for place, event in happens.items():
        if event:
            moments[place] = spec.library.event(event, rng.randrange(spec.library.events))
    values = {}
    for place, key in zip(places, keys, strict=True):
        moments[place] = spec.library.caption(key, happens[place], rng.randrange(spec.library.captions))
        caption = spec.library.written(int(moments[place]))
        if caption is not None:
            values[key] = caption.value
    depth_of = DEPTHS if spec.at_depths else tuple(place / (length - 1) for place in places)
    questions = [
        _needle(KEYS[key], list(values.values()), values[key], depth)
        for key, depth in zip(keys[: len(depth_of)], depth_of, strict=True)
    ]
    questions += [
        VideoQuestion("count", f"how many {event}s are there?", str(count), 1 / len(COUNTS))
        for event, count in zip(EVENTS, counts, strict=True)
    ]
    stood = dict(zip(keys, places, strict=True))
    drawn = rng.sample(keys, 2 * PAIRS)
    for pair in zip(drawn[::2], drawn[1::2], strict=True):
        first = KEYS[min(pair, key=stood.__getitem__)]
        text = f"which is first, {KEYS[pair[0]]} or {KEYS[pair[1]]}?"
        questions.append(VideoQuestion("order", text, first, 1 / 2))
    # In any order: the place of a question among the turns must not tell anything.
    return Timeline(moments, tuple(questions if spec.at_depths else rng.sample(questions, len(questions))))


def _needle(key: str, values: list[str], value: str, depth: float) -> VideoQuestion:
    return VideoQuestion("needle", f"what is next to {key}?", value, values.count(value) / len(values), depth)


def _background(rng: random.Random, library: LibrarySpec, length: int) -> np.ndarray:
    """Scenes one after another, each from a moment of its own on."""
    moments: list[int] = []
    while len(moments) < length:
        scene, first = rng.randrange(library.scenes), rng.randrange(library.scene_moments)
        moments += [library.scene(scene, number) for number in range(first, library.scene_moments)]
    return np.array(moments[:length])
