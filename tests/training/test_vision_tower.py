import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from infinitevl_bench.data.families import generate_page
from infinitevl_bench.data.glyphs import NOTHING, SLOTS, cell_targets, clear_cells, page_canvas
from infinitevl_bench.models.presets import get_preset
from infinitevl_bench.models.processor import load_processor
from infinitevl_bench.records import package_path
from infinitevl_bench.training import vision_tower
from infinitevl_bench.training.reading import TOWER, Reader, batched_features, new_tower, patches_of, reading_loss
from infinitevl_bench.training.vision_tower import CanvasBatches, train
from rich.console import Console
from safetensors.torch import load_file

FOLDER = package_path("models", "assets", "vision_tower")


@pytest.fixture(scope="module")
def shipped():
    tower = new_tower()
    tower.load_state_dict(load_file(FOLDER / "model.safetensors"))
    return tower.eval()


def _pages(split, count, family="documents", level=1):
    return [generate_page(family, seed=0, index=index, split=split, level=level) for index in range(count)]


def _pictures(pages):
    return torch.from_numpy(np.stack([np.asarray(page.image) for page in pages]))


def test_patches_are_those_of_the_processor():
    (page,) = _pages("train", 1)
    theirs = load_processor().image_processor(images=[page.image], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(patches_of(_pictures([page]))[0], theirs)


@pytest.mark.parametrize(("family", "level"), [("documents", 1), ("charts", 2), ("transcription", 4)])
def test_batched_features_are_those_of_the_towers_own_forward(shipped, family, level):
    """Sizes that fill their windows of 112 pixels and sizes that do not."""
    pages = _pages("train", 2, family, level)
    inputs = load_processor().image_processor(images=[page.image for page in pages], return_tensors="pt")
    with torch.no_grad():
        own = shipped(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
        batched = batched_features(shipped, _pictures(pages)).flatten(0, 1)
    assert (batched - own).norm() / own.norm() < 1e-5


def test_batches_are_functions_of_seed_and_index():
    first, again = CanvasBatches(0, 3, 2), CanvasBatches(0, 3, 2)
    for one, other in zip(first[1], again[1], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first[1][1], CanvasBatches(1, 3, 2)[1][1])
    pictures, targets = first[2]
    assert targets.shape[:2] == (2, pictures.shape[1] * pictures.shape[2] // 28**2)
    with pytest.raises(IndexError):
        first[3]


def test_a_few_steps_on_one_batch_lower_its_loss():
    torch.manual_seed(0)
    reader = Reader()
    pictures, targets = CanvasBatches(0, 1, 4)[0]
    optimizer = torch.optim.AdamW(reader.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = reading_loss(*reader(pictures), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_batch_without_shapes_or_text_has_a_finite_loss():
    torch.manual_seed(0)
    reader = Reader()
    pictures, targets = CanvasBatches(0, 1, 2)[0]
    targets = torch.full_like(targets, NOTHING)
    assert torch.isfinite(reading_loss(*reader(pictures), targets))


def test_the_same_seed_gives_the_same_weights():
    settings = {"device": "cpu", "workers": 0, "batch_size": 1, "peak_rate": 1e-3, "console": Console(quiet=True)}
    first, again, other = (train(2, seed=seed, **settings).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    assert any(not torch.equal(weight, other[name]) for name, weight in first.items())


def test_the_command_writes_a_tower_and_where_it_came_from(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vision_tower, "CANVASES", {(112, 112): 1})
    monkeypatch.setattr(vision_tower, "LEVELS", (1,))
    arguments = ["--steps", "1", "--batch-size", "1", "--device", "cpu", "--pages", "1", "--out", str(tmp_path)]
    vision_tower.main(arguments)
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed == json.loads((tmp_path / "training.json").read_text())
    assert printed["steps"] == 1
    assert str(tmp_path) not in printed["command"]
    new_tower().load_state_dict(load_file(tmp_path / "model.safetensors"))


def test_the_shipped_tower_fits_the_presets():
    weights = FOLDER / "model.safetensors"
    assert weights.stat().st_size < 10 * 2**20
    assert all(tensor.dtype == torch.float16 and torch.isfinite(tensor).all() for tensor in load_file(weights).values())
    config = json.loads((FOLDER / "config.json").read_text())
    assert config == TOWER
    preset = get_preset("tiny")
    assert config["out_hidden_size"] == preset.text_config.hidden_size
    assert preset.vision_config.hidden_size == config["hidden_size"]


def test_the_shipped_towers_provenance_is_complete():
    made = json.loads((FOLDER / "training.json").read_text())
    assert {"command", "steps", "seed", "torch", "device", "accuracy"} <= made.keys()
    assert made["accuracy"]["documents, level 1"]["characters"]["percent"] > 95


@torch.no_grad()
def _seen(tower, pages):
    """Features ``[N, D]`` of the cells clear of borders, as a decoder's norm passes them on, and their first names."""
    features = F.rms_norm(batched_features(tower, _pictures(pages)), (TOWER["out_hidden_size"],)).flatten(0, 1)
    canvases = [page_canvas(page) for page in pages]
    clear = torch.from_numpy(np.concatenate([clear_cells(canvas, 1.5) for canvas in canvases]))
    names = torch.from_numpy(np.concatenate([cell_targets(canvas)[:, :SLOTS] for canvas in canvases]))
    return features[clear], names[clear][:, 0]


def test_a_linear_probe_reads_held_out_pages_off_the_shipped_tower(shipped):
    """The heads are not shipped, so a ridge regression is fitted: what a decoder's first layer could find at least."""
    features, names = _seen(shipped, _pages("train", 160))
    held_out, wanted = _seen(shipped, _pages("validation", 40))

    def with_one(x):
        return torch.cat((x, torch.ones(len(x), 1)), dim=1).double()

    x, one_hot = with_one(features), F.one_hot(names, 37).double()
    probe = torch.linalg.solve(x.T @ x + 1e-2 * torch.eye(x.shape[1], dtype=torch.float64), x.T @ one_hot)
    right = (with_one(held_out) @ probe).argmax(dim=1) == wanted
    assert right[wanted > 0].double().mean() > 0.85
    assert right[wanted == 0].double().mean() > 0.97


def test_features_have_the_scale_of_normed_ones(shipped):
    with torch.no_grad():
        features = batched_features(shipped, _pictures(_pages("train", 8)))
    scale = features.square().mean(dim=-1).sqrt()
    assert scale.mean().item() == pytest.approx(1.0, abs=0.2)
    # Blank cells look alike, and a document is mostly blank: a part is shared, but not most of the variance.
    assert features.mean(dim=(0, 1)).square().mean() < 0.5
