"""A training set whose pictures a frozen vision tower has looked at once.

With the tower frozen (the default, as the paper's students inherit theirs) every epoch and every arm of a study would
compute the same features again. So pages are drawn, encoded and seen once; the file of features, named by the hash of
all that it depends on, is shared by all cells of a grid.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, PositiveInt
from safetensors.torch import load_file, save
from torch import Tensor

from ..data.families import generate_page
from ..data.pages import Page
from ..data.samples import encode_page
from ..records import atomic_write, package_path
from .loop import Batch

IGNORED = -100


class PageSetSpec(BaseModel):
    """Which pages a training set holds: ``pages`` of them, the families in turn by ``weights``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: dict[str, PositiveInt]
    pages: PositiveInt
    seed: int = 0
    level: PositiveInt = 1
    split: str = "train"

    def family_of(self, index: int) -> str:
        """The family of page ``index``: a fixed rotation, so that any prefix is balanced."""
        rotation = [family for family, weight in sorted(self.weights.items()) for _ in range(weight)]
        return rotation[index % len(rotation)]


class PageSet:
    """Encoded pages with their features, in memory; ``batch_at`` draws from it.

    Tensors of all pages lie end to end; ``token_starts`` and ``feature_starts`` say where each page begins.
    """

    def __init__(self, tensors: dict[str, Tensor], image_token_id: int, key: str) -> None:
        self.tensors, self.image_token_id, self.key = tensors, image_token_id, key

    def __len__(self) -> int:
        return len(self.tensors["token_starts"]) - 1

    def batch(self, indices: Tensor, embed: Callable[[Tensor], Tensor]) -> Batch:
        """Put pages side by side, padded at the end.

        Args:
            indices: ``[B]``, which pages.
            embed: the model's token embedding; the features take the place of the image tokens.

        Returns:
            A batch of ``inputs_embeds`` ``[B, T, D]`` and ``position_ids`` ``[3, B, T]``. A causal model needs no mask
            for padding that comes last.
        """
        starts = self.tensors["token_starts"]
        spans = [slice(int(starts[i]), int(starts[i + 1])) for i in indices]
        length = max(span.stop - span.start for span in spans)
        input_ids = torch.zeros(len(spans), length, dtype=torch.long)
        labels = torch.full((len(spans), length), IGNORED)
        position_ids = torch.zeros(3, len(spans), length, dtype=torch.long)
        for row, span in enumerate(spans):
            size = span.stop - span.start
            input_ids[row, :size] = self.tensors["input_ids"][span]
            labels[row, :size] = self.tensors["labels"][span]
            position_ids[:, row, :size] = self.tensors["position_ids"][:, span]
        embeds = embed(input_ids)
        features = self.tensors["features"]
        feature_starts = self.tensors["feature_starts"]
        seen = torch.cat([features[int(feature_starts[i]) : int(feature_starts[i + 1])] for i in indices])
        mask = (input_ids == self.image_token_id).to(embeds.device).unsqueeze(-1)
        embeds = embeds.masked_scatter(mask, seen.to(embeds.device, embeds.dtype))
        return Batch({"inputs_embeds": embeds, "position_ids": position_ids}, labels)

    def order(self, seed: int, batch_size: int) -> Callable[[int], Tensor]:
        """Return ``step → page indices [B]``: every epoch is a permutation of its own, drawn from the seed."""
        per_epoch = len(self) // batch_size
        if per_epoch == 0:
            raise ValueError(f"{len(self)} pages make no batch of {batch_size}")

        def indices_of(step: int) -> Tensor:
            epoch, position = divmod(step, per_epoch)
            generator = torch.Generator().manual_seed(hash_seed(seed, epoch))
            return torch.randperm(len(self), generator=generator)[position * batch_size : (position + 1) * batch_size]

        return indices_of


def hash_seed(*parts: int) -> int:
    """A 63-bit seed from several integers; near seeds give unrelated streams."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def page_set_key(spec: PageSetSpec) -> str:
    """Name the content: the request, and every file of the package that the content depends on."""
    digest = hashlib.sha256(json.dumps(spec.model_dump(mode="json"), sort_keys=True).encode())
    for path in sorted([*package_path("data").glob("*.py"), *package_path("models", "assets").rglob("*")]):
        if path.is_file():
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
        workers: processes that draw pages.
        device: where the tower runs.
        progress: called with (done, all).
    """
    key = page_set_key(spec)
    path = cache / f"pages-{key}.safetensors"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            tensors = _encode(spec, model, processor, workers, device, progress)
            atomic_write(path, save(tensors))
    return PageSet(load_file(path), model.config.image_token_id, key)


def draw_pages(spec: PageSetSpec, start: int, stop: int) -> list[Page]:
    """Draw a range of a set's pages."""
    return [
        generate_page(spec.family_of(index), seed=spec.seed, index=index, split=spec.split, level=spec.level)
        for index in range(start, stop)
    ]


def _drawn(spec: PageSetSpec, workers: int, chunk: int = 32) -> Iterator[Page]:
    starts = range(0, spec.pages, chunk)
    if workers <= 1:
        for start in starts:
            yield from draw_pages(spec, start, min(start + chunk, spec.pages))
        return
    # Spawned, not forked: the parent may hold threads and an accelerator.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        stops = [min(start + chunk, spec.pages) for start in starts]
        for pages in pool.map(draw_pages, [spec] * len(stops), starts, stops):
            yield from pages


@torch.no_grad()
def _encode(
    spec: PageSetSpec,
    model: Any,
    processor: Any,
    workers: int,
    device: str,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Tensor]:
    visual = model.model.visual.to(device).eval()
    parts: dict[str, list[Tensor]] = {"input_ids": [], "labels": [], "position_ids": [], "features": []}
    token_starts, feature_starts = [0], [0]
    waiting: list[dict[str, Tensor]] = []

    def look() -> None:
        pixels = torch.cat([sample["pixel_values"] for sample in waiting]).to(device, visual.dtype)
        grids = torch.cat([sample["image_grid_thw"] for sample in waiting])
        parts["features"].append(features_of(visual, pixels, grids.to(device)).half().cpu())
        waiting.clear()

    for done, page in enumerate(_drawn(spec, workers), start=1):
        sample = encode_page(page, processor)
        ids = sample["input_ids"].view(1, -1)
        positions, _ = model.model.get_rope_index(
            ids,
            mm_token_type_ids=sample["mm_token_type_ids"].view(1, -1),
            image_grid_thw=sample["image_grid_thw"],
            attention_mask=torch.ones_like(ids),
        )
        parts["input_ids"].append(ids[0])
        parts["labels"].append(sample["labels"].view(-1))
        parts["position_ids"].append(positions[:, 0])
        token_starts.append(token_starts[-1] + ids.shape[1])
        feature_starts.append(feature_starts[-1] + int((ids == model.config.image_token_id).sum()))
        waiting.append(sample)
        if len(waiting) == 64 or done == spec.pages:
            look()
            if progress is not None:
                progress(done, spec.pages)
    return {
        "input_ids": torch.cat(parts["input_ids"]),
        "labels": torch.cat(parts["labels"]),
        "position_ids": torch.cat(parts["position_ids"], dim=1).contiguous(),
        "features": torch.cat(parts["features"]),
        "token_starts": torch.tensor(token_starts),
        "feature_starts": torch.tensor(feature_starts),
    }


def features_of(visual: Any, pixels: Tensor, grids: Tensor) -> Tensor:
    """The tower's features ``[N, D]`` of pictures given as patches, in the order of their tokens."""
    return visual(pixels, grid_thw=grids).pooler_output
