"""The study of multi-query recall: its cells, its bad input, a kill, and all of it end to end in a few steps."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from infinitevl_bench.ablations.command import study_command
from infinitevl_bench.ablations.mqar import PLAN, RECALL_SIZES, RecallSize, config_of
from infinitevl_bench.ablations.mqar_vision import SEEN_SIZES
from infinitevl_bench.ablations.plan import VALIDATION_SCORE
from infinitevl_bench.ablations.studies import get_plan
from infinitevl_bench.ablations.worker import work
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.accounting import cache_elements
from infinitevl_bench.models.recall import new_recall_model, trained_parameters
from infinitevl_bench.models.registry import mixer_names
from infinitevl_bench.records import Record, RunFolder, RunSpec
from infinitevl_bench.reports.artifacts import make_artifact
from infinitevl_bench.reports.claims import CLAIMS, judge
from infinitevl_bench.training.loop import TrainArguments
from rich.console import Console

SMALLEST = RecallSize(
    tasks=((16, 2, 4), (32, 4, 8)),
    widths=(16, 32),
    vocabulary=32,
    training=TrainArguments(steps=4),
    examples=32,
    test_examples=6,
    probe_examples=4,
    learning_rates=(1e-3, 1e-2),
    test_seeds=2,
    probes=2,
)
POINTS = [(context, width) for context in (16, 32) for width in (16, 32)]

WORKER = """
import json, sys
from pathlib import Path
from infinitevl_bench.ablations.worker import work
from infinitevl_bench.records import RunSpec
sys.exit(work([RunSpec.model_validate(row) for row in json.loads(sys.argv[1])], Path(sys.argv[2])))
"""


@pytest.fixture
def smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study in a few steps, its cells run as a worker runs them but in this process."""

    def run_here(specs: list[RunSpec], runs: Path, jobs: int, console: Console) -> list[Record]:
        assert work(specs, runs) == 0
        return [record for spec in specs for record in RunFolder(runs, spec).records()]

    monkeypatch.setitem(RECALL_SIZES, "tiny", SMALLEST)
    monkeypatch.setattr("infinitevl_bench.ablations.command.run_grid", run_here)


def run(runs: Path, **changes: Any) -> list[Record]:
    options = {"study": "mqar", "arms": ["gated_deltanet"], "steps": None, "jobs": 1, "runs": runs}
    return study_command(**options | {"scale": "tiny", "device": "cpu"} | changes)


def rates_of(scale: str) -> dict[str, float]:
    return {cell.arguments["point"]: 1e-3 for cell in PLAN.validation_cells(scale, "cpu")}


def test_every_mixer_and_control_is_an_arm_and_the_sizes_are_the_published_ones() -> None:
    assert {arm.mixer for arm in PLAN.arms.values() if arm.pattern == "L"} == set(mixer_names())
    assert {"L", "S", "F"} == {arm.pattern for arm in PLAN.arms.values()}
    small = RECALL_SIZES["small"]
    assert small.vocabulary == 8192
    assert small.tasks == ((64, 4, 512), (128, 8, 512), (256, 16, 256))
    assert (small.examples, small.test_examples) == (100_000, 3_000)
    assert small.learning_rates == pytest.approx([10 ** (-4 + 2 / 3 * step) for step in range(4)], rel=3e-3)


@pytest.mark.parametrize("name", ["mqar", "mqar_vision"])
def test_the_cost_that_the_docstring_gives_is_what_the_cells_make(name: str) -> None:
    plan = get_plan(name)
    chosen = plan.validation_cells("small", "cpu")
    cells = [*chosen, *plan.test_cells("small", "cpu", {cell.arguments["point"]: 1e-3 for cell in chosen})]
    tokens = sum(
        cell.arguments["training"]["steps"]
        * cell.arguments["training"]["batch_size"]
        * cell.arguments["sequences"]["length"]
        for cell in cells
    )
    said = f"{tokens / len(plan.arms) / 1e9:.1f} G tokens an arm, {tokens / 1e9:.0f} G for all {len(plan.arms)}"
    docstring = import_module(f"infinitevl_bench.ablations.{name}").__doc__
    assert docstring is not None
    assert all(words in docstring for words in ("Claim", "Artifact", f"--study {name}", said))


@pytest.mark.parametrize("scale", RECALL_SIZES)
def test_cells_are_different_and_choose_rates_on_seeds_and_splits_that_are_not_tested(scale: str) -> None:
    size = RECALL_SIZES[scale]
    chosen = PLAN.validation_cells(scale, "cpu")
    tested = PLAN.test_cells(scale, "cpu", rates_of(scale))
    assert len({cell.id for cell in chosen + tested}) == len(chosen) + len(tested)
    points = len(PLAN.arms) * len(size.tasks) * len(size.widths)
    assert (len(chosen), len(tested)) == (points * len(size.learning_rates), points * size.test_seeds)
    assert len(set(PLAN.rates(scale))) >= 3
    assert not {c.arguments["seed"] for c in chosen} & {c.arguments["seed"] for c in tested}
    for cell in chosen + tested:
        splits = {name: one["split"] for name, one in cell.arguments["sets"].items()}
        wanted = {"probe": "validation"} | ({"test": "test"} if cell.arguments["role"] == "test" else {})
        assert splits == wanted
        assert cell.arguments["sequences"]["split"] == "train"
    for cell in chosen[:: points // len(PLAN.arms) * len(size.learning_rates)]:
        assert config_of(cell).text_config.pattern == cell.arguments["pattern"]


def test_the_best_rate_is_chosen_for_every_point_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECALL_SIZES, "tiny", replace(SMALLEST, widths=(16,)))
    plan = PLAN.only(["gla"], "tiny")
    cells = plan.validation_cells("tiny", "cpu")
    # The second rate is better at the first task, and at the second both are alike.
    records = [
        Record(
            artifact="mqar", metric=VALIDATION_SCORE, value=value, unit="%", model="recall", source="measured",
            run_id=cell.id,
        )
        for cell, value in zip(cells, (10, 20, 30, 30), strict=True)
    ]  # fmt: skip
    assert list(plan.best_rates(cells, records).values()) == [1e-2, 1e-3]


@pytest.mark.usefixtures("smallest")
def test_bad_input_is_named_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean gated_deltanet"):
        run(tmp_path, arms=["gated_delta"])
    with pytest.raises(UserError, match="mqar has no videos"):
        run(tmp_path, frames=[32])
    with pytest.raises(UserError, match="unknown scale of a study 'huge'"):
        run(tmp_path, scale="huge")
    monkeypatch.setitem(RECALL_SIZES, "tiny", replace(SMALLEST, tasks=((16, 5, 4),)))
    with pytest.raises(UserError, match="5 pairs do not fit a sequence of 16 tokens"):
        run(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("smallest")
def test_the_study_end_to_end(tmp_path: Path, capsys: Any) -> None:
    records = run(tmp_path, arms=["gated_deltanet", "full_attention"])
    shown = capsys.readouterr().out
    assert all(words in shown for words in ("learning rate, chosen on", "queries answered in %", "4 pairs in 32"))
    chosen = [record for record in records if record.metric == VALIDATION_SCORE]
    assert len(chosen) == 2 * len(POINTS) * 2
    scores = [record for record in records if record.metric == "score"]
    for mixer, pattern in (("gated_deltanet", "L"), ("none", "F")):
        own = [r for r in scores if (r.mixer, r.pattern) == (mixer, pattern)]
        found = [(record.context, record.extra["width"], record.seed) for record in own]
        assert sorted(found) == sorted((*point, seed) for point in POINTS for seed in (0, 1))
    specs = {cell.id: cell for cell in PLAN.test_cells("tiny", "cpu", dict.fromkeys(rates_of("tiny"), 1e-3))}
    for record in scores:
        assert (record.artifact, record.split, record.scale) == ("mqar", "synthetic", "tiny")
        assert record.n == SMALLEST.test_examples * int(record.extra["pairs"] or 0)
        assert record.ci_low is not None
        assert record.ci_low <= record.value <= (record.ci_high or 0)
        if record.run_id in specs:
            config = config_of(specs[record.run_id])
            assert record.parameters == trained_parameters(new_recall_model(config, 0))
            assert record.extra["kept_elements"] == cache_elements(config, record.context or 0)
    assert {r.steps for r in records if r.metric == "probe"} == {2, 4}
    # Losses of these sequences are no curve of the others' figure.
    assert {r.metric for r in records if r.metric.endswith("loss")} == {"mqar_loss"}
    artifact = make_artifact("mqar", records)
    assert len(artifact.tables[0].rows) == 2 * len(POINTS)
    assert "infinitevl-bench ablate --study mqar --scale small" in [one.command for one in artifact.missing]
    for name in ("table3", "state_recall", "learning_curves", "probe_curves", "difficulty", "table2"):
        assert not set(artifact.runs) & set(make_artifact(name, records).runs)
    # No claim of the paper rests on it.
    assert [judge(name, records) for name in CLAIMS] == [judge(name, ()) for name in CLAIMS]
    # What is finished is not run again.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    assert run(tmp_path, arms=["gated_deltanet", "full_attention"]) == records
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")} == before


@pytest.mark.usefixtures("smallest")
def test_over_image_tokens_the_same_is_asked_and_recorded_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = replace(SMALLEST, tasks=((16, 2, 4),), widths=(128,), learning_rates=(1e-3,))
    monkeypatch.setitem(SEEN_SIZES, "tiny", seen)
    records = run(tmp_path, study="mqar_vision", arms=["gla"])
    scores = [record for record in records if record.metric == "score"]
    assert {(r.benchmark, r.split, r.context, r.extra["width"]) for r in scores} == {
        ("MQAR-vision", "synthetic", 16, 128)
    }
    assert [record.seed for record in scores] == [0, 1]
    # All cells share the features of three sets: training, validation and test.
    assert len(list((tmp_path / "cache").glob("recall-*.safetensors"))) == 3
    (table,) = make_artifact("mqar", records).tables
    assert table.title.startswith("MQAR-vision (synthetic)")
    monkeypatch.setitem(SEEN_SIZES, "tiny", replace(seen, vocabulary=2000))
    with pytest.raises(UserError, match="two characters name 1156 tokens and not 2000"):
        run(tmp_path / "other", study="mqar_vision", arms=["gla"])


def test_both_studies_have_the_same_arms_and_their_cells_differ() -> None:
    plans = [get_plan(name) for name in ("mqar", "mqar_vision")]
    assert plans[0].arms == plans[1].arms
    cells = [{cell.id for cell in plan.validation_cells("tiny", "cpu")} for plan in plans]
    assert not cells[0] & cells[1]


@pytest.mark.usefixtures("smallest")
@pytest.mark.slow
def test_a_killed_cell_goes_on_from_its_checkpoint_to_the_same_records(tmp_path: Path) -> None:
    spec = PLAN.only(["gated_deltanet"], "tiny").test_cells("tiny", "cpu", rates_of("tiny"), steps=40)[0]
    changes = {"log_every": 1, "checkpoint_every_seconds": 1e-9}
    spec = RunSpec(kind=spec.kind, arguments=spec.arguments | {"training": spec.arguments["training"] | changes})
    whole, broken = (RunFolder(tmp_path / name, spec) for name in ("whole", "broken"))
    assert work([spec], tmp_path / "whole") == 0
    rows = broken.path / "metrics.jsonl"
    asked = json.dumps([spec.model_dump(mode="json")])
    process = subprocess.Popen([sys.executable, "-c", WORKER, asked, str(tmp_path / "broken")])
    deadline = time.monotonic() + 120
    while not rows.exists() or len(rows.read_text().splitlines()) < 5:
        assert time.monotonic() < deadline, "training never began"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not broken.finished
    assert work([spec], tmp_path / "broken") == 0
    numbers = [[record.model_dump() for record in folder.records()] for folder in (whole, broken)]
    for row in (row for rows_of in numbers for row in rows_of):
        row["extra"].pop("train_seconds")
    assert numbers[0] == numbers[1]


@pytest.mark.usefixtures("smallest")
def test_a_cell_that_diverges_is_recorded_and_the_study_goes_on(tmp_path: Path) -> None:
    cells = PLAN.only(["gated_deltanet"], "tiny").test_cells("tiny", "cpu", rates_of("tiny"))[:2]
    training = cells[0].arguments["training"] | {"diverged_at": 1e-3, "log_every": 1}
    cells[0] = RunSpec(kind="ablate", arguments=cells[0].arguments | {"training": training})
    assert work(cells, tmp_path) == 0
    folders = [RunFolder(tmp_path, cell) for cell in cells]
    assert [folder.result()["summary"]["status"] for folder in folders] == ["diverged", "ok"]
    scores = [record for folder in folders for record in folder.records() if record.metric == "score"]
    assert [(record.steps, record.extra["status"]) for record in scores] == [(4, "diverged"), (4, "ok")]
