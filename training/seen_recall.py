"""Sequences of multi-query recall whose pairs stand on a page that the frozen vision tower has looked at once.

The queries follow as text: a key is read off the page, and named as a token.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.mqar import RecallSpec
from ..data.mqar_pages import COLUMNS, draw_pairs
from ..data.pages import SPLITS
from ..data.seeds import hash_seed
from ..files import package_path
from .cached import cached_tensors
from .fixed import FixedBatch
from .fixed_recall import FixedSequences
from .reading import batched_features

PAGES = 128
"""Pages that the tower sees at a time."""


class SeenSequences(FixedSequences):
    """A set of sequences whose pairs are image tokens, one a key and one a value.

    Args:
        spec: which sequences.
        tower: makes the shipped vision tower, if the cache folder lacks the features.
        cache: folder for the file of features, which one process makes while others wait for it.
        device: where the sequences and features are held.

    Raises:
        UserError: for pairs that do not fit, more tokens than there are codes, or a file that cannot be written.
    """

    def __init__(self, spec: RecallSpec, tower: Callable[[], Any], cache: Path, device: str) -> None:
        super().__init__(spec, device)
        # The page gives way to its features, and nothing of it is read as text.
        self.shown = 2 * spec.pairs
        digest = _digest(spec)
        self.key = f"{self.key}-seen-{digest}"
        path = cache / f"recall-{digest}.safetensors"
        found = cached_tensors(path, lambda: {"features": self._see(tower().to(device).eval())})
        self.features = found["features"].to(device)
        self.seen = self.columns < self.shown
        self.positions = _positions(spec).to(device)
        self.tokens[:, : self.shown] = 0

    def batch(self, indices: Tensor) -> FixedBatch:
        """The sequences ``indices`` ``[B]``, in Qwen2.5-VL's positions of a picture and the text after it."""
        return super().batch(indices)._replace(
            position_ids=self.positions.unsqueeze(1).expand(-1, len(indices), -1)
        )  # fmt: skip

    def look(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Which columns are image tokens ``[1, T]``, and features ``[B, T, D]``, those of text being anything."""
        page = self.features[indices]
        return self.seen.unsqueeze(0), torch.nn.functional.pad(page, (0, 0, 0, self.spec.length - self.shown))

    @torch.no_grad()
    def _see(self, tower: Any) -> Tensor:
        """Draw and see all pages: ``[N, 2P, D]`` in half precision."""
        spec, parts = self.spec, []
        rows = self.tokens[:, : self.shown].tolist()
        for start in range(0, len(rows), PAGES):
            pages = [
                draw_pairs(row, hash_seed(spec.seed, SPLITS.index(spec.split), number))
                for number, row in enumerate(rows[start : start + PAGES], start)
            ]
            pictures = torch.from_numpy(np.stack(pages)).to(self.tokens.device)
            parts.append(batched_features(tower, pictures).half().cpu())
        return torch.cat(parts)


def _positions(spec: RecallSpec) -> Tensor:
    """Time, row and column of every token, ``[3, T]``: see `models.positions`."""
    shown = torch.arange(2 * spec.pairs)
    page = torch.stack([torch.zeros_like(shown), shown // COLUMNS, shown % COLUMNS])
    after = max(spec.pairs, COLUMNS) + torch.arange(spec.length - 2 * spec.pairs)
    return torch.cat([page, after.expand(3, -1)], dim=1)


def _digest(spec: RecallSpec) -> str:
    """Names the features: the request, and every file of the package that they depend on."""
    digest = hashlib.sha256(spec.model_dump_json().encode())
    tower = package_path("models", "assets", "vision_tower")
    drawn_by = [package_path("data", f"{name}.py") for name in ("mqar", "mqar_pages", "drawing")]
    for path in [Path(__file__), *drawn_by, tower / "config.json", tower / "model.safetensors"]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
