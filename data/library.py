"""A library of moments: which it holds, what stands on each, and how each is drawn.

captions   by key, by what else happens (nothing that counts, or an event), several of each
events     without a caption, by event, several of each
scenes     runs of moments of one camera in which nothing happens that counts
"""

import random

import numpy as np
from pydantic import BaseModel, ConfigDict, PositiveInt

from .moving import DISTRACTORS, EVENTS, KEYS, Caption, draw_moment, random_caption, random_pan


class LibrarySpec(BaseModel):
    """What a library holds.

    Attributes:
        split: train, validation or test: each has moments of its own.
        seed: of the drawing.
        captions: for each key and each event, and none.
        events: without a caption, of each event.
        scenes: runs in which nothing counts.
        scene_moments: of a run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: str
    seed: int = 0
    captions: PositiveInt = 64
    events: PositiveInt = 256
    scenes: PositiveInt = 128
    scene_moments: PositiveInt = 8

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Moments with a caption, with an event alone, and of scenes."""
        captions = len(KEYS) * (1 + len(EVENTS)) * self.captions
        return captions, len(EVENTS) * self.events, self.scenes * self.scene_moments

    def caption(self, key: int, event: int, number: int) -> int:
        """The moment with ``KEYS[key]``, and ``EVENTS[event - 1]`` or nothing at 0."""
        return (key * (1 + len(EVENTS)) + event) * self.captions + number

    def event(self, event: int, number: int) -> int:
        """A moment in which ``EVENTS[event - 1]`` happens."""
        return self.sizes[0] + (event - 1) * self.events + number

    def scene(self, scene: int, number: int) -> int:
        """Moment ``number`` of a scene."""
        return sum(self.sizes[:2]) + scene * self.scene_moments + number

    def written(self, moment: int) -> Caption | None:
        """The caption of a moment."""
        if moment >= self.sizes[0]:
            return None
        rng = random.Random(f"caption|{self.split}|{self.seed}|{moment}")
        return random_caption(rng, KEYS[moment // ((1 + len(EVENTS)) * self.captions)])

    def draw(self, moment: int) -> np.ndarray:
        """The frames of a moment, ``[2, height, width, 3]``: a function of the specification and its number."""
        rng = random.Random(f"moment|{self.split}|{self.seed}|{moment}")
        caption = self.written(moment)
        captions, events, _ = self.sizes
        if moment < captions + events:
            event = moment // self.captions % (1 + len(EVENTS)) if caption else 1 + (moment - captions) // self.events
            shape = EVENTS[event - 1] if event else rng.choice((None, *DISTRACTORS))
            return draw_moment(rng, random_pan(rng, 1), 0, shape, caption)
        scene, step = divmod(moment - captions - events, self.scene_moments)
        pan = random_pan(random.Random(f"scene|{self.split}|{self.seed}|{scene}"), self.scene_moments)
        return draw_moment(rng, pan, step, rng.choice((None, *DISTRACTORS)))
