"""The shipped hybrid: what its files say, what it answers, and how it is made of a finished cell."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.files import package_path
from infinitevl_bench.models.checkpoints import load_model, new_model
from infinitevl_bench.models.presets import get_preset
from infinitevl_bench.models.processor import load_processor
from infinitevl_bench.models.shipped import DEFAULT, HYBRID, SHIPPED
from infinitevl_bench.models.shipped_models import load_shipped, shipped_config
from infinitevl_bench.records import Record, RunFolder, RunSpec, measured_records
from infinitevl_bench.training import hybrid
from infinitevl_bench.training.teacher import exact_answers

FOLDER = package_path(*SHIPPED[HYBRID]).parent


def cell(root: Path, mixer: str) -> Path:
    """A finished cell with random weights."""
    training = {"steps": 7, "batch_size": 2}
    pages = {"weights": {"documents": 1}, "pages": 4}
    spec = RunSpec(kind="ablate", arguments={"seed": 3, "recipe": "inherit", "pages": pages, "training": training})
    score = Record(
        artifact="ablation", metric="score", value=12.34, unit="%", model="small", source="measured", n=5,
        benchmark="DocVQA", run_id=spec.id, extra={"train_loss": 0.5},
    )  # fmt: skip
    with RunFolder(root, spec) as folder:
        folder.write_environment("cpu")
        model = new_model(get_preset("tiny", mixer=mixer), seed=1)
        model.save_pretrained(folder.path / "model")
        load_processor().save_pretrained(folder.path / "model")
        folder.finish([score])
    return folder.path


def test_a_cell_becomes_the_shipped_files(tmp_path: Path) -> None:
    run = cell(tmp_path / "runs", "gated_deltanet")
    told = hybrid.ship(run, test_pages=2, out=tmp_path / "out")
    assert told == json.loads((tmp_path / "out" / "training.json").read_text())
    assert told["run"] == run.name
    assert told["scores_of_the_run_percent"] == {"DocVQA": 12.3}
    assert set(told["exact_answers_percent"]) == {"documents"}
    assert "7 steps of 2 pages, seed 3" in (tmp_path / "out" / "README.md").read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in FOLDER.iterdir()}


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another architecture"):
        hybrid.ship(cell(tmp_path / "runs", "gla"), test_pages=1, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_shipped_files_are_complete_and_small() -> None:
    told: dict[str, Any] = json.loads((FOLDER / "training.json").read_text())
    assert (FOLDER / "model.safetensors").stat().st_size <= 20_000_000
    card = (FOLDER / "README.md").read_text()
    assert told["run"] in card
    for name, value in told["exact_answers_percent"].items():
        assert f"{name.replace('_', ' ')} {value:.1f} %" in card
    assert f"seed {told['seed']}" in card
    assert hybrid.CHOSEN in card
    loaded = load_model(DEFAULT)
    assert (loaded.name, loaded.random_weights) == (HYBRID, False)
    assert hybrid.architecture(loaded.model.config) == hybrid.architecture(shipped_config(HYBRID))


def test_the_shipped_hybrid_finds_values_on_pages_it_has_not_seen() -> None:
    torch.manual_seed(0)
    told = json.loads((FOLDER / "training.json").read_text())["exact_answers_percent"]["documents"]
    # Of 24 pages, three standard deviations below what 200 gave.
    least = told - 3 * (told * (100 - told) / 24) ** 0.5
    assert exact_answers(load_shipped(HYBRID), load_processor(), "documents", 24) >= least > 50


def test_training_its_cell_again_gave_the_scores_of_the_study() -> None:
    """What is shipped was trained a second time from the study's command; the first time is in the shipped records."""
    told = json.loads((FOLDER / "training.json").read_text())
    first = {r.benchmark: r for r in measured_records(None) if r.run_id == told["run"] and r.metric == "score"}
    again = told["scores_of_the_run_percent"]
    assert set(first) == set(again)
    for name, record in first.items():
        assert record.ci_low is not None
        assert record.ci_high is not None
        assert record.ci_low <= again[name] <= record.ci_high, name
