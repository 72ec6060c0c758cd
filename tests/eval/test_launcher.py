"""VLMEvalKit's own run.py drives the same model on the same files: its scores are ours, picture by picture."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from infinitevl_bench.errors import UserError
from infinitevl_bench.eval.benchmarks import BENCHMARKS, Benchmark
from infinitevl_bench.eval.isolation import process_unchanged
from infinitevl_bench.eval.launcher import run
from infinitevl_bench.eval.runner import Asking, evaluate
from infinitevl_bench.eval.synthetic import synthetic_tsv
from infinitevl_bench.models.checkpoints import load_model
from infinitevl_bench.models.shipped import DEFAULT

pytestmark = pytest.mark.usefixtures("first_import", "no_official_files")

QUESTIONS = 8


@pytest.fixture(scope="module")
def theirs(data_root: Path, tmp_path_factory: pytest.TempPathFactory, first_import: Any) -> Path:
    """The folder that run.py leaves after the shipped model has answered every twin."""
    work = tmp_path_factory.mktemp("vlmevalkit")
    twins = [synthetic_tsv(one, data_root, questions=QUESTIONS, seed=0, level=1)[0] for one in BENCHMARKS.values()]
    with process_unchanged(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMUData", str(work))
        run(["--model", DEFAULT, "--data", *map(str, twins), "--work-dir", str(work / "outputs")], device="cpu")
    return work / "outputs" / DEFAULT


def their_score(folder: Path, benchmark: Benchmark) -> float:
    """What run.py's files say, in the unit of our records."""
    stem = f"{DEFAULT}_{benchmark.twin}"
    if benchmark.reading == "ocrbench":
        hits = json.loads((folder / f"{stem}_score.json").read_text())["Final Score"]
        return 100.0 * hits / QUESTIONS
    name = "score" if benchmark.reading in ("mme", "mathvista") else "acc"
    found = sorted(folder.glob(f"{stem}*_{name}.csv"))
    assert len(found) == 1, found
    table = pd.read_csv(found[0])
    if benchmark.reading == "mme":
        return float(table["perception"].iloc[0]) + float(table["reasoning"].iloc[0])
    if benchmark.reading == "mathvista":
        return float(table[table["Task&Skill"] == "Overall"]["acc"].iloc[0])
    return float(table["Overall"].iloc[0]) * (100.0 if benchmark.reading == "mcq" else 1.0)


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=lambda benchmark: benchmark.name)
def test_run_py_gives_our_scores(benchmark: Benchmark, theirs: Path, data_root: Path) -> None:
    loaded = load_model(DEFAULT)
    ours = evaluate(
        loaded.model, loaded.processor, benchmark.name, data="synthetic", limit=QUESTIONS, data_root=data_root,
        asking=Asking(batch_size=8, blind=False),
    )  # fmt: skip
    predictions = pd.read_csv(theirs / f"{DEFAULT}_{benchmark.twin}.tsv", sep="\t", dtype=str, keep_default_na=False)
    said = {row["index"]: row["prediction"] for row in predictions.to_dict("records")}
    assert {str(row["index"]): row["prediction"] for row in ours.predictions} == said
    assert ours.records[0].metric == "score"
    assert ours.records[0].value == pytest.approx(their_score(theirs, benchmark))


def test_the_scores_that_were_compared_are_not_all_nothing(theirs: Path) -> None:
    assert sum(their_score(theirs, benchmark) > 0 for benchmark in BENCHMARKS.values()) >= 6


def test_a_file_that_is_no_twin_is_refused(tmp_path: Path) -> None:
    with process_unchanged(), pytest.raises(UserError, match="is not the synthetic twin of a benchmark"):
        run(["--model", DEFAULT, "--data", str(tmp_path / "mine.tsv")])
