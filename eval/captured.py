"""Answers by captured decode steps: one question at a time, all of them by one decoder and its graph.

An eager step of a small model, or of a large one at one sequence, mostly waits for its launches; a captured one does
not. Prompts run through the model as it is. Where layers attend to everything the decoder has room for a number of
tokens, and a longer question gets a larger decoder.
"""

from typing import Any

from ..models.graph import GraphedDecoder

LEAST_ROOM = 2048


class CapturedSteps:
    """The decoder of a model for one sequence, made at the first question.

    Args:
        model: a `HybridVLForConditionalGeneration` in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.keeps_everything = "full_attention" in model.config.text_config.layer_types
        self.room = LEAST_ROOM
        self._decoder: GraphedDecoder | None = None

    def decoder(self, tokens: int) -> GraphedDecoder:
        """A decoder with room for so many tokens, prompt and answer together."""
        if self.keeps_everything and tokens > self.room:
            # Twice as much, so that a growing set of prompts is not captured anew for each.
            self.room = max(tokens, 2 * self.room)
            self._decoder = None
        if self._decoder is None:
            self._decoder = GraphedDecoder(self.model, max_length=self.room if self.keeps_everything else None)
        return self._decoder
