"""Pretrain the small vision tower that the package ships, so that studies compare mixers and not eyes.

    python -m infinitevl_bench.training.vision_tower --device cuda --workers 15

Each visual token covers 28 × 28 pixels and learns to name what stands in its cell: the characters whose centres lie in
it, in reading order, the sign they stand on, and the shape whose centre lies in it. The heads that name them are linear
and read the feature after a bare RMS norm, as a decoder does; they are thrown away. Features are held near a mean of 0
and an RMS of 1. The architecture is transformers' own Qwen2.5-VL vision tower.
"""

import argparse
import json
import math
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..data.families import FAMILIES, LEVELS, generate_page
from ..data.glyphs import (
    CANVASES,
    CHARACTERS,
    COLOUR,
    GROUND,
    KIND,
    SLOTS,
    Canvas,
    cell_targets,
    clear_cells,
    draw_canvas,
    page_canvas,
)  # fmt: skip
from ..data.pages import Page
from ..data.shapes import COLOURS, SHAPES
from ..models.device import device_name, resolve_device
from ..printing import PlainConsole
from ..records import atomic_write, package_path
from .reading import TOWER, Reader, patches_of, reading_loss


class CanvasBatches(Dataset[tuple[Tensor, Tensor]]):
    """Batch number ``index`` is a function of seed and index alone: pictures ``[B, height, width, 3]``, and targets."""

    def __init__(self, seed: int, batches: int, batch_size: int) -> None:
        self.seed, self.batches, self.batch_size = seed, batches, batch_size

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= self.batches:
            raise IndexError(index)
        rng = random.Random(f"vision tower|{self.seed}|{index}")
        (size,) = rng.choices(tuple(CANVASES), tuple(CANVASES.values()))
        canvases = [draw_canvas(rng, size) for _ in range(self.batch_size)]
        pictures = np.stack([np.asarray(canvas.image) for canvas in canvases])
        return torch.from_numpy(pictures), torch.from_numpy(np.stack([cell_targets(canvas) for canvas in canvases]))


def train(
    steps: int, *, device: str, seed: int, workers: int, batch_size: int, peak_rate: float, console: PlainConsole
) -> Reader:
    """Train a reader on fresh canvases; on a CPU the weights are a function of the arguments alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        reader = Reader()
    reader.to(device).train()
    matrices = [weight for weight in reader.parameters() if weight.ndim > 1]
    vectors = [weight for weight in reader.parameters() if weight.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak_rate, betas=(0.9, 0.98))
    warm_up = max(1, min(400, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))) + 0.01),
    )
    loader = DataLoader(
        CanvasBatches(seed, steps, batch_size),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=4 if workers else None,
        pin_memory=device == "cuda",
    )
    start = time.perf_counter()
    for step, (pictures, targets) in enumerate(loader, start=1):
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            features, logits = reader(pictures.to(device, non_blocking=True))
        loss = reading_loss(features, logits, targets.to(device, non_blocking=True))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % max(1, min(250, steps // 10)) == 0:
            rate = step * batch_size / (time.perf_counter() - start)
            console.print(f"step {step}/{steps}  loss {loss.item():.4f}  {rate:.0f} pictures/s")
    return reader.eval()


@torch.no_grad()
def read(reader: Reader, image: Image.Image) -> np.ndarray:
    """What the reader names in each cell of a picture, ``[cells, SLOTS + 3]``, through the tower's own forward."""
    picture = torch.from_numpy(np.asarray(image).copy()).to(reader.heads.weight.device)
    side = TOWER["patch_size"]
    grid = torch.tensor([[1, image.height // side, image.width // side]], device=picture.device)
    features = reader.tower(patches_of(picture[None])[0], grid_thw=grid).pooler_output
    return torch.stack([scores.argmax(dim=-1) for scores in reader.name(features)], dim=-1).cpu().numpy()


class Tally(Counter[str]):
    """Right and asked answers by name."""

    def add(self, name: str, right: np.ndarray | list[bool]) -> None:
        """Count answers."""
        self.update({f"{name}|right": int(np.sum(right)), f"{name}|asked": len(right)})

    def shares(self) -> dict[str, Any]:
        """Percentages right, and how many answers each rests on."""
        names = [key.removesuffix("|asked") for key, asked in self.items() if key.endswith("|asked") and asked]
        return {
            name: {"percent": round(100 * self[f"{name}|right"] / self[f"{name}|asked"], 2), "n": self[f"{name}|asked"]}
            for name in names
        }


def _count_cells(tally: Tally, named: np.ndarray, canvas: Canvas, margin: float) -> None:
    """Compare with the targets in the cells that no character crosses the border of."""
    targets = cell_targets(canvas)
    cells = clear_cells(canvas, margin)
    named, targets = named[cells], targets[cells]
    text = targets[:, :SLOTS] > 0
    tally.add("characters", (named == targets)[:, :SLOTS][text])
    tally.add("cells with text, exact", (named == targets)[:, :SLOTS].all(axis=1)[text.any(axis=1)])
    tally.add("ground", (named == targets)[text.any(axis=1), GROUND])
    marked = targets[:, KIND] > 0
    tally.add("shape kind", (named == targets)[marked, KIND])
    tally.add("shape colour", (named == targets)[marked, COLOUR])


def _count_page(tally: Tally, named: np.ndarray, page: Page) -> None:
    """Compare with all that is known of a page, wherever it stands."""
    if page.family == "shapes":
        for question in page.questions:
            kind = next(number for number, shape in enumerate(SHAPES, start=1) if shape in question.text)
            cells = named[named[:, KIND] == kind]
            if question.kind == "count":
                tally.add("shapes counted", [str(len(cells)) == question.answers[0]])
            elif question.kind == "colour":
                tally.add("shape colour", [{tuple(COLOURS)[cell[COLOUR]] for cell in cells} == set(question.answers)])
        return
    if page.family == "backgrounds":
        # It holds neither text nor a question about one of its shapes.
        return
    texts = [box.text for box in page.boxes] or page.values
    there = Counter("".join(texts))
    seen = Counter(CHARACTERS[name - 1] for name in named[:, :SLOTS].ravel() if name)
    wrong = max((there - seen).total(), (seen - there).total())
    tally.add("characters of the page", [number >= wrong for number in range(there.total())])


def measure(reader: Reader, pages: int) -> dict[str, Any]:
    """Accuracies on held-out canvases, and on test pages of each family at each level; ``pages`` of each.

    Of a page with known text the places are those before it was slanted, so only cells clear of characters within 3
    pixels of a border are compared place by place; "characters of the page" compares all, as a bag.
    """
    reader.float()
    rng = random.Random("vision tower|held out")
    results: dict[str, Any] = {}
    tally = Tally()
    for size, weight in CANVASES.items():
        for _ in range(pages * weight):
            canvas = draw_canvas(rng, size)
            _count_cells(tally, read(reader, canvas.image), canvas, 0.0)
    results["canvases"] = tally.shares()
    for family in FAMILIES:
        for level in LEVELS:
            tally = Tally()
            for index in range(pages):
                page = generate_page(family, seed=0, index=index, split="test", level=level)
                named = read(reader, page.image)
                _count_cells(tally, named, page_canvas(page), 3.0)
                _count_page(tally, named, page)
            results[f"{family}, level {level}"] = tally.shares()
    return results


def main(arguments: list[str] | None = None) -> None:
    """Train, measure, and write ``model.safetensors``, ``config.json`` and ``training.json``."""
    parser = argparse.ArgumentParser(prog="python -m infinitevl_bench.training.vision_tower", description=__doc__)
    parser.add_argument("--steps", type=int, default=3400, help="optimiser steps")
    parser.add_argument("--batch-size", type=int, default=256, help="canvases a step")
    parser.add_argument("--peak-rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="processes that draw; 0 draws in this one")
    parser.add_argument("--pages", type=int, default=40, help="held-out pages of each family and level")
    parser.add_argument("--out", type=Path, default=package_path("models", "assets", "vision_tower"))
    given = parser.parse_args(arguments)
    device = resolve_device(given.device)
    console = PlainConsole(soft_wrap=True)
    start = time.perf_counter()
    reader = train(
        given.steps, device=device, seed=given.seed, workers=given.workers, batch_size=given.batch_size,
        peak_rate=given.peak_rate, console=console,
    )  # fmt: skip
    training_s = time.perf_counter() - start
    weights = save({name: weight.half().contiguous().cpu() for name, weight in reader.tower.state_dict().items()})
    # What is measured is what is shipped: the rounded weights, through the tower's own forward.
    reader.tower.load_state_dict(load(weights))
    atomic_write(given.out / "config.json", json.dumps(TOWER, indent=2) + "\n")
    atomic_write(given.out / "model.safetensors", weights)
    measured = measure(reader, given.pages)
    options = ("steps", "batch_size", "peak_rate", "seed", "device", "workers")
    command = [parser.prog, *(f"--{name.replace('_', '-')} {getattr(given, name)}" for name in options)]
    provenance = {
        "command": " ".join(command),
        "steps": given.steps, "batch_size": given.batch_size, "peak_rate": given.peak_rate, "seed": given.seed,
        "training_s": round(training_s, 1), "torch": torch.__version__, "device": device_name(device),
        "parameters": sum(weight.numel() for weight in reader.tower.parameters()), "accuracy": measured,
    }  # fmt: skip
    atomic_write(given.out / "training.json", json.dumps(provenance, indent=2) + "\n")
    console.print(json.dumps(provenance), highlight=False)


if __name__ == "__main__":
    main()
