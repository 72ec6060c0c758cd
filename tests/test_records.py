"""Records and run folders: nothing half-written, nothing lost, nothing doubled, errors that name the place."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from infinitevl_bench.errors import UserError, unknown_name
from infinitevl_bench.records import (
    Record,
    RunFolder,
    RunHeldError,
    RunSpec,
    atomic_write,
    environment,
    finished_runs,
    measured_records,
    read_records,
    write_records,
)
from pydantic import ValidationError

RECORD = Record(artifact="table3", metric="score", value=12.5, unit="%", model="tiny", source="measured")
SPEC = RunSpec(kind="ablate", arguments={"mixer": "gla", "seed": 0})


def test_records_survive_a_round_trip(tmp_path: Path) -> None:
    records = [RECORD, RECORD.model_copy(update={"seed": 3, "extra": {"note": "a «β» < 1", "n": 2, "ok": True}})]
    write_records(tmp_path / "a.jsonl", records)
    assert read_records(tmp_path / "a.jsonl") == records


@pytest.mark.parametrize("field", ["value", "ci_low", "ci_high", "frames", "n", "seed"])
@pytest.mark.parametrize("number", ["1e300", "-1e300", "NaN", "Infinity"])
def test_a_number_that_no_figure_could_show_is_refused(tmp_path: Path, field: str, number: str) -> None:
    line = json.dumps(RECORD.model_dump(mode="json") | {field: 0}).replace(f'"{field}": 0', f'"{field}": {number}')
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(UserError, match=rf"a\.jsonl, record 1: {field}: "):
        read_records(tmp_path / "a.jsonl")


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"artifact": "x"}', '{"nonsense": 1}', '"' + "x" * 50])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    write_records(path, [RECORD])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=r"a\.jsonl, (line|record) 2"):
        read_records(path)


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.jsonl"
    path.write_text(text, encoding="utf-8")
    try:
        read_records(path)
    except UserError as error:
        assert "a.jsonl" in str(error)  # noqa: PT017 - either outcome is fine, silence about the place is not


@pytest.mark.parametrize(
    "change", [{"value": float("nan")}, {"source": "guessed"}, {"split": "test"}, {"schema_version": 2}]
)
def test_fields_are_checked(change: dict) -> None:
    with pytest.raises(ValidationError):
        Record.model_validate(RECORD.model_dump() | change)


def test_the_id_depends_on_the_request_alone() -> None:
    assert SPEC.id == RunSpec(kind="ablate", arguments={"seed": 0, "mixer": "gla"}).id
    assert SPEC.id != RunSpec(kind="ablate", arguments={"seed": 1, "mixer": "gla"}).id
    assert SPEC.id != RunSpec(kind="eval", arguments={"seed": 0, "mixer": "gla"}).id
    assert SPEC.id.startswith("ablate-")


def test_a_run_is_finished_when_its_result_is_there(tmp_path: Path) -> None:
    with RunFolder(tmp_path, SPEC) as folder:
        assert not folder.finished
        folder.write_environment("cpu")
        folder.finish([RECORD], status="ok")
        assert folder.finished
        assert folder.records() == [RECORD]
    assert [path.name for path, _ in finished_runs(tmp_path)] == [SPEC.id]
    assert RECORD in measured_records(tmp_path)


def test_two_processes_never_share_a_run_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib\nfrom infinitevl_bench.records import RunFolder, RunSpec\n"
        "spec = RunSpec(kind='ablate', arguments={'mixer': 'gla', 'seed': 0})\n"
        "with RunFolder(pathlib.Path(sys.argv[1]), spec):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(RunHeldError, match="held by another process"), RunFolder(tmp_path, SPEC):
        pass
    process.kill()
    process.wait()
    with RunFolder(tmp_path, SPEC) as folder:
        assert not folder.finished


def test_a_row_cut_off_by_a_kill_is_dropped_and_the_next_one_is_whole(tmp_path: Path) -> None:
    with RunFolder(tmp_path, SPEC) as folder:
        folder.append("metrics.jsonl", {"step": 1})
        with open(folder.path / "metrics.jsonl", "a") as file:
            file.write('{"step": 2, "lo')
        assert folder.rows("metrics.jsonl") == [{"step": 1}]
        folder.append("metrics.jsonl", {"step": 2})
        assert folder.rows("metrics.jsonl") == [{"step": 1}, {"step": 2}]
        folder.truncate("metrics.jsonl", 1)
        assert folder.rows("metrics.jsonl") == [{"step": 1}]


def test_a_kill_while_writing_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    script = (
        "import sys, pathlib\nfrom infinitevl_bench.records import atomic_write\n"
        "path = pathlib.Path(sys.argv[1])\nn = 0\n"
        "while True:\n    atomic_write(path, str(n % 10) * 200_000)\n    n += 1\n"
    )
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", script, str(path)])
        while not path.exists():
            time.sleep(0.01)
        time.sleep(0.05)
        process.kill()
        process.wait()
        content = path.read_text()
        assert len(content) == 200_000
        assert len(set(content)) == 1
        path.unlink()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    atomic_write(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_a_place_that_is_no_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match="--runs"), RunFolder(tmp_path / "runs", SPEC):
        pass


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / SPEC.id).mkdir()
    for content in ("{", "[]", json.dumps({"records": [{"artifact": 1}]})):
        (tmp_path / SPEC.id / "result.json").write_text(content)
        with pytest.raises(UserError, match=r"result\.json"):
            measured_records(tmp_path)


def test_the_environment_names_versions_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_value")
    described = json.dumps(environment("cpu"))
    assert "torch" in described
    assert "hf_secret_value" not in described


def test_unknown_names_answer_with_the_nearest() -> None:
    assert "did you mean gla?" in str(unknown_name("mixer", "GLAA", ["gla", "mamba2"]))
    assert "known: gla, mamba2" in str(unknown_name("mixer", "zzz", ["mamba2", "gla"]))
