"""Two processes, with DDP and with FSDP2, do what one does; and either goes on where the other stopped."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("two_processes.py")
OBJECTIVES = ("layers", "logits", "sft")


def script() -> Any:
    spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything trained: alone here, then in two processes, then alone again where those stopped."""
    folder = tmp_path_factory.mktemp("processes")
    here = script()
    here.run(folder, "one")
    here.run(folder, "one-stops")
    here.run(folder, "one-command")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    plans = ["ddp", "fsdp2", "fsdp2-stops", "fsdp2-after-one", "fsdp2-command"]
    done = subprocess.run(
        [sys.executable, *launch, str(SCRIPT), str(folder), *plans], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    here.run(folder, "one-after-fsdp2")
    return folder


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("plan", ["ddp", "fsdp2", "fsdp2-after-one", "one-after-fsdp2"])
def test_losses_and_weights_are_those_of_one_process(out: Path, plan: str, objective: str) -> None:
    expected, found = (json.loads((out / f"{one}-{objective}.json").read_text()) for one in ("one", plan))
    assert len(expected) == 3
    assert found == pytest.approx(expected, rel=1e-5)
    ours, theirs = (load_file(out / f"{one}-{objective}.safetensors") for one in (plan, "one"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        # AdamW's first steps are as long as the learning rate, whatever the gradient: 1e-3 each.
        assert (ours[name] - tensor).abs().max() < 1e-4, name


def test_the_command_saves_the_model_of_one_process(out: Path) -> None:
    (ours,), (theirs,) = (list((out / f"command-{kind}").glob("train-*")) for kind in ("fsdp2", "one"))
    assert ours.name == theirs.name
    results = [json.loads((run / "result.json").read_text()) for run in (ours, theirs)]
    assert [{record["extra"]["processes"] for record in one["records"]} for one in results] == [{2}, {1}]
    found, expected = ([record["value"] for record in one["records"] if record["metric"] == "loss"] for one in results)
    assert found == pytest.approx(expected, rel=1e-5)
    weights, of_one = (load_file(run / "model" / "model.safetensors") for run in (ours, theirs))
    assert weights.keys() == of_one.keys()
    for name, tensor in of_one.items():
        assert (weights[name] - tensor).abs().max() < 1e-4, name
