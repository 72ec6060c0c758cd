"""CUDA graphs of a decode step and of a prefill chunk, to be replayed at any length.

An eager decode step of the 4B model launches some two thousand kernels of a few microseconds; the host cannot launch
them as fast as they run. A graph launches them all at once, but replays them as they were captured: the same addresses,
the same numbers. Whatever changes from step to step must be read from the device (see `fast.slots`). The released code
captures window bounds as Python numbers; its graph then attends for ever to what was there at capture.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .fast.decoder import FastDecoder
from .fast.slots import FixedCache

WARMUPS = 3
"""Eager runs before a capture: kernels are compiled and tuned in them."""


class Replay:
    """A function of tensors of fixed shape, captured at its first call and replayed after.

    Args:
        function: takes tensors and returns one tensor; reads and writes nothing else but tensors at fixed addresses.
        undo: takes back what one run of the function changed, such as the state of a cache.
        use_graph: False runs the function itself, every time, as it is done where there is no accelerator.
    """

    def __init__(
        self, function: Callable[..., Tensor], undo: Callable[[], Callable[[], None]], use_graph: bool
    ) -> None:
        self.function = function
        self.undo = undo
        self.use_graph = use_graph
        self.graph: Any = None
        self.inputs: tuple[Tensor, ...] = ()
        self.output: Tensor | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run; the result of a graph is overwritten by the next call."""
        # Triton launches and graphs are captured on the current device, which need not be the model's.
        with torch.cuda.device_of(inputs[0]):
            return self._run(inputs)

    def _run(self, inputs: tuple[Tensor, ...]) -> Tensor:
        if not (self.use_graph and inputs[0].device.type == "cuda"):
            return self.function(*inputs)
        if self.graph is None:
            self._capture(inputs)
        for held, given in zip(self.inputs, inputs, strict=True):
            held.copy_(given)
        self.graph.replay()
        if self.output is None:
            raise RuntimeError("a graph without an output was captured")
        return self.output

    def _capture(self, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = tuple(tensor.clone() for tensor in inputs)
        take_back = self.undo()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUPS):
                self.function(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.output = self.function(*self.inputs)
        self.graph = graph
        take_back()


class GraphedDecoder:
    """Decoding and prefill of a hybrid at constant cost a token, by CUDA graphs where there is an accelerator.

    Args:
        model: a `HybridVLForConditionalGeneration` on its device, in evaluation mode.
        batch_size: sequences B.
        max_length: tokens that layers of full attention have room for; None where there is no such layer.
        chunk: tokens of a prefill chunk that is captured; None captures none.
        use_graph: False runs the same code without graphs.
    """

    def __init__(
        self,
        model: Any,
        batch_size: int = 1,
        max_length: int | None = None,
        chunk: int | None = None,
        use_graph: bool = True,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"a batch of {batch_size} sequences is none; use 1 or more")
        if chunk is not None and chunk < 2:
            raise UserError(f"a prefill chunk of {chunk} tokens is none; use 2 or more")
        self.model = model
        self.decoder = FastDecoder(model)
        self.embed = model.get_input_embeddings()
        self.cache = FixedCache(model.model.language_model, batch_size, max_length)
        self.batch_size = batch_size
        self.chunk = chunk
        self.position_offset = torch.zeros(batch_size, dtype=torch.int64, device=self.cache.seen.device)
        self._decode = Replay(self._run_token, self.snapshot, use_graph)
        self._prefill = Replay(self._run_chunk, self.snapshot, use_graph)

    def reset(self) -> None:
        """Forget everything seen; graphs and addresses stay."""
        self.cache.reset()
        self.position_offset.zero_()

    def set_length(self, tokens: int) -> None:
        """Count ``tokens`` as seen without running them, whatever the cache holds: for measurements at long context."""
        self.cache.set_length(tokens)

    def decode(self, input_ids: Tensor) -> Tensor:
        """One step: ids ``[B, 1]`` of the newest tokens → logits of the next ``[B, vocabulary]``, which the next
        call overwrites.

        Raises:
            UserError: for ids of another shape, or if layers of full attention have no room left.
        """
        if tuple(input_ids.shape) != (self.batch_size, 1):
            raise UserError(
                f"a step takes ids [{self.batch_size}, 1], not {list(input_ids.shape)}; make the decoder for that "
                "batch, and prefill what is longer"
            )
        self.cache.check_room(1)
        logits = self._decode(input_ids)
        self.cache.length += 1
        return logits

    def prefill(self, embeddings: Tensor, positions: Tensor | None = None) -> Tensor:
        """Run any number of tokens, in captured chunks and then the rest as it is.

        Args:
            embeddings: ``[B, T, D]``, or ids ``[B, T]``.
            positions: ``[3, B, T]``; those of text that goes on from what was seen if None.

        Returns:
            Logits of the last token ``[B, vocabulary]``, which the next call may overwrite.

        Raises:
            UserError: for another batch, if there is no token, or layers of full attention have no room left.
        """
        if embeddings.shape[0] != self.batch_size:
            raise UserError(
                f"this decoder holds {self.batch_size} sequences, not {embeddings.shape[0]}; make one for that batch"
            )
        if embeddings.ndim == 2:
            embeddings = self.embed(embeddings).detach()
        T = embeddings.shape[1]
        if T == 0:
            raise UserError("there is no token to prefill")
        self.cache.check_room(T)
        if positions is None:
            positions = self._next_positions(T)
        hidden = embeddings
        for start in range(0, T, self.chunk or T):
            piece = embeddings[:, start : start + (self.chunk or T)]
            run = self._prefill if piece.shape[1] == self.chunk else self._run_chunk
            hidden = run(piece, positions[:, :, start : start + piece.shape[1]])
            self.cache.length += piece.shape[1]
        return self.decoder.logits(hidden)

    def _next_positions(self, T: int) -> Tensor:
        """``[3, B, T]``: text positions that go on from what was seen."""
        ahead = torch.arange(T, device=self.cache.seen.device) + self.cache.seen
        return (ahead + self.position_offset[:, None]).expand(3, -1, -1)

    def _run_token(self, input_ids: Tensor) -> Tensor:
        hidden = self.decoder.last_hidden(self.embed(input_ids).detach(), self._next_positions(1), self.cache)
        return self.decoder.logits(hidden)

    def _run_chunk(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        return self.decoder.last_hidden(embeddings, positions, self.cache)

    def snapshot(self) -> Callable[[], None]:
        """Remember everything seen; calling the result goes back to it."""
        held, offset = self.cache.snapshot(), self.position_offset.clone()

        def take_back() -> None:
            self.cache.restore(held)
            self.position_offset.copy_(offset)

        return take_back
