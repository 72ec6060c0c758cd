"""Splits without public answers: a file for their server, no score, and never under another split's name."""

import json
from pathlib import Path
from typing import Any

import pytest
from infinitevl_bench.eval.benchmarks import HELD_BACK
from infinitevl_bench.eval.command import Request, eval_command
from infinitevl_bench.eval.submission import write_submission
from openpyxl import load_workbook

pytestmark = pytest.mark.usefixtures("first_import", "no_official_files")


def request(runs: Path, **changes: Any) -> Request:
    fields: dict[str, Any] = {
        "model": "tiny", "data": "synthetic", "limit": 3, "batch_size": 4, "level": 1, "seed": 0, "device": "cpu",
    }  # fmt: skip
    return Request(**fields | changes, runs=runs)


@pytest.mark.parametrize("name", HELD_BACK)
def test_a_held_back_split_gets_a_file_and_no_score(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (result,) = eval_command([name], None, request(tmp_path))
    assert result.records == []
    assert result.submission is not None
    assert result.submission.is_file()
    shown = capsys.readouterr().out
    assert f"{name}: " in shown
    assert "its answers are not public, so there is no score" in shown
    assert f"SYNTHETIC {name}_SYNTH" in shown
    assert not list(result.submission.parent.glob("*blind*"))
    assert all("score" not in row for row in result.predictions)
    (again,) = eval_command([name], None, request(tmp_path))
    assert again.submission == result.submission
    assert again.predictions == result.predictions


def test_docvqas_server_gets_its_question_ids(tmp_path: Path) -> None:
    rows = [{"index": 0, "questionId": 337, "question": "q"}, {"index": 1, "questionId": 338, "question": "r"}]
    said = [{"prediction": 'the "sum" = 5'}, {"prediction": "é"}]
    path = write_submission(HELD_BACK["DocVQA_TEST"], rows, said, tmp_path)
    expected = [{"questionId": 337, "answer": 'the "sum" = 5'}, {"questionId": 338, "answer": "é"}]
    assert json.loads(path.read_text(encoding="utf-8")) == expected


def test_mmbenchs_server_gets_a_spreadsheet_without_formulas(tmp_path: Path) -> None:
    rows = [
        {"index": 1, "question": "=1+1?", "A": "2", "B": float("nan"), "image": "long"},
        {"index": 1_000_001, "question": "q", "A": "x", "B": "y", "image": "long"},
    ]
    said = [{"prediction": '=cmd|"/c calc"!A1'}, {"prediction": "A\x0c"}]
    path = write_submission(HELD_BACK["MMBench_TEST_EN"], rows, said, tmp_path)
    sheet = load_workbook(path).active
    assert [[cell.value for cell in line] for line in sheet.iter_rows()] == [
        ["index", "question", "A", "B", "prediction"],
        [1, "=1+1?", "2", None, '=cmd|"/c calc"!A1'],
        [1_000_001, "q", "x", "y", "A"],
    ]
    assert {sheet["B2"].data_type, sheet["E2"].data_type} == {"s"}


def test_a_suite_is_one_model_on_all_its_benchmarks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = eval_command((), "video", request(tmp_path, limit=2, blind=False, frames=(4,)))
    assert [result.benchmark.name for result in results] == ["Video-MME", "LongVideoBench"]
    for result in results:
        (record,) = result.records
        assert (record.artifact, record.metric, record.frames, record.n) == ("fig_frames", "score", 4, 2)
    assert "all benchmarks" in capsys.readouterr().out
