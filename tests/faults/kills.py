"""Kill -9 at random moments over a real `ablate` and a real `eval`, and what is left each time.

    python tests/faults/kills.py --kills 100 --seed 0

After every kill a copy of the folder of runs is read: every run can be read, no sample is lost, doubled or other than
in an uninterrupted run, no step of training is doubled. Then the same command is called again. When it has come to its
end, weights, predictions and records are those of the uninterrupted run, and no temporary file is left, neither there
nor in TMPDIR. Last, the command is started twice at once.

The work takes seconds and importing torch takes longer, so that most kills would hit imports. Therefore a process that
has imported everything forks one that does the work, from its beginning. `--fresh` starts an interpreter each time,
with the worker processes that `ablate` has; the moment is then counted from the first file that the command writes.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ABLATE: dict[str, Any] = {
    "mixers": ["gla"],
    "ratios": ["1/2"],
    "patterns": None,
    "scale": "tiny",
    "seeds": 1,
    "recipes": ["scratch"],
    "match": None,
    "overrides": {"steps": 8, "batch_size": 4, "log_every": 1, "checkpoint_every_seconds": 0.05},
    "questions": 2,
    "pages": 16,
    "jobs": 1,
    "device": "cpu",
}
EVAL: dict[str, Any] = {
    "model": None, "data": "synthetic", "limit": 8, "batch_size": 2, "level": 1, "seed": 0, "device": "cpu",
}  # fmt: skip
# What differs between two runs of the same thing.
TIMES = ("latency_ms", "train_seconds", "seconds", "tokens_per_second", "seconds_left")


def ablate(runs: Path) -> None:
    from infinitevl_bench.ablations.command import ablate_command

    ablate_command(**ABLATE, runs=runs)


def ablate_here(runs: Path) -> None:
    """The same, the cell trained in this process and not in a worker of its own."""
    from infinitevl_bench.ablations import run
    from infinitevl_bench.ablations.worker import work

    run._run_workers = lambda todo, specs, runs, *_: work(todo, runs) and None  # type: ignore[assignment]
    ablate(runs)


def evaluate(runs: Path) -> None:
    from infinitevl_bench.eval.command import Request, eval_command

    eval_command(["DocVQA", "MME"], None, Request(**EVAL, runs=runs))


FRESH: dict[str, Callable[[Path], None]] = {"ablate": ablate, "eval": evaluate}
FORKED: dict[str, Callable[[Path], None]] = {"ablate": ablate_here, "eval": evaluate}


# --- doing the work, in a process of its own --------------------------------------------------------------------------


class Forked:
    """The work in a fork of this process, which has imported what it needs."""

    def __init__(self, case: str, runs: Path, log: Path) -> None:
        self.pid = os.fork()
        self.code: int | None = None
        if self.pid == 0:
            code = 1
            try:
                with open(log, "w") as file:
                    os.dup2(file.fileno(), 1)
                    os.dup2(file.fileno(), 2)
                FORKED[case](runs)
                code = 0
            except BaseException as error:  # noqa: BLE001 - nothing may go on in the fork
                os.write(2, repr(error).encode())
            finally:
                os._exit(code)

    def poll(self) -> int | None:
        return self._look(os.WNOHANG)

    def wait(self) -> int:
        code = self._look(0)
        assert code is not None
        return code

    def _look(self, options: int) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, options)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def begin(case: str, runs: Path, log: Path, fresh: bool) -> "Forked | subprocess.Popen[bytes]":
    """Start the work; in a fresh interpreter, return when it has written its first file."""
    if not fresh:
        return Forked(case, runs, log)
    before = newest(runs)
    with open(log, "w") as file:
        command = [sys.executable, __file__, "--work", case, str(runs)]
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    while process.poll() is None and newest(runs) == before:
        time.sleep(0.005)
    return process


def newest(runs: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return max((path.lstat().st_mtime for path in runs.rglob("*")), default=0.0)
    return -1.0


def import_everything() -> None:
    """What either command imports on its way, so that forks need not."""
    import torch
    from infinitevl_bench.eval.benchmarks import find_benchmark
    from infinitevl_bench.eval.vlmevalkit import dataset_class, kit

    for name in ("DocVQA", "MME", "ChartQA"):
        dataset_class(find_benchmark(name))
    kit("vlmeval.dataset.utils.vqa_eval")
    torch.set_num_threads(1)


# --- what is left -----------------------------------------------------------------------------------------------------


@dataclass
class Whole:
    """What an uninterrupted run leaves, without times."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    weights: dict[str, bytes] = field(default_factory=dict)


def timeless(value: Any) -> Any:
    """A value without what differs from one time to the next."""
    if isinstance(value, dict):
        return {key: timeless(one) for key, one in value.items() if key not in TIMES}
    return [timeless(one) for one in value] if isinstance(value, list) else value


def read_whole(runs: Path) -> Whole:
    """Read a folder of finished runs."""
    from infinitevl_bench.archive.folders import all_runs

    whole = Whole()
    for run in all_runs(runs):
        assert run.state == "finished", f"{run.id} is {run.state}: {run.problem}"
        whole.records[run.id] = timeless([record.model_dump(mode="json") for record in run.records])
    for path in sorted(runs.rglob("*.jsonl")):
        if path.relative_to(runs).parts[0] != "cache":
            whole.rows[name_of(path, runs)] = [timeless(json.loads(line)) for line in path.read_text().splitlines()]
    for path in sorted(runs.glob("*/**/model.safetensors")):
        whole.weights[name_of(path, runs)] = path.read_bytes()
    return whole


def name_of(path: Path, runs: Path) -> str:
    return str(path.relative_to(runs))


def check_what_is_left(runs: Path, whole: Whole) -> str:
    """Read the runs as they are after a kill; the name of what was being done.

    Raises:
        AssertionError: for a run that cannot be read, or a sample that is lost, doubled or another.
    """
    from infinitevl_bench.archive.folders import all_runs
    from infinitevl_bench.records import RunFolder, RunSpec

    found: dict[str, int] = {}
    for run in all_runs(runs):
        assert run.state in ("finished", "unfinished"), f"{run.id} is {run.state}: {run.problem}"
        assert run.id in whole.records, f"{run.id} is no run of the uninterrupted command"
        if run.state == "finished":
            assert timeless([one.model_dump(mode="json") for one in run.records]) == whole.records[run.id]
        reader = RunFolder(runs, RunSpec(kind=run.id.partition("-")[0], arguments=dict(run.arguments)))
        assert reader.path == run.path
        for path in sorted(run.path.glob("*.jsonl")):
            rows = timeless(reader.rows(path.name))
            keys = [row.get("step", row.get("index")) for row in rows]
            assert len(set(map(str, keys))) == len(keys), f"{path.name} holds a row twice: {keys}"
            expected = {str(row.get("step", row.get("index"))): row for row in whole.rows[name_of(path, runs)]}
            for row, key in zip(rows, map(str, keys), strict=True):
                # The score is written when all are answered.
                same = {name: value for name, value in expected[key].items() if name in row}
                assert row == same, f"{path.name}: {row} is not {expected[key]}"
            found[path.name] = len(rows)
        found["result.json"] = run.state == "finished"
    return doing(found)


def doing(found: dict[str, int]) -> str:
    """What was being done when a command ended, from the rows of its files."""
    if not found:
        return "before the first run folder"
    if not any(found.values()):
        return "before the first row"
    predictions = [name for name in found if name.startswith("predictions")]
    if not predictions:
        return "training" if "metrics.jsonl" in found else "between files"
    return "blind answers or scoring" if any(name.endswith("-blind.jsonl") for name in predictions) else "answers"


def assert_same(actual: Whole, expected: Whole) -> None:
    """Compare two uninterrupted ends.

    Raises:
        AssertionError: naming what differs.
    """
    for name in ("rows", "records", "weights"):
        left, right = getattr(actual, name), getattr(expected, name)
        assert left.keys() == right.keys(), f"{name}: {sorted(left.keys() ^ right.keys())}"
        for key in right:
            assert left[key] == right[key], f"{name} of {key} differ from those of the uninterrupted run"


def leftovers(runs: Path) -> list[str]:
    """Temporary files in a folder of runs that is at rest; locks stay."""
    hidden = (path for path in runs.rglob(".*") if not path.name.endswith(".lock"))
    return sorted(name_of(path, runs) for path in hidden)


# --- the kills --------------------------------------------------------------------------------------------------------


def kill_often(case: str, kills: int, seed: int, fresh: bool, scratch: Path) -> dict[str, Any]:
    """Kill one command so often; what happened.

    Raises:
        AssertionError: if anything is lost, doubled, unreadable or other than without kills.
    """
    generator = random.Random(f"{case} {seed}")
    runs, log, copy = scratch / "runs", scratch / "log", scratch / "copy"
    started = time.monotonic()
    process = begin(case, scratch / "whole", log, fresh)
    began = time.monotonic()
    assert process.wait() == 0, log.read_text()
    seconds = time.monotonic() - began
    whole = read_whole(scratch / "whole")
    assert whole.records
    assert whole.rows
    landed, ends, moments = 0, 0, Counter[str]()
    while landed < kills:
        process = begin(case, runs, log, fresh)
        deadline = time.monotonic() + generator.uniform(0, 1.1 * seconds)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        if process.poll() is None:
            process.kill()
            process.wait()
            landed += 1
            at_rest(runs)
            # Reading mends a line that was cut off; the next process shall find it as it is.
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(runs, copy) if runs.exists() else copy.mkdir()
            moments[check_what_is_left(copy, whole)] += 1
            # Now and then from the beginning, or all kills would come late.
            if generator.random() < 0.3:
                shutil.rmtree(runs, ignore_errors=True)
        else:
            ends += 1
            check_end(runs, whole, log)
            shutil.rmtree(runs)
    process = begin(case, runs, log, fresh)
    process.wait()
    check_end(runs, whole, log)
    shutil.rmtree(runs)
    codes = both_at_once(case, runs, log, fresh, generator.uniform(0, seconds))
    check_end(runs, whole, log)
    return {
        "case": case, "kills": landed, "ends": ends + 1, "moments": dict(sorted(moments.items())),
        "both_at_once": codes, "work_seconds": round(seconds, 2), "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip


def both_at_once(case: str, runs: Path, log: Path, fresh: bool, pause: float) -> list[int]:
    """Start a command, and the same again a little later; their exit codes, of which one is that of success."""
    first = begin(case, runs, log, fresh)
    time.sleep(pause)
    other = log.with_name("log-of-the-other")
    second = begin(case, runs, other, fresh)
    codes = [first.wait(), second.wait()]
    assert 0 in codes, log.read_text() + other.read_text()
    for code, said in zip(codes, (log, other), strict=True):
        assert code == 0 or "is held by another process" in said.read_text(), said.read_text()
    return codes


def at_rest(runs: Path) -> None:
    """Wait for worker processes, which end when the one that started them is gone."""
    from infinitevl_bench.archive.folders import all_runs

    deadline = time.monotonic() + 60
    while any(run.state == "held" for run in all_runs(runs)):
        assert time.monotonic() < deadline, "a worker goes on without the process that started it"
        time.sleep(0.01)


def check_end(runs: Path, whole: Whole, log: Path) -> None:
    try:
        assert_same(read_whole(runs), whole)
        assert not leftovers(runs), f"temporary files are left: {leftovers(runs)}"
    except (AssertionError, OSError, ValueError) as error:
        raise AssertionError(f"{error}\nthe command said:\n{log.read_text()}") from error


@contextlib.contextmanager
def own_temporary_files(folder: Path) -> Iterator[None]:
    """Give commands a TMPDIR of their own; at the end none that they named after themselves may be in it."""
    before = tempfile.gettempdir()
    folder.mkdir()
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    try:
        yield
        left = sorted(path.name for path in folder.glob("infinitevl-bench-*"))
        assert not left, f"temporary files are left: {left}"
    finally:
        tempfile.tempdir = os.environ["TMPDIR"] = before


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill `ablate` and `eval` at random moments.")
    parser.add_argument("--kills", type=int, default=100, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", choices=[*FRESH, "both"], default="both")
    parser.add_argument("--fresh", action="store_true", help="a new interpreter each time, with its workers")
    parser.add_argument("--work", nargs=2, metavar=("CASE", "RUNS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        FRESH[options.work[0]](Path(options.work[1]))
        return
    with contextlib.redirect_stdout(io.StringIO()):
        import_everything()
    for case in FRESH if options.case == "both" else [options.case]:
        with tempfile.TemporaryDirectory(prefix="kills-") as scratch, own_temporary_files(Path(scratch, "tmp")):
            found = kill_often(case, options.kills, options.seed, options.fresh, Path(scratch))
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
