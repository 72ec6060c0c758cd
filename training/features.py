"""A training set whose pictures a frozen vision tower has looked at once.

With the tower frozen (the default, as the paper's students inherit theirs) every epoch and every arm of a study would
compute the same features again. So pages are drawn, encoded and seen once; the file of features, named by the hash of
all that it depends on, is shared by all cells of a grid.
"""

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, PositiveInt
from safetensors.torch import load_file, save
from torch import Tensor

from ..data.families import generate_page
from ..data.pages import Page
from ..data.samples import encode_page, page_turns
from ..data.seeds import hash_seed
from ..files import package_path
from ..scratch import ScratchFolder
from .batch import FIRST, IGNORED, PADDING, TEXT, VISION, Batch
from .cached import cached_tensors, made_in_parts
from .drawing import drawing_processes

GREY = (128, 128, 128)


class PageSetSpec(BaseModel):
    """Which pages a set holds: ``pages`` of them, the families in turn by ``weights``, and the ``levels`` in turn.

    Without ``levels`` all pages are of ``level``. ``blind`` puts grey in the place of every picture. A page is asked
    its first ``turns`` questions, and no more than fit into ``tokens``; all of them where nothing is said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: dict[str, PositiveInt]
    pages: PositiveInt
    seed: int = 0
    level: PositiveInt = 1
    levels: tuple[PositiveInt, ...] = ()
    split: str = "train"
    blind: bool = False
    turns: PositiveInt | None = None
    tokens: PositiveInt | None = None

    def family_of(self, index: int) -> str:
        """The family of page ``index``: a fixed rotation, so that any prefix is balanced."""
        rotation = [family for family, weight in sorted(self.weights.items()) for _ in range(weight)]
        return rotation[index % len(rotation)]

    def level_of(self, index: int) -> int:
        """The level of page ``index``: each round of the families is of one level."""
        return self.levels[index // sum(self.weights.values()) % len(self.levels)] if self.levels else self.level

    def page(self, index: int) -> Page:
        """Draw page ``index``."""
        family, level = self.family_of(index), self.level_of(index)
        page = generate_page(family, seed=self.seed, index=index, split=self.split, level=level)
        return replace(page, image=Image.new("RGB", page.image.size, GREY)) if self.blind else page


class PageSet:
    """Encoded pages with their features, in memory; a batch is gathered from them.

    Tensors of all pages lie end to end; ``token_starts`` says where each page begins. ``guesses`` ``[pages]`` are how
    likely the answer to each page's first question is guessed by naming any of the values on the page.
    """

    def __init__(self, tensors: dict[str, Tensor], image_token_id: int, key: str, device: str = "cpu") -> None:
        self.tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        self.key = key
        self.is_image = self.tensors["input_ids"] == image_token_id
        # The features lie in the order of the image tokens.
        self.feature_of = (self.is_image.cumsum(0) - 1).clamp(min=0)
        self.starts = self.tensors["token_starts"]
        self.lengths = self.starts.diff()

    def __len__(self) -> int:
        return len(self.lengths)

    def batches(self, indices: Tensor, groups: int) -> list[Batch]:
        """The pages of one step in ``groups`` batches of similar length, so that little is computed on padding."""
        by_length = indices[self.lengths[indices].argsort(stable=True)]
        return [self.batch(part) for part in by_length.tensor_split(groups) if len(part)]

    def batch(self, indices: Tensor) -> Batch:
        """Put pages side by side, padded at the end.

        Args:
            indices: ``[B]``, which pages.

        Returns:
            A batch of ``input_ids`` ``[B, T]``, ``position_ids`` ``[3, B, T]`` and the ``image_features`` ``[N, D]`` of
            the image tokens in their order. A causal model needs no mask for padding that comes last.
        """
        lengths = self.lengths[indices].unsqueeze(1)
        columns = torch.arange(int(lengths.max()), device=lengths.device)
        real = columns < lengths
        places = (self.starts[indices].unsqueeze(1) + columns) * real
        labels = self.tensors["labels"][places].masked_fill(~real, IGNORED)
        seen = self.is_image[places] & real
        inputs = {
            "input_ids": self.tensors["input_ids"][places],
            "position_ids": self.tensors["position_ids"][:, places] * real,
            "image_features": self.tensors["features"][self.feature_of[places[seen]]],
        }
        kinds = torch.where(seen, VISION, TEXT).masked_fill(~real, PADDING)
        kinds[:, 0] = FIRST
        return Batch(inputs, labels, kinds)

    def order(self, seed: int, batch_size: int) -> Callable[[int], Tensor]:
        """Return ``step → page indices [B]``: every epoch is a permutation of its own, drawn from the seed."""
        return page_order(len(self), seed, batch_size, self.starts.device)


def page_order(count: int, seed: int, batch_size: int, device: torch.device) -> Callable[[int], Tensor]:
    """``step → indices [B]`` of ``count`` samples: every epoch is a permutation of its own, drawn from the seed."""
    per_epoch = count // batch_size
    if per_epoch == 0:
        raise ValueError(f"{count} pages make no batch of {batch_size}")

    @lru_cache(maxsize=1)
    def permutation(epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(hash_seed(seed, epoch))
        return torch.randperm(count, generator=generator).to(device)

    def indices_of(step: int) -> Tensor:
        epoch, position = divmod(step, per_epoch)
        return permutation(epoch)[position * batch_size : (position + 1) * batch_size]

    return indices_of


def page_set_key(spec: PageSetSpec) -> str:
    """Name the content: the request, and every file of the package that the content depends on."""
    digest = hashlib.sha256(json.dumps(spec.model_dump(mode="json"), sort_keys=True).encode())
    assets = package_path("models", "assets")
    seen_by = [assets / "vision_tower" / name for name in ("config.json", "model.safetensors")]
    for path in [*sorted(package_path("data").glob("*.py")), *sorted((assets / "tokenizer").iterdir()), *seen_by]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def load_page_set(
    spec: PageSetSpec,
    model: Any,
    processor: Any,
    cache: Path,
    *,
    workers: int = 1,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> PageSet:
    """Return the page set, from the cache folder or made now (by one process; others wait for it).

    Args:
        spec: which pages.
        model: its vision tower sees the pages; its positions are those of the samples.
        processor: the model's processor.
        cache: folder for the file.
        workers: processes that draw pages and see them.
        device: where the tower runs and the set is held.
        progress: called with (done, all).

    Raises:
        UserError: if the file cannot be written. A damaged one is made again.
    """
    with _encoders(model, processor, workers, device) as encode:
        tensors = _cached(spec, cache, encode, progress)
    return PageSet(tensors, model.config.image_token_id, page_set_key(spec), device)


def prepare_page_sets(
    specs: Iterable[PageSetSpec],
    model: Any,
    processor: Any,
    cache: Path,
    *,
    workers: int = 1,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Make those of the page sets that the cache folder lacks, by the same processes one after the other.

    Arguments and errors are those of `load_page_set`.
    """
    with _encoders(model, processor, workers, device) as encode:
        for spec in specs:
            _cached(spec, cache, encode, progress)


def _cached(
    spec: PageSetSpec, cache: Path, encode: "Encode", progress: Callable[[int, int], None] | None
) -> dict[str, Tensor]:
    """The tensors of a page set from its file, which is made first if need be."""
    path = cache / f"pages-{page_set_key(spec)}.safetensors"
    return cached_tensors(path, lambda: _encode(spec, path, encode, progress))


RANGE = 64
"""Pages that the tower sees at a time; the features are a function of the range, whoever computes it."""


Encode = Callable[[PageSetSpec, list[range]], Generator[dict[str, Tensor], None, None]]
"""From a set and ranges of its pages to their tensors, in the order of the ranges."""


def _encode(
    spec: PageSetSpec, path: Path, encode: Encode, progress: Callable[[int, int], None] | None
) -> dict[str, Tensor]:
    ranges = [range(start, min(start + RANGE, spec.pages)) for start in range(0, spec.pages, RANGE)]
    parts = made_in_parts(path, ranges, partial(encode, spec), progress)
    joined = {
        name: torch.cat([part[name] for part in parts], dim=-2 if name == "features" else -1) for name in parts[0]
    }
    lengths = joined.pop("lengths")
    return joined | {"token_starts": torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])}


@contextmanager
def _encoders(model: Any, processor: Any, workers: int, device: str) -> Iterator[Encode]:
    """What encodes ranges of pages, in their order: this process, or several of them."""
    if workers <= 1:
        threads = torch.get_num_threads()

        def encode_here(spec: PageSetSpec, ranges: list[range]) -> Generator[dict[str, Tensor], None, None]:
            model.model.visual.to(device)
            torch.set_num_threads(1)
            for pages in ranges:
                yield _encode_range(spec, model, processor, device, pages)

        try:
            yield encode_here
        finally:
            torch.set_num_threads(threads)
        return
    with ScratchFolder() as scratch:
        # In a file: what is handed over with the start of a process must be read before the next one is started.
        weights = scratch / "tower.safetensors"
        weights.write_bytes(
            save({name: tensor.cpu().contiguous() for name, tensor in model.model.visual.state_dict().items()})
        )
        with drawing_processes(workers, _start_worker, model.config, weights, device) as each:
            yield lambda spec, ranges: each(_encode_in_worker, [spec] * len(ranges), ranges)


_worker: tuple[Any, Any, str]


def _start_worker(config: Any, weights: Path, device: str) -> None:
    from ..models.hybrid import HybridVLForConditionalGeneration
    from ..models.processor import load_processor

    global _worker
    torch.set_num_threads(1)
    model = HybridVLForConditionalGeneration(config)
    model.model.visual.load_state_dict(load_file(weights))
    model.model.visual.to(device)
    _worker = (model, load_processor(), device)


def _encode_in_worker(spec: PageSetSpec, pages: range) -> dict[str, Tensor]:
    return _encode_range(spec, *_worker, pages)


@torch.no_grad()
def _encode_range(spec: PageSetSpec, model: Any, processor: Any, device: str, pages: range) -> dict[str, Tensor]:
    """Draw, tokenise and see pages: tensors end to end, and the ``lengths`` of the pages."""
    visual = model.model.visual.eval()
    samples, positions, guesses = [], [], []
    for index in pages:
        page = spec.page(index)
        guesses.append(page.values.count(page_turns(page)[0].answers[0]) / max(1, len(page.values)))
        sample = encode_page(page, processor, most_turns=spec.turns, most_tokens=spec.tokens)
        samples.append(sample)
        ids = sample["input_ids"].view(1, -1)
        position_ids, _ = model.model.get_rope_index(
            ids,
            mm_token_type_ids=sample["mm_token_type_ids"].view(1, -1),
            image_grid_thw=sample["image_grid_thw"],
            attention_mask=torch.ones_like(ids),
        )
        positions.append(position_ids[:, 0])
    pixels = torch.cat([sample["pixel_values"] for sample in samples]).to(device, visual.dtype)
    grids = torch.cat([sample["image_grid_thw"] for sample in samples]).to(device)
    return {
        "input_ids": torch.cat([sample["input_ids"] for sample in samples]),
        "labels": torch.cat([sample["labels"] for sample in samples]),
        "position_ids": torch.cat(positions, dim=-1).contiguous(),
        "features": features_of(visual, pixels, grids).half().cpu(),
        "lengths": torch.tensor([len(sample["input_ids"]) for sample in samples]),
        "guesses": torch.tensor(guesses, dtype=torch.float64),
    }


def features_of(visual: Any, pixels: Tensor, grids: Tensor) -> Tensor:
    """The tower's features ``[N, D]`` of pictures given as patches, in the order of their tokens."""
    return visual(pixels, grid_thw=grids).pooler_output
