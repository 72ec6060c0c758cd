"""Run the cells of a grid: several worker processes, one live table, nothing lost when it is stopped.

Workers share nothing but the run folders. Each goes through all cells, passes over those that are finished or held by
another process, and runs the rest; so two commands over the same grid divide the work, and each ends when all of it is
done. A killed one is continued by calling it again.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.live import Live

from ..environment import COMMAND, command_line
from ..errors import UserError
from ..models.device import visible_accelerators
from ..printing import PlainConsole
from ..records import Record, RunFolder, RunSpec
from ..scratch import ScratchFolder
from .progress import POLL_SECONDS, GridProgress, Lines
from .ray_grid import Cluster, run_on_ray

DRAWING = "drawing and seeing pages"

PATIENCE_SECONDS = 10.0
"""How long a worker may take to end in order before it is killed; it loses nothing then either."""


@dataclass
class _Worker:
    process: subprocess.Popen
    log: Path


def run_grid(
    specs: list[RunSpec], runs: Path, jobs: int, console: PlainConsole, cluster: Cluster | None = None
) -> list[Record]:
    """Run every cell that is not finished, ``jobs`` at a time, and return the records of all.

    Args:
        specs: the cells.
        runs: folder of all runs.
        jobs: worker processes.
        console: where the live table goes.
        cluster: runs the cells on Ray instead; it decides how many at a time.

    Raises:
        UserError: if a cell could not be finished; those that were stay.
        KeyboardInterrupt: after the workers have ended, so that calling again goes on where they were.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {runs}: {error.strerror}; choose another folder with --runs", 1) from error
    folders = [RunFolder(runs, spec) for spec in specs]
    for folder in folders:
        if folder.finished:
            # A damaged result is said now, not after the others are trained.
            folder.records()
    before: set[str] = set()
    while todo := [folder.spec for folder in folders if not folder.finished]:
        try:
            if cluster is None:
                prepare_pages(todo[0], runs, console)
                failure = _run_workers(todo, specs, runs, max(1, min(jobs, len(todo))), console)
            else:
                failure = run_on_ray(todo, specs, runs, cluster, console)
        except OSError as error:
            raise UserError(
                f"cannot run the workers: {error}; free some space, then call the same command again", 1
            ) from error
        if failure is not None and not all(folder.finished for folder in folders):
            raise failure
        left = [folder for folder in folders if not folder.finished]
        _wait_for_others(left, before, console)
        before |= {folder.spec.id for folder in left}
    return [record for folder in folders for record in folder.records()]


def _wait_for_others(left: list[RunFolder], before: set[str], console: PlainConsole) -> None:
    """Wait until nobody else holds one of the runs, or somebody gives one up: that is then ours to run.

    Args:
        left: what a round of the workers left unfinished.
        before: ids of what was left after an earlier round.
        console: where it is said.

    Raises:
        UserError: if nobody holds what was left before, though no worker complained.
    """

    def free() -> list[RunFolder]:
        # In this order: who holds a run finishes it before letting go of it.
        return [folder for folder in left if not folder.held and not folder.finished]

    found = free()
    for folder in found:
        # Once, its holder may have given it up after the workers had passed it over.
        if folder.spec.id in before:
            raise UserError(f"run {folder.spec.id} did not finish; call the same command again to go on", 1)
    held = [folder for folder in left if folder.held]
    if held and not found:
        console.print(f"waiting for {len(held)} of the cells, which another process holds (Ctrl-C ends the waiting)")
        while any(folder.held for folder in held) and not free():
            time.sleep(POLL_SECONDS)


def prepare_pages(spec: RunSpec, runs: Path, console: PlainConsole) -> None:
    """Draw all pages once, before the workers start, with a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..models.processor import load_processor
    from ..training.features import prepare_page_sets
    from .cell import build_model, page_set_specs
    from .frame_cells import prepare_libraries
    from .frame_scaling import FRAMES
    from .mqar import RECALL

    if spec.arguments.get("scoring") == RECALL:
        # Its sequences are drawn in no time, by whoever needs them.
        return
    workers = os.cpu_count() or 1
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, lines = bar.add_task(DRAWING, total=None), Lines()

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if not console.is_terminal and (line := lines.news(f"{DRAWING}: {done:,} of {total:,}")):
                console.print(line)

        if spec.arguments.get("scoring") == FRAMES:
            prepare_libraries(spec, runs, workers, progress)
            return
        model = build_model(spec, runs)
        prepare_page_sets(
            page_set_specs(spec),
            model,
            load_processor(),
            runs / "cache",
            workers=workers,
            device=str(spec.arguments["device"]),
            progress=progress,
        )


def default_jobs(device: str, cells: int, a_device: int = 1) -> int:
    """One process a core on the CPU; ``a_device`` processes on each accelerator."""
    return min(cells, os.cpu_count() or 1 if device == "cpu" else a_device * max(1, len(visible_accelerators())))


def _run_workers(
    todo: list[RunSpec], specs: list[RunSpec], runs: Path, jobs: int, console: PlainConsole
) -> UserError | None:
    """Let ``jobs`` workers go through all cells; what the first that failed has said, if one did."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # Small tensors gain nothing from more threads than cores, and lose much. Who has set a number, knows why.
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    environment[COMMAND] = json.dumps(command_line())
    with ScratchFolder() as scratch:
        request = scratch / "cells.json"
        request.write_text(json.dumps([spec.model_dump(mode="json") for spec in todo]), encoding="utf-8")
        workers: list[_Worker] = []
        try:
            shown = visible_accelerators() if todo[0].arguments["device"] == "cuda" else []
            for number in range(jobs):
                log = scratch / f"worker-{number}.log"
                own = environment | _device_of(number, shown)
                workers.append(_start_worker(request, runs, number, -(-len(todo) // jobs), log, own))
            progress = GridProgress(specs, runs)
            with Live(progress.table(), console=console, refresh_per_second=2) as live:
                while any(worker.process.poll() is None for worker in workers):
                    time.sleep(POLL_SECONDS)
                    live.update(progress.table())
                    if not console.is_terminal and (line := progress.news()):
                        console.print(line)
                live.update(progress.table())
        except BaseException:
            _stop(workers)
            raise
        if not console.is_terminal:
            # On a terminal the live table ends its last line itself.
            console.print()
        return next((_failure(worker) for worker in workers if worker.process.returncode), None)


def _device_of(number: int, accelerators: list[str]) -> dict[str, str]:
    """What a worker's environment adds so that the workers are spread evenly over the accelerators."""
    return {"CUDA_VISIBLE_DEVICES": accelerators[number % len(accelerators)]} if len(accelerators) > 1 else {}


def _start_worker(request: Path, runs: Path, number: int, most: int, log: Path, environment: dict[str, str]) -> _Worker:
    module = [sys.executable, "-m", "infinitevl_bench.ablations.worker"]
    command = [*module, str(request), str(runs), str(number), str(most)]
    with open(log, "w", encoding="utf-8") as output:
        # A session of its own: Ctrl-C reaches this process only, which then ends the workers in order. Where this
        # process is killed, its end of their standard input closes, and they end by themselves.
        process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    return _Worker(process, log)


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        try:
            worker.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


def _failure(worker: _Worker) -> UserError:
    """What a worker that did not end well has said, in one line; all of it under --debug."""
    code = worker.process.returncode
    # A worker that ends in order at a signal says so as a shell does, by 128 more than its number.
    number = -code if code < 0 else code - 128
    if number > 0:
        name = signal.Signals(number).name
        return UserError(
            f"a worker was ended from outside by {name}{', perhaps for lack of memory' * (name == 'SIGKILL')}; "
            "call the same command again to go on",
            1,
        )
    text = worker.log.read_text(encoding="utf-8", errors="replace").strip()
    if os.environ.get("INFINITEVL_BENCH_DEBUG"):
        sys.stderr.write(text + "\n")
    return UserError("a worker ended early: " + (text.splitlines()[-1] if text else "it left no message"), 1)
