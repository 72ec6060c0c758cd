"""The stages as a user calls them: one after the other, killed and gone on with, diverging, and asked for nonsense."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.checkpoints import load_model
from infinitevl_bench.models.shipped import TEACHER
from infinitevl_bench.records import RunFolder, RunSpec
from infinitevl_bench.training import command
from infinitevl_bench.training.clock import METRICS
from infinitevl_bench.training.command import parse_sources, train_command
from infinitevl_bench.training.sft import lora_targets
from infinitevl_bench.training.stages import STAGES, parse_changes, stage_settings
from PIL import Image
from safetensors.torch import load_file

OPTIONS: dict[str, Any] = {"steps": 2, "context": 600, "batch_size": 2, "learning_rate": 1e-3}
EVERY_STEP = ["log_every=1", "checkpoint_every_seconds=1e-9"]


def train(stage: str, runs: Path, **changes: Any) -> Path:
    given: dict[str, Any] = {"data": ["pages:shapes:12"], "changes": EVERY_STEP, "device": "cpu", "options": OPTIONS}
    return train_command(stage, runs=runs, **given | changes)


def weights(run: Path | str) -> dict[str, torch.Tensor]:
    return load_model(str(run)).model.state_dict()


def result(run: Path) -> dict[str, Any]:
    return RunFolder(run.parent, RunSpec.model_validate(yaml.safe_load((run / "spec.yaml").read_text()))).result()


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in after.items() if not torch.equal(before[name], tensor)}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All four stages, each from what the one before has left, in a folder that reads as a console's markup."""
    runs = tmp_path_factory.mktemp("runs") / "[/]runs"
    layers = train("distill-layers", runs, mixer="gla", ratio="1/2")
    logits = train("distill-logits", runs, model=str(layers))
    sft = train("sft", runs, model=str(logits))
    return {
        "distill-layers": layers, "distill-logits": logits, "sft": sft,
        "long-sft": train("long-sft", runs, model=str(sft), changes=[*EVERY_STEP, "rank=4"]),
    }  # fmt: skip


def test_each_stage_trains_what_it_should(chain: dict[str, Path]) -> None:
    teacher, found = weights(TEACHER), {stage: weights(run) for stage, run in chain.items()}
    mixers = {name for name in found["sft"] if any(f"layers.{layer}.self_attn" in name for layer in range(1, 8, 2))}
    kept = {name: tensor for name, tensor in found["distill-layers"].items() if name not in mixers}
    assert not changed(teacher, kept)
    assert changed(found["distill-layers"], found["distill-logits"]) == mixers
    tuned = changed(found["distill-logits"], found["sft"])
    assert tuned == {name for name in found["sft"] if ".layers." in name or name.endswith("language_model.norm.weight")}
    targets = lora_targets(load_model(str(chain["sft"])).model, rank=4)
    assert changed(found["sft"], found["long-sft"]) == {f"{name}.weight" for name in targets}
    assert found["long-sft"].keys() == found["sft"].keys()


def test_a_stage_records_its_loss_and_speed_and_is_not_run_twice(chain: dict[str, Path]) -> None:
    for stage, run in chain.items():
        found = result(run)
        assert found["summary"]["status"] == "ok"
        losses = [record for record in found["records"] if record["metric"] == "loss"]
        assert [record["steps"] for record in losses] == [1, 2]
        assert {record["extra"]["stage"] for record in losses} == {stage}
        assert any(record["metric"] == "tokens_per_second" for record in found["records"])
    layers = chain["distill-layers"]
    before = (layers / "result.json").stat().st_mtime_ns
    assert train("distill-layers", layers.parent, mixer="gla", ratio="1/2") == layers
    assert (layers / "result.json").stat().st_mtime_ns == before


def test_a_killed_stage_goes_on_to_the_same_weights(tmp_path: Path, chain: dict[str, Path]) -> None:
    model = str(chain["distill-logits"])
    steps = 8
    whole = train("sft", tmp_path / "whole", model=model, options=OPTIONS | {"steps": steps})
    words = [
        sys.executable, "-m", "infinitevl_bench.cli", "train", "sft", "--model", model, "--data", "pages:shapes:12",
        "--steps", str(steps), "--context", "600", "--batch-size", "2", "--learning-rate", "1e-3", "--device", "cpu",
        *(word for change in EVERY_STEP for word in ("--set", change)), "--runs", str(tmp_path / "killed"),
    ]  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "killed" / whole.name / METRICS
    wanted = random.SystemRandom().randint(1, steps - 3)
    deadline = time.monotonic() + 120
    while not metrics.exists() or len(metrics.read_text().splitlines()) < wanted:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (metrics.parent / "result.json").exists()
    again = train("sft", tmp_path / "killed", model=model, options=OPTIONS | {"steps": steps})
    rows = [[json.loads(line) for line in (run / METRICS).read_text().splitlines()] for run in (whole, again)]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]], f"killed after {wanted} steps"
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (again, whole))
    assert not changed(ours, theirs), f"killed after {wanted} steps"


def test_a_loss_that_explodes_ends_the_stage_and_is_recorded(tmp_path: Path) -> None:
    options = OPTIONS | {"learning_rate": 10.0, "steps": 20}
    found = result(train("sft", tmp_path, options=options, changes=[*EVERY_STEP, "clip=1e9"]))
    assert found["summary"]["status"] == "diverged"
    assert found["summary"]["steps"] < 20
    assert {record["extra"]["status"] for record in found["records"]} == {"diverged"}


def test_lengths_are_reported_before_the_first_step_and_broken_samples_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (56, 56)).save(tmp_path / "a.png")
    good = {"messages": [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "black"}]}
    rows = [good | {"images": ["a.png"]}, good | {"images": []}, good | {"images": ["a.png"]}]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    source = f"{tmp_path / 'data.jsonl'}=3"
    run = train("sft", tmp_path / "[/]runs", data=[source, "pages:shapes:4=1"])
    said = capsys.readouterr().out
    assert f"the model is in {run}\n" in said
    assert said.index("75.0 %") < said.index("step 1/2")
    assert "data.jsonl, line 2: 1 <image> marks for 0 images" in (run / "broken.jsonl").read_text()


def test_without_steps_a_stage_is_one_pass_over_the_data(tmp_path: Path) -> None:
    options = {name: value for name, value in OPTIONS.items() if name != "steps"}
    run = train("sft", tmp_path, data=["pages:shapes:7"], options=options, changes=[*EVERY_STEP, "pack=false"])
    # Seven samples in steps of two: three and a half steps.
    assert result(run)["summary"]["steps"] == 4


MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("distill-layers", {"pattern": "S"}, "nothing to train"),
    ("distill-layers", {"pattern": "SL", "ratio": "1/2"}, "not both"),
    ("distill-layers", {"mixer": "glaa"}, "did you mean gla"),
    ("distill-layers", {"ratio": "1/3"}, "does not tile 8 layers"),
    ("distill-layers", {"changes": ["warmupp=1"]}, "did you mean warmup"),
    ("distill-layers", {"changes": ["warmup"]}, "name=value"),
    (
        "distill-layers",
        {"changes": ["clip=-1"]},
        r"clip takes a number above 0 and at most 1,000,000,000, not -1; this stage has 1\.0",
    ),
    (
        "long-sft",
        {"changes": ["rank="]},
        "rank takes a whole number above 0 and at most 1,000,000,000, not nothing; this stage has 64",
    ),
    (
        "sft",
        {"changes": ["betas=[0.9]"]},
        r"betas takes a list of 2, each a number of at least 0 and below 1, not \[0\.9\]; this stage has",
    ),
    ("sft", {"changes": ["precision=fp8"]}, "precision takes one of no, tf32, bf16, pure_bf16, not 'fp8'"),
    ("sft", {"changes": ["checkpoint_every_seconds=often"]}, "above 0 and at most 1,000,000,000 or null, not 'often'"),
    ("sft", {"data": ["pages:shapes=much"]}, "'much' is no weight"),
    ("sft", {"data": ["pages:shapes:4=1", "pages:charts:4"]}, "some sources have a weight"),
    ("sft", {"data": [""]}, "--data '' names no data"),
    ("sft", {"data": ["=3"]}, "--data '=3' names no data"),
    ("sft", {"data": ["gone.jsonl"]}, "no data at gone.jsonl"),
    ("sft", {"model": "no/such/run"}, "no model at no/such/run"),
    ("sft", {"model": ""}, "--model is empty"),
    ("distill-logits", {"teacher": " "}, "--teacher is empty"),
    ("distill-layers", {"pattern": ""}, "must be made of S"),
    ("distill-layers", {"ratio": ""}, "SWA ratio '' is no number"),
    ("sft", {"options": OPTIONS | {"context": 30}, "changes": ["max_broken=1"]}, "more than 1 broken samples"),
    ("long-sft", {"changes": ["rank=999"]}, "LoRA of rank 999"),
    ("distill-layers", {"device": "gpu"}, "use auto, cpu or cuda"),
]


@pytest.mark.parametrize(("stage", "given", "words"), MISTAKES, ids=[words for _, _, words in MISTAKES])
def test_a_mistake_is_said_before_the_first_step(tmp_path: Path, stage: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        train(stage, tmp_path, **given)
    assert not list(tmp_path.glob(f"*/{METRICS}"))


def test_a_place_that_holds_no_runs_is_said_before_the_data_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[str] = []
    monkeypatch.setattr(command, "open_source", looked_at.append)
    (tmp_path / "file").write_text("mine")
    for runs in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(UserError, match="is a file, not a folder; name another with --runs"):
            train("sft", runs)
    assert looked_at == []
    assert (tmp_path / "file").read_text() == "mine"


def test_a_student_of_another_geometry_is_refused(tmp_path: Path) -> None:
    from infinitevl_bench.models.checkpoints import new_model
    from infinitevl_bench.models.presets import get_preset
    from infinitevl_bench.models.processor import load_processor

    config = get_preset("tiny", pattern="SL")
    config.text_config.num_hidden_layers, config.text_config.layer_types = 2, config.text_config.layer_types[:2]
    new_model(config, 0).save_pretrained(tmp_path / "other")
    load_processor().save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="the teacher has num_hidden_layers 8, the student 2"):
        train("distill-logits", tmp_path / "runs", model=str(tmp_path / "other"))


@pytest.mark.parametrize("stage", STAGES)
def test_the_defaults_are_the_papers(stage: str) -> None:
    settings = stage_settings(stage, {}, "cuda")
    training, loss = settings.training, settings.loss
    assert (training.learning_rate, training.warmup, training.batch_size) == (2e-4, 0.01, 8)
    assert training.precision == "bf16"
    assert stage_settings(stage, {}, "cpu").training.precision == "no"
    assert settings.data.pixels == 1344 * 1344
    assert (loss.mse_factor, loss.temperature) == (1000, 2)
    context = {"distill-layers": 8096, "distill-logits": 8096, "sft": 8192, "long-sft": 32768}
    assert settings.data.context == context[stage]


def test_every_setting_has_a_name_of_its_own() -> None:
    parts = [getattr(STAGES["sft"], name).model_dump() for name in type(STAGES["sft"]).model_fields]
    assert len({name for part in parts for name in part}) == sum(map(len, parts))


def test_settings_and_sources_are_read_as_typed(tmp_path: Path) -> None:
    for slip in ("[", "!!bool x", "!!timestamp x", "[" * 3000):
        with pytest.raises(UserError, match="the value is no YAML"):
            parse_changes([f"a={slip}"])
    assert parse_changes(["warmup=0.1", "learnt-on=answers", "betas=[0.9, 0.95]"]) == {
        "warmup": 0.1, "learnt_on": "answers", "betas": [0.9, 0.95],
    }  # fmt: skip
    assert parse_sources(["a.json=2", "pages:charts"]) == (["a.json", "pages:charts"], [2.0, None])
    odd = tmp_path / "a=b.json"
    odd.write_text("[]")
    assert parse_sources([str(odd), f"{odd}=3"]) == ([str(odd), str(odd)], [None, 3.0])


def test_a_saved_model_says_where_it_comes_from(chain: dict[str, Path]) -> None:
    card = (chain["long-sft"] / "model" / "README.md").read_text()
    assert f"`infinitevl-bench train long-sft` (run {chain['long-sft'].name}, ended ok)" in card
