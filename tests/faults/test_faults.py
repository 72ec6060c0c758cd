"""Faults from outside: kills, a full disk, no permission, two writers, a clock that goes back."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from importlib.machinery import ModuleSpec
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from infinitevl_bench import records as records_module
from infinitevl_bench.archive.commands import prune_runs
from infinitevl_bench.archive.folders import all_runs, read_run
from infinitevl_bench.environment import COMMAND, command_line, without_secrets
from infinitevl_bench.errors import UserError
from infinitevl_bench.files import TEMPORARY
from infinitevl_bench.mistakes import told
from infinitevl_bench.records import (
    Record,
    RunFolder,
    RunSpec,
    environment,
    finished_runs,
    measured_records,
    read_records,
    write_records,
)  # fmt: skip
from safetensors.numpy import save_file

SPEC = RunSpec(kind="eval", arguments={"benchmark": "DocVQA"})
RECORD = Record(artifact="t", metric="score", value=1.0, unit="%", model="tiny", source="measured")
SAMPLES = 400
KILLS = int(os.environ.get("FAULT_KILLS", "12"))


def answer_all(root: Path, ready: Connection | None = None) -> None:
    """A run as `eval` keeps one: whatever is answered is kept, and not asked again."""
    with RunFolder(root, SPEC) as folder:
        known = {row["index"] for row in folder.rows("predictions.jsonl")}
        if ready is not None:
            ready.send("ready")
        for index in range(SAMPLES):
            if index not in known:
                folder.append("predictions.jsonl", {"index": index, "prediction": "x" * 3000})
        folder.finish([RECORD])


def test_kills_at_random_moments_lose_and_double_nothing(tmp_path: Path) -> None:
    generator = random.Random(0)
    # Forked: an interpreter takes a hundred times longer to start than this work takes.
    forking = multiprocessing.get_context("fork")
    landed = 0
    for _ in range(KILLS):
        ready, said = forking.Pipe(duplex=False)
        process = forking.Process(target=answer_all, args=(tmp_path, said))
        process.start()
        assert ready.poll(60)
        time.sleep(generator.random() * 0.01)
        process.kill()
        process.join()
        landed += process.exitcode == -signal.SIGKILL
        with RunFolder(tmp_path, SPEC) as folder:
            indices = [row["index"] for row in folder.rows("predictions.jsonl")]
            assert indices == list(range(len(indices)))
            if folder.finished:
                assert folder.records()
                (folder.path / "result.json").unlink()
                (folder.path / "predictions.jsonl").unlink()
    assert landed
    answer_all(tmp_path)
    with RunFolder(tmp_path, SPEC) as folder:
        assert [row["index"] for row in folder.rows("predictions.jsonl")] == list(range(SAMPLES))
        assert folder.finished


def test_what_a_kill_left_half_written_is_removed_by_the_next(tmp_path: Path) -> None:
    killed = (
        "import os, pathlib, sys\nfrom infinitevl_bench import files\n"
        "files.os.fsync = lambda _: os.kill(os.getpid(), 9)\n"
        "files.atomic_write(pathlib.Path(sys.argv[1]), 'x' * 100000)\n"
    )
    with RunFolder(tmp_path, SPEC) as folder:
        folder.append("predictions.jsonl", {"index": 1})
    done = subprocess.run([sys.executable, "-c", killed, str(folder.path / "result.json")], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    # A model is saved in a folder that takes its name when it is whole.
    unfinished = folder.path / ".model.abc_0123"
    unfinished.mkdir()
    (unfinished / "config.json").write_text("{}")
    (folder.path / "model").mkdir()
    (folder.path / "model" / ".tmpIWZpdk").write_text("a kill within safetensors' save_file")
    kept = {".lock", "spec.yaml", "predictions.jsonl", "model"}
    assert len(list(folder.path.iterdir())) == len(kept) + 2
    with folder:
        assert {path.name for path in folder.path.rglob("*")} == kept


def test_safetensors_names_its_temporary_files_as_we_know_them(tmp_path: Path) -> None:
    """Another release may name them otherwise; then a killed process would leave files for ever again."""
    seen: set[str] = set()
    saved = threading.Event()

    def look() -> None:
        while not saved.is_set():
            seen.update(path.name for path in tmp_path.iterdir())

    looker = threading.Thread(target=look)
    looker.start()
    for _ in range(20):
        save_file({"x": np.zeros(2_000_000)}, tmp_path / "x.safetensors")
    saved.set()
    looker.join()
    assert "x.safetensors" in seen
    assert [name for name in seen if not TEMPORARY.fullmatch(name)] == ["x.safetensors"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this machine")
def test_a_full_disk_is_one_line_and_keeps_what_was_there(tmp_path: Path) -> None:
    with RunFolder(tmp_path, SPEC) as folder:
        (folder.path / "predictions.jsonl").symlink_to("/dev/full")
        with pytest.raises(UserError, match=r"No space left.*call the same command again"):
            folder.append("predictions.jsonl", {"index": 1})


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "a/file"), "TMPDIR"),
        (OSError(30, "Read-only file system", "a/file"), "TMPDIR"),
        (PermissionError(13, "Permission denied", "a/file"), "choose another folder"),
        (FileNotFoundError(2, "No usable temporary directory found in ['a/folder']"), "TMPDIR"),
    ],
    ids=str,
)
def test_a_temporary_folder_that_takes_nothing_is_one_line(error: OSError, words: str) -> None:
    line, code = told(error)
    assert words in line
    assert "\n" not in line
    assert code == 1


def test_an_error_that_is_nobodys_mistake_comes_back() -> None:
    with pytest.raises(ConnectionResetError):
        told(ConnectionResetError(104, "reset"))


def test_a_read_only_folder_is_said(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        # Root may write anywhere that is a file system of its own; this one takes nothing from anybody.
        tmp_path = Path("/sys")
        if not tmp_path.is_dir():
            pytest.skip("root may write everywhere here")
    else:
        tmp_path.chmod(0o555)
    with pytest.raises(UserError, match="--runs"), RunFolder(tmp_path, SPEC):
        pass


def test_a_clock_that_goes_back_changes_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunFolder(tmp_path, SPEC) as folder:
        folder.write_environment("cpu")
        folder.finish([RECORD])

    class Earlier(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime(2001, 1, 1, tzinfo=UTC) - timedelta(days=1)

    monkeypatch.setattr(records_module, "datetime", Earlier)
    other = RunSpec(kind="eval", arguments={"benchmark": "ChartQA"})
    with RunFolder(tmp_path, other) as folder:
        folder.finish([RECORD])
    assert {path.name for path, _ in finished_runs(tmp_path)} == {SPEC.id, other.id}
    with RunFolder(tmp_path, SPEC) as folder:
        assert folder.finished


def test_a_run_of_the_future_is_a_run_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime(2999, 1, 1, tzinfo=UTC)

    with monkeypatch.context() as clock:
        clock.setattr(records_module, "datetime", Later)
        with RunFolder(tmp_path, SPEC) as folder:
            folder.append("predictions.jsonl", {"index": 1})
            folder.finish([RECORD])
    late = 32503680000
    for path in (folder.path, *folder.path.iterdir()):
        os.utime(path, (late, late))
    # The clock has gone back by centuries: the run stays finished, others go on beside it, nothing is removed.
    other = RunSpec(kind="eval", arguments={"benchmark": "ChartQA"})
    with RunFolder(tmp_path, other) as unfinished:
        unfinished.append("predictions.jsonl", {"index": 1})
    with RunFolder(tmp_path, SPEC) as folder:
        assert folder.finished
        assert folder.rows("predictions.jsonl") == [{"index": 1}]
    assert {run.id: run.state for run in all_runs(tmp_path)} == {SPEC.id: "finished", other.id: "unfinished"}
    assert read_run(folder.path).finished_at.startswith("2999")
    prune_runs(tmp_path, yes=True)
    assert [run.id for run in all_runs(tmp_path)] == [SPEC.id]
    assert RECORD in measured_records(tmp_path)


def test_a_line_separator_of_unicode_is_a_character(tmp_path: Path) -> None:
    records = [RECORD.model_copy(update={"extra": {"note": "a\u2028b\u0085c"}})]
    write_records(tmp_path / "a.jsonl", records)
    assert read_records(tmp_path / "a.jsonl") == records


@pytest.mark.parametrize("version", [0, 2, "x"])
def test_another_schema_is_refused_by_name(tmp_path: Path, version: object) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(RECORD.model_dump(mode="json") | {"schema_version": version}))
    with pytest.raises(UserError, match=r"a\.jsonl, record 1: schema .* reads schema 1 alone"):
        read_records(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("module", "recorded"),
    [
        (None, ["infinitevl-bench"]),
        ("infinitevl_bench.cli", ["infinitevl-bench"]),
        ("infinitevl_bench.training.full_size", ["python", "-m", "infinitevl_bench.training.full_size"]),
        ("somebody.else", ["infinitevl-bench"]),
    ],
)
def test_a_recorded_command_can_be_called_again(
    module: str | None, recorded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = None if module is None else ModuleSpec(module, None)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    monkeypatch.setattr(sys, "argv", ["/anywhere/infinitevl-bench", "list", "mixers"])
    monkeypatch.delenv(COMMAND, raising=False)
    assert command_line() == [*recorded, "list", "mixers"]


def test_secrets_of_the_command_line_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "--ray=ray://me:pass-word@host:1": "pass-word", "--model=hf_abcdefghijklmnop": "hf_abcdefghijklmnop",
        "https://host/x?token=abc123secret&n=1": "abc123secret", "sk-abcdefgh12345678": "sk-abcdefgh12345678",
    }  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["infinitevl-bench", *secrets])
    recorded = json.dumps(environment("cpu"))
    assert not any(secret in recorded for secret in secrets.values())
    for plain in ("--mixer", "hustvl/InfiniteVL", "ray://host:1", "runs/ablate-0123456789ab", "hf_x", "risk-averse"):
        assert without_secrets(plain) == plain
