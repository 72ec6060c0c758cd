"""A mixer of another package, installed beside ours: listed, trained and scored like ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from infinitevl_bench.records import finished_runs

MODULE = '''"""Rectified linear attention: queries and keys are what is left of them above zero."""

import torch
from infinitevl_bench.models.mixers.attention_shaped import AttentionShapedMixer
from infinitevl_bench.models.ops.linear_attention import LINEAR_ATTENTION


class Theirs(AttentionShapedMixer):
    """The mixer; state ``[B, H, K, V]``."""

    recurrence = LINEAR_ATTENTION

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.reset_parameters()

    def gates(self, x, q, k, v):
        return torch.relu(q), torch.relu(k), v, ()
'''


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """An environment in which a package of its own, with metadata, brings the mixer."""
    site = tmp_path / "site"
    metadata = site / "their_package-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "their_package.py").write_text(MODULE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[infinitevl_bench.mixers]\ntheirs = their_package:Theirs\n")
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "160"}


def run(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "infinitevl_bench.cli", *arguments],
        env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_listed(installed: dict[str, str]) -> None:
    row = next(line for line in run(installed, "list", "mixers").splitlines() if line.startswith("theirs "))
    # 16 heads of 128 keys and 256 values.
    assert "524,288" in row
    assert "Rectified linear attention" in row


def test_it_is_trained_and_scored(installed: dict[str, str], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    said = run(
        installed, "ablate", "--mixer", "theirs", "--steps", "2", "--pages", "8", "--questions", "2", "--jobs", "1",
        "--runs", str(runs),
    )  # fmt: skip
    assert "theirs SLLL seed 0" in said
    [(_, result)] = finished_runs(runs)
    assert {record["mixer"] for record in result["records"]} == {"theirs"}
    assert {record["metric"] for record in result["records"]} >= {"loss", "score"}
