"""A real evaluation on a file system that fills up: one line each time, and the same answers once there is room."""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

# In a namespace of its own, so that what is mounted is gone with the process and root is not needed.
PRIVATE = ("unshare", "--map-root-user", "--mount")

# Leaves the small file system more room each time until the evaluation ends; all in one process, which imports once.
EVALUATE = """
import contextlib, io, json, os, subprocess, sys, tempfile
from pathlib import Path
from infinitevl_bench.errors import UserError
from infinitevl_bench.eval.command import Request, eval_command
from infinitevl_bench.mistakes import told

scratch, roomy = Path(sys.argv[1]), tempfile.gettempdir()
small, data = scratch / "small", scratch / "data"
filler = small / "filler"

def leave(kilobytes):
    filler.unlink(missing_ok=True)
    state = os.statvfs(small)
    filler.write_bytes(bytes(state.f_bavail * state.f_frsize - 1024 * kilobytes))

def evaluate(runs, rooms):
    # The pages are larger than all else: they lie elsewhere.
    runs.mkdir(exist_ok=True)
    (runs / "data").symlink_to(data, target_is_directory=True)
    asked = Request(model=None, data="synthetic", limit=6, batch_size=2, level=1, seed=0, device="cpu", runs=runs)
    said = []
    for room in rooms:
        leave(room)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                result = eval_command(["DocVQA"], None, asked)[0]
        except (UserError, OSError) as error:
            said.append(told(error))
            continue
        return [said, [[one["index"], one["prediction"], one["score"]] for one in result.predictions]]

found = {}
for what, rooms in json.loads(sys.argv[2]).items():
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], check=True)
    tempfile.tempdir = str(small) if what == "TMPDIR" else roomy
    found[what] = evaluate(small if what == "--runs" else scratch / what, rooms)
    subprocess.run(["umount", str(small)], check=True)
print(json.dumps(found))
"""
# With one more page of 4 kB each time, every file in its turn is the one that finds no room.
ROOMS = {"TMPDIR": [*range(0, 80, 4), 512], "--runs": [0, *[4] * 12, 64], "neither": [0]}


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By what was full: what was said each time, and the answers in the end."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare on this machine")
    scratch = tmp_path_factory.mktemp("full")
    for name in ("small", "data"):
        (scratch / name).mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(scratch / "small")]
    if subprocess.run([*PRIVATE, *mount], capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    done = subprocess.run(
        [*PRIVATE, sys.executable, "-c", EVALUATE, str(scratch), json.dumps(ROOMS)],
        env=os.environ | {"LMUData": str(scratch)}, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("what", "words"), [("TMPDIR", "set TMPDIR"), ("--runs", "free some space")])
def test_an_evaluation_goes_on_when_there_is_room(what: str, words: str, evaluations: dict[str, Any]) -> None:
    said, answers = evaluations[what]
    assert len(said) >= 3
    for line, code in said:
        assert words in line
        assert "\n" not in line
        assert code == 1
    undisturbed, expected = evaluations["neither"]
    assert not undisturbed
    assert answers == expected


def test_every_file_of_a_run_can_be_the_one_that_finds_no_room(evaluations: dict[str, Any]) -> None:
    places = {line.partition(": No space left")[0].rpartition("/")[2] for line, _ in evaluations["--runs"][0]}
    assert {"spec.yaml", "env.json", "predictions-DocVQA-synthetic.jsonl"} <= places
