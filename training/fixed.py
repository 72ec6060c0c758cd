"""Training steps of one shape: on an accelerator each is one CUDA graph, and several models train in one process.

A small model's step is thousands of small kernels, and launching them takes longer than running them. So everything
that a step needs lies on the device (the pages, their order, AdamW's state), pages are padded to the longest one, and
the whole step, from page numbers to new weights, is captured once and replayed. A run is a generator that launches one
step and yields, so that one process keeps the graphs of several runs, each on a stream of its own, busy together.

What lies between the matrix products of a decoder layer is compiled to a few kernels first: launched one by one, these
operations read and write every activation several times, which is most of a small model's step.

Without an accelerator the same step runs eagerly: it computes what `loop.train` computes on the same pages.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.mixers.base import TokenMixer
from ..records import RunFolder
from .batch import IGNORED
from .checkpoint import FILE_NAME, load_checkpoint, save_checkpoint
from .clock import Clock
from .features import PageSet
from .loop import FLOAT32, TrainArguments, TrainResult, learning_rate_at, parameter_groups, set_product_precision

MULTIPLE = 32
"""Sets are padded to a multiple of this many tokens, so that few lengths are compiled and chunks are whole."""

MOST_GRAPHS = 512
"""Of one process: kinds of layers times widths and lengths. torch gives up after eight by default."""

WARM_UP_STEPS = 3
"""Steps before the capture, as torch asks for; what they changed is put back."""

Run = Generator[None, None, TrainResult]


class FixedBatch(NamedTuple):
    """Pages side by side, padded to the longest of their set, with A places for answer tokens.

    Attributes:
        input_ids: ``[B, T]``.
        position_ids: ``[3, B, T]``.
        features: ``[B, T, D]``, what the vision tower made of an image token; anything elsewhere.
        seen: ``[B, T]``, which are image tokens.
        slots: ``[B, A]``, columns of the answer tokens, the first of which is 1 or later.
        targets: ``[B, A]``, the tokens there.
        learnt: ``[B, A]``, which of the places hold an answer token.
        tokens: how many tokens the batch has without padding, a scalar.
    """

    input_ids: Tensor
    position_ids: Tensor
    features: Tensor
    seen: Tensor
    slots: Tensor
    targets: Tensor
    learnt: Tensor
    tokens: Tensor


class FixedPages:
    """A page set whose batches have one shape, and are gathered without a look at any value.

    Attributes:
        first: ``[pages]``, answer tokens of each page's first question, its end-of-turn token included.
    """

    def __init__(self, pages: PageSet, end_token_id: int) -> None:
        self.pages = pages
        labels = pages.tensors["labels"]
        device = labels.device
        self.columns = torch.arange(-(-int(pages.lengths.max()) // MULTIPLE) * MULTIPLE, device=device)
        places = (labels != IGNORED).nonzero().squeeze(1)
        page = torch.bucketize(places, pages.starts[1:], right=True)
        counts = torch.bincount(page, minlength=len(pages))
        before = counts.cumsum(0) - counts
        rank = torch.arange(len(places), device=device) - before[page]
        self.counts = counts
        self.numbers = torch.arange(int(counts.max()), device=device)
        # A place that holds no answer token points at column 1: it is computed and never counted.
        self.slots = torch.ones(len(pages), len(self.numbers), dtype=torch.long, device=device)
        self.slots[page, rank] = places - pages.starts[page]
        ends = torch.full_like(self.slots, len(self.numbers))
        closing = labels[places] == end_token_id
        ends[page[closing], rank[closing]] = rank[closing]
        self.first = ends.min(dim=1).values + 1

    def __len__(self) -> int:
        return len(self.pages)

    def order(self, seed: int, batch_size: int) -> Callable[[int], Tensor]:
        """The set's own order: ``step → page indices [B]``."""
        return self.pages.order(seed, batch_size)

    def batch(self, indices: Tensor) -> FixedBatch:
        """The pages ``indices`` ``[B]``."""
        tensors, starts = self.pages.tensors, self.pages.starts[indices].unsqueeze(1)
        lengths = self.pages.lengths[indices].unsqueeze(1)
        real = self.columns < lengths
        places = (starts + self.columns) * real
        slots = self.slots[indices]
        return FixedBatch(
            input_ids=tensors["input_ids"][places],
            position_ids=tensors["position_ids"][:, places] * real,
            features=tensors["features"][self.pages.feature_of[places]],
            seen=self.pages.is_image[places] & real,
            slots=slots,
            targets=tensors["labels"][starts + slots].clamp(min=0),
            learnt=self.numbers < self.counts[indices].unsqueeze(1),
            tokens=lengths.sum(),
        )


def answer_logits(model: Any, batch: FixedBatch) -> Tensor:
    """Logits ``[B, A, vocabulary]`` of what stands at each answer token's place, given the true tokens before it."""
    embeds = model.get_input_embeddings()(batch.input_ids)
    embeds = torch.where(batch.seen.unsqueeze(-1), batch.features.to(embeds.dtype), embeds)
    hidden = model.model.language_model(inputs_embeds=embeds, position_ids=batch.position_ids, use_cache=False)[0]
    asked = (batch.slots - 1).unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
    return model.lm_head(hidden.gather(1, asked)).float()


def answer_loss(model: Any, batch: FixedBatch) -> Tensor:
    """Mean cross-entropy of the answer tokens, in nats: `batch.AnswerLoss` over its number of terms."""
    logits = answer_logits(model, batch)
    losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
    learnt = batch.learnt.flatten()
    return (losses * learnt).sum() / learnt.sum()


@torch.no_grad()
def exact_answers(model: Any, pages: FixedPages, batch_size: int = 256) -> Tensor:
    """Which pages' first question is answered to the letter, ``[pages]`` booleans.

    Greedy decoding writes the true answer exactly if every token of it is the likeliest after the true tokens before
    it; so one pass over all of them says what decoding one by one would.
    """
    found = []
    every = torch.arange(len(pages), device=pages.first.device)
    for indices in every.split(batch_size):
        batch = pages.batch(indices)
        right = answer_logits(model, batch).argmax(-1) == batch.targets
        found.append((right | (pages.numbers >= pages.first[indices].unsqueeze(1))).all(dim=1))
    return torch.cat(found)


def can_compile() -> bool:
    """Whether what torch compiles with for an accelerator is there: Triton, and a C compiler for what launches it."""
    compilers = (os.environ.get("CC", "cc"), "gcc", "clang")
    return find_spec("triton") is not None and any(shutil.which(name) for name in compilers)


def compile_layers(model: Any) -> None:
    """Compile the decoder's layers, each kind of layer once for every shape; what cannot be compiled is an error."""
    limits = torch._dynamo.config
    limits.recompile_limit = max(MOST_GRAPHS, limits.recompile_limit)
    limits.accumulated_recompile_limit = max(MOST_GRAPHS, limits.accumulated_recompile_limit)
    for layer in model.model.language_model.layers:
        layer.compile(fullgraph=True, dynamic=False)


def uncompiled() -> AbstractContextManager[Any]:
    """Runs the layers as they are: scoring meets many shapes a few times each, and compiling them would take longer."""
    return torch.compiler.set_stance("force_eager")


class Samples(Protocol):
    """What is trained on: numbered samples whose batches have one shape and look at no value."""

    def order(self, seed: int, batch_size: int) -> Callable[[int], Tensor]:
        """``step → indices [B]``."""
        ...

    def batch(self, indices: Tensor) -> FixedBatch:
        """The samples ``indices`` ``[B]``."""
        ...


class FixedTraining:
    """One run: a model, its pages and AdamW; `run` trains it.

    Args:
        model: on its device; its vision tower is frozen, its mixers take the torch backend (kernels that compile or
            tune themselves would do so within the capture).
        pages: on the same device, or videos.
        arguments: hyper-parameters; precision must be "no" or "tf32". ``length_groups`` does not matter: all pages are
            padded.
        folder: gets ``metrics.jsonl`` and the checkpoint.
        data_key: names the pages.
        probe: called with the number of steps done, now and then.
        probe_every: steps between two calls.
        on_step: gets the rows of metrics.

    Attributes:
        compiled: whether the decoder's layers are.
    """

    def __init__(
        self,
        model: Any,
        pages: Samples,
        arguments: TrainArguments,
        folder: RunFolder,
        data_key: str,
        *,
        probe: Callable[[int], None] = lambda step: None,
        probe_every: int = 100,
        on_step: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        if arguments.precision not in FLOAT32:
            raise ValueError(f"steps of one shape train in float32, not in precision {arguments.precision}")
        self.model, self.pages, self.arguments, self.folder = model, pages, arguments, folder
        self.probe, self.probe_every, self.on_step = probe, probe_every, on_step
        self.data_key = f"{data_key}-{arguments.seed}-{arguments.batch_size}-fixed"
        self.order = pages.order(arguments.seed, arguments.batch_size)
        model.model.visual.requires_grad_(False)
        for module in model.modules():
            if isinstance(module, TokenMixer):
                module.backend = "torch"
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        device = self.parameters[0].device
        self.rate = torch.tensor(0.0, device=device)
        self.captured = device.type == "cuda"
        set_product_precision(arguments.precision)
        self.compiled = self.captured and can_compile()
        if self.compiled:
            compile_layers(model)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, arguments.weight_decay),
            lr=self.rate,
            betas=arguments.betas,
            fused=True,
            capturable=self.captured,
        )
        self.indices = torch.zeros(arguments.batch_size, dtype=torch.long, device=device)
        self.stream = torch.cuda.Stream(device) if self.captured else None

    def run(self) -> Run:
        """Train to the last step, from the folder's checkpoint if there is one; yields after launching each step."""
        path, arguments = self.folder.path / FILE_NAME, self.arguments
        self.model.train()
        step = load_checkpoint(path, self.model, self.optimizer, self.data_key) if path.exists() else 0
        for group in self.optimizer.param_groups:
            # Loading copies the groups, and a captured step reads this very tensor.
            group["lr"] = self.rate
        launch = self._capture() if self.captured else self._step
        clock = Clock(
            self.folder,
            steps=arguments.steps,
            log_every=arguments.log_every,
            diverged_at=arguments.diverged_at,
            rate_at=partial(learning_rate_at, arguments=arguments),
            stage="",
            steps_before=0,
            step=step,
            on_step=self.on_step,
        )
        saved = time.monotonic()
        while step < arguments.steps:
            with self._on_stream():
                self.rate.fill_(learning_rate_at(step, arguments))
                self.indices.copy_(self.order(step))
                loss, norm, tokens = (value.clone() for value in launch())
                step += 1
                means = clock.tick(step, loss, norm, tokens)
                if means is not None and (
                    not means.loss < arguments.diverged_at or not math.isfinite(means.gradient_norm)
                ):
                    return TrainResult("diverged", step, arguments.diverged_at, clock.seconds, clock.tokens)
                if step % self.probe_every == 0 or step == arguments.steps:
                    self.model.eval()
                    with uncompiled():
                        self.probe(step)
                    self.model.train()
                pause = arguments.checkpoint_every_seconds
                if pause is not None and means is not None and time.monotonic() - saved > pause:
                    save_checkpoint(path, self.model, self.optimizer, step, self.data_key)
                    saved = time.monotonic()
            yield
        self.model.eval()
        return TrainResult("ok", step, clock.last_loss, clock.seconds, clock.tokens)

    def _step(self) -> tuple[Tensor, Tensor, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        batch = self.pages.batch(self.indices)
        loss = answer_loss(self.model, batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.arguments.clip)
        self.optimizer.step()
        return loss.detach(), norm, batch.tokens

    def _on_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def _capture(self) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
        """Capture one step; what replays it. Weights and AdamW's state are afterwards what they were before."""
        if self.stream is None:
            raise RuntimeError("a step is captured on an accelerator")
        self.stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self.stream):
            weights = [parameter.detach().clone() for parameter in self.parameters]
            moments = {
                parameter: {name: value.clone() for name, value in state.items()}
                for parameter, state in self.optimizer.state.items()
            }
            for _ in range(WARM_UP_STEPS):
                self._step()
            self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        # Other runs of this process may launch meanwhile: only this thread's calls are held to the rules of capture.
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            outputs = self._step()
        with torch.cuda.stream(self.stream), torch.no_grad():
            for parameter, value in zip(self.parameters, weights, strict=True):
                parameter.copy_(value)
            for parameter, state in self.optimizer.state.items():
                for name, tensor in state.items():
                    before = moments.get(parameter, {}).get(name)
                    # A run that begins has no state yet: its moments and its count of steps are zero.
                    tensor.zero_() if before is None else tensor.copy_(before)

        def replay() -> tuple[Tensor, Tensor, Tensor]:
            graph.replay()
            return outputs

        return replay


def side_by_side(runs: Iterable[Run]) -> list[TrainResult]:
    """Run generators in turn, a step each, until all have ended; their results in order."""
    waiting = dict(enumerate(runs))
    results: dict[int, TrainResult] = {}
    while waiting:
        for number, run in list(waiting.items()):
            try:
                next(run)
            except StopIteration as end:
                results[number] = end.value
                del waiting[number]
    return [results[number] for number in sorted(results)]
