"""The recipe `distill`: its stages share out the steps, go on after a kill, and are scored one after the other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitevl_bench.ablations.cell import build_model, run_cell
from infinitevl_bench.ablations.distillation import SHARES, distill, stage_steps
from infinitevl_bench.ablations.scales import SCALES
from infinitevl_bench.ablations.stages_table import STAGE_SCORE, stages_table
from infinitevl_bench.ablations.study import Study, arm_config
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.shipped import TEACHER
from infinitevl_bench.models.shipped_models import load_shipped
from infinitevl_bench.records import Record, RunFolder, RunSpec
from infinitevl_bench.training.batch import FIRST, IGNORED, TEXT, Batch
from infinitevl_bench.training.loop import TrainArguments
from rich.console import Console

SPEC = RunSpec(kind="train", arguments={})


def study(**changes: Any) -> Study:
    baseline = {"mixer": "gla", "pattern": "SL", "recipe": "distill"}
    overrides = {"steps": 8, "batch_size": 2, "log_every": 1, "checkpoint_every_seconds": 1e-9}
    return Study(baseline=baseline, changes={}, **{"overrides": overrides, "questions": 2, "pages": 8} | changes)


def batches_at(step: int) -> list[Batch]:
    ids = torch.randint(0, 90, (2, 10), generator=torch.Generator().manual_seed(step))
    kinds = torch.full_like(ids, TEXT)
    kinds[:, 0] = FIRST
    return [Batch({"input_ids": ids}, torch.where(torch.arange(10) < 5, IGNORED, ids), kinds)]


def run_stages(root: Path, stop: int | None = None) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], list[str]]:
    """Weights, metrics and stages passed of eight steps, which end before step ``stop``."""
    (cell,) = study().cells("cpu")
    model, passed = build_model(cell, root), []

    def stopping(step: int) -> list[Batch]:
        if step == stop:
            raise KeyboardInterrupt
        return batches_at(step)

    with RunFolder(root, SPEC) as folder:
        arguments = TrainArguments.model_validate(cell.arguments["training"])
        options: dict[str, Any] = {"on_step": lambda row: None, "after_stage": passed.append, "device": "cpu"}
        distill(model, load_shipped(TEACHER), stopping, arguments, folder, "data", **options)
        return model.state_dict(), folder.rows("metrics.jsonl"), passed


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_stage_that_was_interrupted_goes_on_to_the_same_weights(tmp_path: Path, stop: int) -> None:
    weights, rows, passed = run_stages(tmp_path / "whole")
    assert passed == ["distill-layers", "distill-logits"]
    assert [row["step"] for row in rows] == list(range(1, 9))
    stages = [stage for stage, steps in stage_steps(8).items() for _ in range(steps)]
    assert [row["stage"] for row in rows] == stages
    with pytest.raises(KeyboardInterrupt):
        run_stages(tmp_path / "broken", stop)
    again, rows_again, _ = run_stages(tmp_path / "broken")
    assert [row["loss"] for row in rows_again] == [row["loss"] for row in rows]
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())


def test_the_stages_take_the_steps_that_a_cell_from_scratch_takes() -> None:
    for steps in (6, 7, 600, 601, 3000):
        counts = stage_steps(steps)
        assert list(counts) == list(SHARES)
        assert sum(counts.values()) == steps
    with pytest.raises(UserError, match="1 steps are too few for 3 stages"):
        stage_steps(1)


def test_a_cell_is_scored_after_every_stage(tmp_path: Path) -> None:
    (cell,) = study().cells("cpu")
    records = run_cell(cell, tmp_path)
    benchmarks = SCALES["tiny"].benchmarks
    for stage in ("distill-layers", "distill-logits"):
        scores = [r for r in records if r.metric == STAGE_SCORE and r.extra["stage"] == stage]
        assert [r.benchmark for r in scores] == list(benchmarks)
    assert [r.benchmark for r in records if r.metric == "score"] == list(benchmarks)
    assert {r.steps for r in records if r.metric == "score"} == {8}
    assert {r.extra["recipe"] for r in records} == {"distill"}
    losses = {metric: [r.steps for r in records if r.metric == metric] for metric in ("loss_distill-layers", "loss")}
    assert losses == {"loss_distill-layers": [1, 2], "loss": [5, 6, 7, 8]}


def test_an_unknown_recipe_is_named() -> None:
    with pytest.raises(UserError, match=r"unknown recipe 'distil'; did you mean distill\?"):
        Study(baseline={"pattern": "SL"}, changes={"recipe": ["distil"]}).cells("cpu")


def test_recipes_that_are_compared_have_the_same_student() -> None:
    baseline = {"mixer": "linear_attention", "pattern": "SL"}
    cells = Study(baseline=baseline, changes={"recipe": ["distill", "scratch"]}).cells("cpu")
    sizes = {cell.arguments["recipe"]: arm_config(cell).config.text_config.intermediate_size for cell in cells}
    # Wider than the teacher's 256: the arm holds less without, and a student keeps all of its teacher's units.
    assert sizes["distill"] == sizes["scratch"] > 256
    with pytest.raises(UserError, match="recipe distill takes over its teacher's FFNs"):
        Study(baseline=baseline, changes={"recipe": ["scratch", "distill"]}, match="params").cells("cpu")


def inheriting(teacher: str) -> Study:
    return Study(baseline={"mixer": "gla", "pattern": "SL", "recipe": "inherit"}, changes={}, teacher=teacher)


def test_the_teacher_comes_first() -> None:
    (teacher,) = study().teachers("cpu")
    assert (teacher.arguments["pattern"], teacher.arguments["recipe"]) == ("F", "shipped")
    assert inheriting("shipped").teachers("cpu") == []
    trained = inheriting("trained")
    (teacher,) = trained.teachers("cpu")
    assert (teacher.arguments["pattern"], teacher.arguments["recipe"]) == ("F", "scratch")
    assert [cell.arguments["teacher"] for cell in trained.cells("cpu")] == [teacher.id]
    with pytest.raises(UserError, match="unknown teacher 'shiped'; did you mean shipped"):
        inheriting("shiped").cells("cpu")


def test_a_student_takes_over_from_the_teacher_that_was_trained(tmp_path: Path) -> None:
    trained = inheriting("trained")
    (teacher,), (cell,) = trained.teachers("cpu"), trained.cells("cpu")
    built = build_model(teacher, tmp_path)
    built.save_pretrained(tmp_path / teacher.id / "model")
    from infinitevl_bench.models.processor import load_processor

    load_processor().save_pretrained(tmp_path / teacher.id / "model")
    student = build_model(cell, tmp_path)
    theirs = built.state_dict()
    same = [
        name for name, tensor in student.state_dict().items() if name in theirs and torch.equal(theirs[name], tensor)
    ]
    assert "model.language_model.layers.0.self_attn.q_proj.weight" in same
    assert "model.language_model.layers.7.input_layernorm.weight" in same
    ours, units = student.state_dict(), built.config.text_config.intermediate_size
    name = "model.language_model.layers.7.mlp.up_proj.weight"
    assert torch.equal(ours[name][:units], theirs[name])


@pytest.fixture
def make_record() -> Callable[..., Record]:
    def make(value: float, metric: str = "score", run: str = "a", **extra: Any) -> Record:
        return Record(
            artifact="ablation", metric=metric, value=value, unit="%", model="tiny", source="measured", mixer="gla",
            pattern="SL", seed=0, benchmark="ChartQA", run_id=run, extra={"variant": "", **extra},
        )  # fmt: skip

    return make


def test_the_table_compares_with_scratch_whatever_comes_out(make_record: Callable[..., Record]) -> None:
    records = [
        make_record(1.5, STAGE_SCORE, recipe="distill", stage="distill-layers"),
        make_record(2.5, STAGE_SCORE, recipe="distill", stage="distill-logits"),
        make_record(10.0, recipe="distill"),
        make_record(12.25, run="b", recipe="scratch"),
    ]
    console = Console(width=100, record=True, quiet=False)
    console.print(stages_table([make_record(30.0)], records))
    lines = [" ".join(line.replace("│", " ").split()) for line in console.export_text().splitlines()]
    assert "teacher 30.0" in lines
    assert "gla SL seed 0: distill-layers 1.5" in lines
    assert "gla SL seed 0: sft 10.0" in lines
    assert "gla SL seed 0: from scratch, equal steps 12.2" in lines
    assert "distilled − scratch, in points -2.2" in lines
