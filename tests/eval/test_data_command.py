"""What is here and what is not, and files for all of it."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from infinitevl_bench.errors import UserError
from infinitevl_bench.eval.benchmarks import ALL
from infinitevl_bench.eval.data_command import make_synthetic, print_status
from infinitevl_bench.eval.sources import official_path


def test_every_file_is_listed_with_its_place_and_state(
    no_official_files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("HF_HUB_CACHE", str(no_official_files / "hub"))
    (no_official_files / "MME.tsv").write_text("x" * 2_500_000)
    print_status()
    shown = capsys.readouterr().out
    lines = {line.split()[0]: line for line in shown.splitlines() if line.split()}
    for name, benchmark in ALL.items():
        assert str(official_path(benchmark)) in lines[name]
        assert benchmark.md5[:8] in lines[name]
        assert ("missing" in lines[name]) == (name != "MME")
    wrong = hashlib.md5(b"x" * 2_500_000, usedforsecurity=False).hexdigest()[:8]
    assert "2.5 MB" in lines["MME"]
    assert f"WRONG: {wrong}" in lines["MME"]
    assert "1 of 17 official files are here" in shown


def test_a_right_checksum_is_said_to_be_right(
    no_official_files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.setenv("COLUMNS", "300")
    (no_official_files / "MME.tsv").write_text("x")
    right = replace(ALL["MME"], md5=hashlib.md5(b"x", usedforsecurity=False).hexdigest())
    monkeypatch.setitem(ALL, "MME", right)
    print_status()
    assert "right" in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("MME "))


def test_videos_are_found_in_the_hubs_cache(no_official_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(no_official_files / "hub"))
    benchmark = ALL["Video-MME"]
    assert official_path(benchmark) == no_official_files / "Video-MME" / "Video-MME.tsv"
    folder = no_official_files / "hub" / "datasets--lmms-lab--Video-MME" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "Video-MME.tsv").write_text("")
    assert official_path(benchmark) == folder / "Video-MME.tsv"


def test_twins_of_all_benchmarks_are_written(tmp_path: Path, capsys: Any) -> None:
    written = make_synthetic((), tmp_path, questions=2, level=1, seed=0)
    assert len(written) == len(ALL)
    assert all(path.is_file() and path.stat().st_size > 200 for path in written)
    assert "never to be reported as the benchmarks themselves" in " ".join(capsys.readouterr().out.split())
    assert [path.name for path in make_synthetic(["DocVQA"], tmp_path, questions=2, level=1, seed=0)] == [
        next(path.name for path in written if path.name.startswith("DocVQA_VAL"))
    ]
    with pytest.raises(UserError, match="at most 10,000 questions"):
        make_synthetic((), tmp_path, questions=20_000, level=1, seed=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a folder; name another with --out"):
        make_synthetic((), tmp_path / "file", questions=2, level=1, seed=0)
