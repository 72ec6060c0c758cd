"""A library of moments that the frozen vision tower has looked at once, and of which the videos of a study are made.

The tower sees each moment (two frames) by itself, so the features of a video are those of its moments one after
another. A few thousand moments then give any number of videos of any length, and all models of a study share them.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..data.library import LibrarySpec
from ..files import atomic_write, locked, package_path, remove_leftovers
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
    with locked(Path(f"{path}.lock")):
        try:
            features = load_file(path)["features"]
        except (OSError, SafetensorError, KeyError):
            remove_leftovers(cache, path.name)
            features = _see(spec, tower.to(device).eval(), device, workers, progress)
            atomic_write(path, save({"features": features}))
    return Library(spec, features.to(device), key)


@torch.no_grad()
def _see(
    spec: LibrarySpec, tower: Any, device: str, workers: int, progress: Callable[[int, int], None] | None
) -> Tensor:
    total = sum(spec.sizes)
    ranges = [range(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK)]
    draw = partial(_draw_range, spec)
    parts = []

    def see(frames: np.ndarray) -> None:
        seen = batched_features(tower, torch.from_numpy(frames).to(device))
        parts.append(seen.half().cpu())
        if progress is not None:
            progress(sum(map(len, parts)), total)

    if workers <= 1:
        for one in ranges:
            see(draw(one))
    else:
        # Spawned, not forked: the parent may hold threads and an accelerator.
        with ProcessPoolExecutor(min(workers, len(ranges)), mp_context=get_context("spawn")) as pool:
            for frames in pool.map(draw, ranges):
                see(frames)
    return torch.cat(parts)


def _draw_range(spec: LibrarySpec, moments: range) -> np.ndarray:
    return np.stack([spec.draw(moment) for moment in moments])
