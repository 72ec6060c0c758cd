"""A mixer of another package, installed beside ours: listed, trained and scored like ours."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

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


# The commands one after the other in one process, which takes longer to import than they take.
DRIVER = """
import sys
from infinitevl_bench.cli import app
for line in sys.argv[1:]:
    app(line.split(), prog_name="infinitevl-bench", standalone_mode=False)
"""


class Done(NamedTuple):
    """What the commands printed, and the folder of runs that they left."""

    said: str
    runs: Path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Our commands where a package of its own, with metadata, brings the mixer."""
    folder = tmp_path_factory.mktemp("third-party")
    site, runs = folder / "site", folder / "runs"
    metadata = site / "their_package-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "their_package.py").write_text(MODULE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[infinitevl_bench.mixers]\ntheirs = their_package:Theirs\n")
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.run(
        [
            sys.executable, "-c", DRIVER, "list mixers",
            f"ablate --mixer theirs --steps 2 --pages 8 --questions 2 --jobs 1 --runs {runs}",
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "160"},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return Done(process.stdout, runs)


def test_it_is_listed(done: Done) -> None:
    row = next(line for line in done.said.splitlines() if line.startswith("theirs "))
    # 16 heads of 128 keys and 256 values.
    assert "524,288" in row
    assert "Rectified linear attention" in row


def test_it_is_trained_and_scored(done: Done) -> None:
    assert "theirs SLLL seed 0" in done.said
    [(_, result)] = finished_runs(done.runs)
    assert {record["mixer"] for record in result["records"]} == {"theirs"}
    assert {record["metric"] for record in result["records"]} >= {"loss", "score"}
