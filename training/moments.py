"""A library of moments that the frozen vision tower has looked at once, and of which the videos of a study are made.

The tower sees each moment (two frames) by itself, so the features of a video are those of its moments one after
another. A few thousand moments then give any number of videos of any length, and all models of a study share them.
"""

import hashlib
from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.library import LibrarySpec
from ..files import package_path
from .cached import cached_tensors, made_in_parts
from .drawing import drawing_processes
from .reading import batched_features

CHUNK = 256
"""Moments that the tower sees at a time."""


@dataclass(frozen=True)
class Library:
    """What the tower made of the moments: ``features`` ``[moments, tokens, D]``, and a key that names them."""

    spec: LibrarySpec
    features: Tensor
    key: str


def library_key(spec: LibrarySpec) -> str:
    """Names the content: the request, and every file of the package that it depends on."""
    digest = hashlib.sha256(spec.model_dump_json().encode())
    tower = package_path("models", "assets", "vision_tower")
    drawn_by = [package_path("data", f"{name}.py") for name in ("library", "moving", "drawing", "shapes", "scene_text")]
    for path in [Path(__file__), *drawn_by, tower / "config.json", tower / "model.safetensors"]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def load_library(
    spec: LibrarySpec,
    tower: Any,
    cache: Path,
    *,
    device: str = "cpu",
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Library:
    """Return the library, from the cache folder or made now (by one process; others wait for it).

    Args:
        spec: which moments.
        tower: the frozen vision tower, which sees them.
        cache: folder for the file.
        device: where the tower runs and the features are held.
        workers: processes that draw.
        progress: called with (done, all).

    Raises:
        UserError: if the file cannot be written. A damaged one is made again.
    """
    key = library_key(spec)
    path = cache / f"moments-{key}.safetensors"
    total = sum(spec.sizes)
    ranges = [range(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK)]

    def make() -> dict[str, Tensor]:
        see = partial(_see, spec, tower.to(device).eval(), device, workers)
        return {"features": torch.cat([part["features"] for part in made_in_parts(path, ranges, see, progress)])}

    return Library(spec, cached_tensors(path, make)["features"].to(device), key)


@torch.no_grad()
def _see(
    spec: LibrarySpec, tower: Any, device: str, workers: int, ranges: list[range]
) -> Generator[dict[str, Tensor], None, None]:
    several = drawing_processes(min(workers, len(ranges))) if workers > 1 and ranges else nullcontext(map)
    with several as each:
        for frames in each(partial(_draw_range, spec), ranges):
            yield {"features": batched_features(tower, torch.from_numpy(frames).to(device)).half().cpu()}


def _draw_range(spec: LibrarySpec, moments: range) -> np.ndarray:
    return np.stack([spec.draw(moment) for moment in moments])
