"""Train the small full-attention teacher that the package ships: what students inherit but for their token mixers.

    python -m infinitevl_bench.training.teacher

As the paper's students take everything but the token mixers from Qwen2.5-VL, those of scale tiny take embeddings,
norms, FFNs and sliding-window layers from this model: preset ``tiny`` with pattern ``F``, trained on pages of every
family. All arms take the same, so that a study compares mixers and not how well a decoder came to read.

Before training, the embedding of each character is the mean feature of the cells that hold it: the words of the decoder
then lie in the space of the tower's features, as a language model's do after its projector was trained.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from ..data.families import generate_page
from ..data.glyphs import CHARACTERS, SLOTS, cell_targets, draw_canvas
from ..data.samples import page_messages
from ..models.checkpoints import new_model
from ..models.device import device_name, resolve_device
from ..models.processor import load_processor
from ..models.shipped import SHIPPED, TEACHER
from ..models.shipped_models import shipped_bytes, shipped_config
from ..printing import PlainConsole
from ..records import RunFolder, RunSpec, atomic_write, package_path
from ..scratch import ScratchFolder
from .batch import AnswerLoss
from .features import PageSetSpec, features_of, load_page_set
from .loop import TrainArguments, train

FAMILIES = {"documents": 4, "scene_text": 2, "transcription": 2, "charts": 2, "shapes": 1}
CANVASES = 250
EMBEDDING_RMS = 0.1


@torch.no_grad()
def align_characters(model: Any, processor: Any) -> None:
    """Set the embedding of each character to the mean feature of cells that hold it, less the mean of all with text."""
    rng = random.Random(5)
    features, targets = [], []
    for _ in range(CANVASES):
        canvas = draw_canvas(rng, (224, 140))
        seen = processor.image_processor(images=[canvas.image], return_tensors="pt")
        features.append(features_of(model.model.visual, seen["pixel_values"], seen["image_grid_thw"]))
        targets.append(torch.from_numpy(cell_targets(canvas)[:, :SLOTS]))
    feature, target = torch.cat(features), torch.cat(targets)
    common = feature[(target > 0).any(dim=1)].mean(dim=0)
    embedding = model.get_input_embeddings().weight
    for number, character in enumerate(CHARACTERS, start=1):
        direction = feature[(target == number).any(dim=1)].mean(dim=0) - common
        row = processor.tokenizer.convert_tokens_to_ids(character)
        embedding[row] = direction / direction.square().mean().sqrt() * EMBEDDING_RMS


@torch.inference_mode()
def exact_answers(model: Any, processor: Any, family: str, pages: int) -> float:
    """Share of test questions, one a page, that the model answers to the letter; in %."""
    right = 0
    for index in range(pages):
        page = generate_page(family, seed=0, index=index, split="test", level=1)
        turn = index % len(page.questions)
        question, answer = page_messages(page)[2 * turn : 2 * turn + 2]
        image = [] if turn == 0 else [{"type": "image", "image": page.image}]
        text = processor.apply_chat_template(
            [question | {"content": image + question["content"]}], tokenize=False, add_generation_prompt=True
        )
        inputs = processor(text=[text], images=[page.image], return_tensors="pt").to(model.device)
        written = model.generate(**inputs, max_new_tokens=10, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        right += processor.tokenizer.decode(written, skip_special_tokens=True) == answer["content"][0]["text"]
    return 100.0 * right / pages


def main(arguments: list[str] | None = None) -> None:
    """Train, measure, and write ``model.safetensors`` and ``training.json``."""
    parser = argparse.ArgumentParser(prog="python -m infinitevl_bench.training.teacher", description=__doc__)
    parser.add_argument("--steps", type=int, default=1800, help="optimiser steps")
    parser.add_argument("--batch-size", type=int, default=128, help="pages a step")
    parser.add_argument("--peak-rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--train-pages", type=int, default=24576, help="pages of the training set")
    parser.add_argument("--test-pages", type=int, default=100, help="test pages of each family")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw and see pages")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="folder of the page features")
    parser.add_argument("--out", type=Path, default=package_path(*SHIPPED[TEACHER]).parent)
    given = parser.parse_args(arguments)
    device = resolve_device(given.device)
    console = PlainConsole(soft_wrap=True)
    model, processor = new_model(shipped_config(TEACHER), given.seed), load_processor()
    spec = PageSetSpec(weights=FAMILIES, pages=given.train_pages)
    pages = load_page_set(spec, model, processor, given.cache, workers=given.workers, device=device)
    model.to("cpu")
    align_characters(model, processor)
    model.to(device)
    training = TrainArguments(
        steps=given.steps, batch_size=given.batch_size, length_groups=4, learning_rate=given.peak_rate, seed=given.seed
    )
    order = pages.order(given.seed, given.batch_size)
    run = RunSpec(kind="train", arguments=training.model_dump(mode="json"))
    with ScratchFolder() as scratch, RunFolder(scratch, run) as folder:
        result = train(
            AnswerLoss(model),
            lambda step: pages.batches(order(step), training.length_groups),
            training,
            folder,
            pages.key,
            on_step=lambda row: console.print(f"step {row['step']:.0f}  loss {row['loss']:.3f}", highlight=False),
            device=device,
        )
    weights = shipped_bytes(model)
    atomic_write(given.out / "model.safetensors", weights)
    # What is measured is what is shipped: the rounded weights.
    model.load_state_dict(load(weights), strict=False)
    exact = {name: exact_answers(model.eval(), processor, name, given.test_pages) for name in FAMILIES}
    provenance = {
        "command": f"{parser.prog} --steps {given.steps} --batch-size {given.batch_size} --peak-rate {given.peak_rate} "
        f"--train-pages {given.train_pages} --test-pages {given.test_pages} --seed {given.seed}",
        "training": training.model_dump(mode="json"), "families": FAMILIES, "loss_nats": round(result.loss, 4),
        "training_s": round(result.seconds, 1), "torch": torch.__version__, "device": device_name(device),
        "exact_answers_percent": exact, "test_pages_of_each_family": given.test_pages,
    }  # fmt: skip
    atomic_write(given.out / "training.json", json.dumps(provenance, indent=2) + "\n")
    console.print(json.dumps(provenance), highlight=False)


if __name__ == "__main__":
    main()
