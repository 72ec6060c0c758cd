"""Folders of runs: whatever their state, they are listed, shown, compared and exported; only the unfinished go."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from infinitevl_bench.archive.commands import diff_runs, export_records, list_runs, prune_runs, show_run
from infinitevl_bench.archive.folders import all_runs, find_run
from infinitevl_bench.errors import UserError
from infinitevl_bench.records import Record, RunFolder, RunSpec, measured_records, read_records
from infinitevl_bench.tidy import frame

HOLD = (
    "import sys, pathlib\nfrom infinitevl_bench.records import RunFolder, RunSpec\n"
    "with RunFolder(pathlib.Path(sys.argv[1]), RunSpec(kind='ablate', arguments={'mixer': 'held'})):\n"
    "    print('held', flush=True)\n    sys.stdin.read()\n"
)


def score(value: float, **changes: object) -> Record:
    fields = {
        "artifact": "ablation", "metric": "score", "value": value, "unit": "%", "model": "tiny", "source": "measured",
        "benchmark": "DocVQA", "split": "synthetic", "seed": 0, "n": 10,
    } | changes  # fmt: skip
    return Record.model_validate(fields)


def finished(root: Path, mixer: str, value: float) -> str:
    spec = RunSpec(kind="ablate", arguments={"mixer": mixer, "training": {"steps": 5}})
    with RunFolder(root, spec) as folder:
        folder.write_environment("cpu")
        folder.finish([score(value, mixer=mixer, extra={"note": "[bold]x", "level": 1})], status="ok")
    return spec.id


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "200")
    root = tmp_path / "runs"
    finished(root, "gla", 40.0)
    finished(root, "[red]", 50.0)
    with RunFolder(root, RunSpec(kind="ablate", arguments={"mixer": "half"})) as folder:
        folder.append("metrics.jsonl", {"step": 1})
    broken = RunSpec(kind="eval", arguments={"benchmark": "DocVQA"})
    with RunFolder(root, broken) as folder:
        (folder.path / "result.json").write_text("{")
    (root / "data").mkdir()
    return root


def states(root: Path) -> dict[str, str]:
    return {run.id: run.state for run in all_runs(root)}


def test_every_state_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert sorted(states(root).values()) == ["damaged", "finished", "finished", "held", "unfinished"]
        prune_runs(root, yes=True)
        assert sorted(states(root).values()) == ["damaged", "finished", "finished", "held"]
    finally:
        process.kill()
        process.wait()
    list_runs(root)
    said = capsys.readouterr().out
    for word in ("damaged", "unfinished", "finished", "[red]", "DocVQA 50.0"):
        assert word in said


def test_a_run_of_many_scores_is_a_line_of_eighty_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    spec = RunSpec(kind="ablate", arguments={"mixer": "gla"})
    with RunFolder(tmp_path, spec) as folder:
        folder.finish([score(float(n), benchmark=f"ABenchmark{n}") for n in range(12)], status="ok")
    list_runs(tmp_path)
    heading, line, note = capsys.readouterr().out.splitlines()
    assert heading.startswith("run ")
    assert line.split()[:6] == [spec.id, "finished", "gla", "5.5", "(of", "12)"]
    assert "mean of N scores" in note


def test_nothing_is_removed_without_being_told_to(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = root / next(path for path, state in states(root).items() if state == "finished")
    # As tempfile, safetensors and a model's folder leave them.
    for scrap in (".result.json.abcd_012", "model/.tmpIWZpdk", ".model.abcdefgh/model.safetensors"):
        (whole / scrap).parent.mkdir(exist_ok=True)
        (whole / scrap).write_text("half")
    before = states(root)
    prune_runs(root, yes=False)
    assert states(root) == before
    said = capsys.readouterr().out
    assert "1 unfinished runs, 3 half-written files" in said
    assert "--yes" in said
    prune_runs(root, yes=True)
    assert "unfinished" not in states(root).values()
    assert {path.name for path in whole.rglob("*")} == {".lock", "spec.yaml", "env.json", "result.json", "model"}
    assert len(measured_records(None)) < len(frame_of(root))


def frame_of(root: Path) -> pd.DataFrame:
    return frame(record.model_dump() for run in all_runs(root) for record in (*run.records, *measured_records(None)))


def test_a_run_is_shown_and_found_by_the_beginning_of_its_id(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = next(run for run in all_runs(root) if run.arguments.get("mixer") == "[red]")
    assert find_run(run.id[:12], root) == find_run(str(run.path), root) == run
    show_run(run.id, root)
    said = capsys.readouterr().out
    for word in ("mixer: [red]", "training.steps: 5", "packages.torch", "DocVQA synthetic", "50", "result.json"):
        assert word in said
    with pytest.raises(UserError, match="begins 3 runs"):
        find_run("ablate-", root)
    with pytest.raises(UserError, match="did you mean"):
        find_run(run.id[:-1] + "zz", root)


def test_differences_are_told_and_equal_parts_are_not(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (run.id for run in all_runs(root) if run.state == "finished")
    diff_runs(first, second, root)
    said = capsys.readouterr().out
    assert "10" in said
    assert "mixer" in said
    assert "training.steps" not in said
    diff_runs(first, first, root)
    assert capsys.readouterr().out == "no difference\n"


def test_differences_can_be_read_at_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ids = []
    for mixer, value in (("gla", -123.456), ("gated_deltanet", 1234.56)):
        arguments = {"mixer": mixer, "weights": 50 * mixer[:2], "training": {"checkpoint_every_seconds": value}}
        spec = RunSpec(kind="ablate", arguments=arguments)
        with RunFolder(tmp_path, spec) as folder:
            folder.finish([score(value), score(value, benchmark="LongVideoBench", frames=1024)])
        ids.append(spec.id)
    diff_runs(*ids, tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [f"A: {ids[0]}", f"B: {ids[1]}"]
    rows = [line.split() for line in said]
    assert ["A", "B"] in rows
    assert ["mixer", "gla", "gated_deltanet"] in rows
    assert ["training.checkpoint_every_seconds", "-123.456", "1234.56"] in rows
    assert ["score", "DocVQA", "synthetic", "-123.456", "1234.56", "+1358"] in rows
    assert ["score", "LongVideoBench", "synthetic", "1,024", "frames", "-123.456", "1234.56", "+1358"] in rows
    assert said[-3:] == ["weights", f"  A: {50 * 'gl'}", f"  B: {50 * 'ga'}"]


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_records_leave_as_one_tidy_table(root: Path, tmp_path: Path, ending: str) -> None:
    damaged = next(run.path for run in all_runs(root) if run.state == "damaged")
    with pytest.raises(UserError, match=r"result\.json"):
        export_records(tmp_path / f"a{ending}", root)
    (damaged / "result.json").unlink()
    export_records(tmp_path / f"a{ending}", root)
    table = (pd.read_csv if ending == ".csv" else pd.read_parquet)(tmp_path / f"a{ending}", **LOW.get(ending, {}))
    records = measured_records(root)
    assert len(table) == len(records)
    assert list(table["value"]) == [record.value for record in records]
    mine = table[table["extra_note"].notna() & (table["artifact"] != "loading")]
    assert list(mine["benchmark"]) == ["DocVQA"] * 2
    assert list(mine["extra_note"]) == ["[bold]x"] * 2


def test_records_leave_as_the_package_ships_them(root: Path, tmp_path: Path) -> None:
    finished = [run for run in all_runs(root) if run.state == "finished"]
    for run in finished:
        (run.path / "env.json").write_text(json.dumps({"device": "a card", "command": ["bench", "/home/me/runs"]}))
    export_records(tmp_path / "mine.jsonl", root)
    assert read_records(tmp_path / "mine.jsonl") == [record for run in finished for record in run.records]
    environments = json.loads((tmp_path / "mine.environments.json").read_text())
    assert set(environments) == {run.id for run in finished if run.records}
    assert all(one == {"device": "a card", "command": ["bench", "…/runs"]} for one in environments.values())


LOW: dict[str, dict[str, bool]] = {".csv": {"low_memory": False}}


def test_columns_have_one_type_each() -> None:
    rows = [score(1.0, extra={"a": 1, "b": True, "c": 1}), score(2.5, seed=None, extra={"a": "x", "b": None, "c": 0.5})]
    rows.append(score(3.0, extra={"d": 2**70, "e": 10**400}))
    table = frame(row.model_dump() for row in rows)
    expected = {
        "value": "Float64", "seed": "Int64", "extra_a": "string", "extra_b": "boolean", "extra_c": "Float64",
        "extra_d": "Float64", "extra_e": "string", "metric": "string",
    }  # fmt: skip
    assert {name: str(table[name].dtype) for name in expected} == expected
    assert frame([]).empty


def test_bad_places_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of"):
        export_records(tmp_path / "a.xlsx", root)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        all_runs(tmp_path / "file")
    with pytest.raises(UserError, match="holds no runs"):
        find_run("x", tmp_path / "none")
    assert all_runs(tmp_path / "none") == []
    for empty in ("", " "):
        with pytest.raises(UserError, match="the name of a run is empty"):
            find_run(empty, root)
    with pytest.raises(UserError, match="unknown run 'x"):
        find_run("x" * 300, root)


def test_names_from_files_command_no_terminal(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = finished(root, "\x1b[2J[/]", 1e9)
    (root / name).rename(root / "a [red] \x1b[2J:smile:\nb")
    list_runs(root)
    show_run("a [red]", root)
    diff_runs("a [red]", next(iter(states(root))), root)
    prune_runs(root, yes=False)
    said = capsys.readouterr().out
    assert "\x1b" not in said
    for words in (r"a [red] \x1b[2J:smile:", r"mixer: \x1b[2J[/]", "DocVQA 1e+09"):
        assert words in said


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything, where these tests have it."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(own)


@pytest.fixture
def open_root(root: Path) -> Iterator[Path]:
    """The runs, where whoever is nobody may look."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(root, folder / "runs")
        folder.chmod(0o755)
        yield folder / "runs"
        for path in (folder / "runs", *(folder / "runs").rglob("*")):
            path.chmod(0o755)


def test_what_may_not_be_read_is_said_and_its_numbers_are_not_passed_over(open_root: Path) -> None:
    whole = [name for name, state in states(open_root).items() if state == "finished"]
    for name, place, problem in (
        (whole[0], "", "spec.yaml cannot be read (Permission denied)"),
        (whole[1], "result.json", "make it a readable file, or move the run's folder elsewhere"),
    ):
        (open_root / name / place).chmod(0o000)
        with as_nobody():
            found = find_run(name, open_root)
            assert found.state == "damaged"
            assert problem in found.problem
            assert name in states(open_root)
            with pytest.raises(UserError, match=rf"cannot read .*{name}/result\.json: Permission denied"):
                measured_records(open_root)
        (open_root / name / place).chmod(0o755)
    open_root.chmod(0o000)
    with as_nobody():
        for read in (all_runs, measured_records):
            with pytest.raises(UserError, match="Permission denied; mend its permissions, or name another folder"):
                read(open_root)


def test_a_run_without_its_request_is_listed_as_damaged(root: Path) -> None:
    name = finished(root, "gla", 40.0)
    (root / name / "spec.yaml").unlink()
    found = find_run(name, root)
    assert (found.state, found.problem) == ("damaged", "it has no spec.yaml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to_is_still_listed(root: Path) -> None:
    for path in root.iterdir():
        path.chmod(0o555)
    try:
        assert len(all_runs(root)) == 4
    finally:
        for path in root.iterdir():
            path.chmod(0o755)
