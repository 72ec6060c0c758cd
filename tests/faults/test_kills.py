"""Real commands, killed at random moments; `make kills` does so a hundred times each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 3


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_ablate_and_eval_lose_and_double_nothing(tmp_path: Path) -> None:
    script = Path(__file__).with_name("kills.py")
    done = subprocess.run(
        [sys.executable, str(script), "--kills", str(KILLS), "--seed", "1"],
        env=os.environ | {"TMPDIR": str(tmp_path), "LMUData": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["case"] for one in found] == ["ablate", "eval"]
    assert all(one["kills"] == KILLS == sum(one["moments"].values()) and one["ends"] for one in found)
