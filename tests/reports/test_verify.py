"""`verify`: every part of a verdict is printed, and the exit code says whether all are decided."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from infinitevl_bench.errors import UserError
from infinitevl_bench.records import RunFolder, RunSpec
from infinitevl_bench.reports.claims import CLAIMS
from infinitevl_bench.reports.verify import verify_command
from typer.testing import CliRunner


def decided_run(runs: Path, make: SimpleNamespace) -> str:
    """A run that decides C6."""
    records = [
        *make.curve("infinitevl-4b", "cache_elements", "elements", "context", {32768: 51_904_512.0}),
        *make.curve("qwen2.5-vl-3b", "cache_elements", "elements", "context", {32768: 603_979_776.0}),
        *make.curve("infinitevl-4b", "peak_memory_gb", "GB", "context", {4096: 9.0, 262_144: 9.01}),
    ]
    spec = RunSpec(kind="profile", arguments={"number": 1})
    with RunFolder(runs, spec) as folder:
        folder.finish([record.model_copy(update={"run_id": spec.id}) for record in records])
    return spec.id


def test_without_runs_every_claim_says_what_would_decide_it(tmp_path: Path) -> None:
    text, decided = verify_command(tmp_path / "none", None)
    words = " ".join(text.split())
    assert not decided
    for name, claim in CLAIMS.items():
        assert f"{name} NO DATA: {claim.text}" in words
        assert claim.rule in words
        assert (claim.command or "none of this version") in text


def test_a_decided_claim_shows_its_effect_and_runs(tmp_path: Path, make: SimpleNamespace) -> None:
    run = decided_run(tmp_path, make)
    text, decided = verify_command(tmp_path, ["c6"])
    assert decided
    assert "C6  REPRODUCED" in text
    assert run in text
    assert "51,904,512" in text
    assert "missing" not in text
    assert "command" not in text
    assert "4 of the runs used" in text


def test_eighty_columns_hold_all_but_a_command_that_is_copied(tmp_path: Path, make: SimpleNamespace) -> None:
    decided_run(tmp_path, make)
    text, _ = verify_command(tmp_path, None)
    assert [line for line in text.splitlines() if len(line) > 80 and not line.startswith("  command")] == []


def test_the_exit_code_is_zero_only_if_all_are_decided(tmp_path: Path, make: SimpleNamespace) -> None:
    from infinitevl_bench.cli import app

    decided_run(tmp_path, make)
    codes = {
        claims: CliRunner().invoke(app, ["verify", *claims, "--runs", str(tmp_path)]).exit_code
        for claims in (("C6",), ("C6", "C4"), ())
    }
    assert codes == {("C6",): 0, ("C6", "C4"): 1, (): 1}


def test_an_unknown_claim_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean C1") as error:
        verify_command(tmp_path, ["C11"])
    assert error.value.exit_code == 2
