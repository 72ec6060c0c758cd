"""Watching a stream: frames go in one by one at constant cost and memory, questions branch off without disturbing it.

    session = StreamingSession(model, processor)
    for frame in frames:
        session.push(frame)
    session.ask("What does the sign say?")

The stream is one long video in a user's message: its frames' visual tokens follow each other, temporal positions go on
with time, rows and columns begin anew with each frame, as `positions` lays out a video. Each frame, tower and decoder,
is one CUDA graph on an accelerator.
"""

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError
from .fast.vision import FastVisionTower
from .graph import GraphedDecoder, Replay
from .positions import time_position

BEFORE = "<|im_start|>user\n<|vision_start|>"
AFTER = "<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"


class StreamingSession:
    """One stream that a model watches.

    Args:
        model: a `HybridVLForConditionalGeneration` on its device, in evaluation mode.
        processor: its processor.
        frames_per_second: of the stream: how far temporal positions go on from frame to frame.
        max_length: tokens that layers of full attention have room for, frames and answers together; None without such
            layers. Their cost grows with the stream: they are here to be compared with.
        use_graph: False runs the same code without graphs.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        frames_per_second: float = 1.0,
        max_length: int | None = None,
        use_graph: bool = True,
    ) -> None:
        if not frames_per_second > 0:
            raise UserError(f"frames_per_second must be above 0, not {frames_per_second}")
        self.model, self.processor = model, processor
        self.frames = 0
        self.decoder = GraphedDecoder(model, max_length=max_length, use_graph=use_graph)
        self.device = self.decoder.cache.seen.device
        self.seconds = 1 / frames_per_second
        self.grid: tuple[int, int] | None = None
        self.tower: FastVisionTower | None = None
        self._frame = Replay(self._run_frame, self.decoder.snapshot, use_graph)
        self._start()

    @property
    def cache_bytes(self) -> int:
        """Bytes that the stream is remembered in."""
        return self.decoder.cache.nbytes()

    def reset(self) -> None:
        """Begin a new stream; graphs stay."""
        self.decoder.reset()
        self._start()

    def push(self, frame: Image.Image) -> None:
        """Watch one frame.

        Raises:
            UserError: for a frame of another size than the first, or no room left for full attention.
        """
        seen = self.processor.image_processor(images=[frame.convert("RGB")], return_tensors="pt")
        _, rows, columns = seen["image_grid_thw"][0].tolist()
        self.push_patches(seen["pixel_values"].to(self.device), (rows, columns))

    def push_patches(self, patches: Tensor, grid: tuple[int, int]) -> None:
        """Watch one frame that is cut into patches ``[rows · columns, channels · 2 · 14 · 14]`` already.

        Raises:
            UserError: as `push`.
        """
        if self.tower is None:
            self._lay_out(grid)
        elif grid != self.grid:
            raise UserError(
                f"the stream's frames have {self.grid} patches and this one {grid}; scale all frames to one size"
            )
        tokens = self.places.shape[1]
        self.decoder.cache.check_room(tokens)
        # Positions in time go on; adding a Python number is one small kernel outside the graph.
        places = self.places.clone()
        places[0] += self._time(self.frames)
        self._frame(patches[None], places[:, None])
        self.decoder.cache.length += tokens
        self.frames += 1

    def ask(self, question: str, max_new_tokens: int = 64) -> str:
        """Answer a question about the stream so far, greedily; the stream then goes on as if it had not been asked.

        Raises:
            UserError: before the first frame, or if full attention has no room for the answer.
        """
        if self.tower is None or self.grid is None:
            raise UserError("there is nothing to ask about before the first frame; push one")
        back = self.decoder.snapshot()
        try:
            ids = self._ids(AFTER.format(question=question))
            last = max(self._time(self.frames - 1), int(self.places[1:].max()) - self.first)
            self.decoder.position_offset.fill_(self.first + last + 1 - self.decoder.cache.length)
            logits = self.decoder.prefill(ids)
            end = self.processor.tokenizer.convert_tokens_to_ids(END)
            written: list[int] = []
            while len(written) < max_new_tokens:
                token = logits.argmax(dim=-1)
                if int(token) == end:
                    break
                written.append(int(token))
                if len(written) < max_new_tokens:
                    logits = self.decoder.decode(token[:, None])
        finally:
            back()
        return self.processor.tokenizer.decode(written, skip_special_tokens=True)

    def _start(self) -> None:
        self.frames = 0
        before = self._ids(BEFORE)
        self.first = before.shape[1]
        self.decoder.prefill(before)

    def _ids(self, text: str) -> Tensor:
        return self.processor.tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"].to(
            self.device
        )

    def _time(self, frame: int) -> int:
        return time_position(frame, self.seconds, self.model.config.vision_config.tokens_per_second)

    def _lay_out(self, grid: tuple[int, int]) -> None:
        """Make the tower for this size of frame, and the positions ``[3, tokens]`` of the first one."""
        self.tower = FastVisionTower(self.model.model.visual, grid)
        self.grid = grid
        merge = self.model.config.vision_config.spatial_merge_size
        rows, columns = torch.meshgrid(torch.arange(grid[0] // merge), torch.arange(grid[1] // merge), indexing="ij")
        places = torch.stack([torch.zeros_like(rows), rows, columns]).flatten(1) + self.first
        self.places = places.to(self.device)

    def _run_frame(self, patches: Tensor, positions: Tensor) -> Tensor:
        if self.tower is None:
            raise RuntimeError("a frame runs after its size is laid out")
        tokens = self.tower(patches).to(self.decoder.decoder.head.dtype)
        return self.decoder.decoder.last_hidden(tokens, positions, self.decoder.cache)
