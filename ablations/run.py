"""Run the cells of a grid: several worker processes, one live table, nothing lost when it is stopped.

Workers share nothing but the run folders. Each goes through all cells, passes over those that are finished or held by
another process, and runs the rest; so two commands over the same grid divide the work, and a killed one is continued by
calling it again.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ..errors import UserError
from ..records import Record, RunFolder, RunSpec

POLL_SECONDS = 0.5


@dataclass
class _Worker:
    process: subprocess.Popen
    log: Path


def run_grid(specs: list[RunSpec], runs: Path, jobs: int, console: Console) -> list[Record]:
    """Run every cell that is not finished, ``jobs`` at a time, and return the records of all.

    Args:
        specs: the cells.
        runs: folder of all runs.
        jobs: worker processes.
        console: where the live table goes.

    Raises:
        UserError: if a cell could not be finished; those that were stay.
        KeyboardInterrupt: after the workers have ended, so that calling again goes on where they were.
    """
    runs.mkdir(parents=True, exist_ok=True)
    todo = [spec for spec in specs if not (runs / spec.id / "result.json").exists()]
    if todo:
        prepare_pages(todo[0], runs, console)
        _run_workers(todo, specs, runs, max(1, min(jobs, len(todo))), console)
    records = []
    for spec in specs:
        if not (runs / spec.id / "result.json").exists():
            raise UserError(f"run {spec.id} did not finish; call the same command again to go on", 1)
        records += RunFolder(runs, spec).records()
    return records


def prepare_pages(spec: RunSpec, runs: Path, console: Console) -> None:
    """Draw the training pages once, before the workers start, with a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..models.processor import load_processor
    from .cell import build_model, page_set_of

    model = build_model(spec)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("drawing and seeing training pages", total=None)
        page_set_of(
            spec,
            model,
            load_processor(),
            runs / "cache",
            workers=os.cpu_count() or 1,
            device=str(spec.arguments["device"]),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def default_jobs(device: str, cells: int) -> int:
    """One process a core on the CPU; one process on an accelerator."""
    return min(cells, os.cpu_count() or 1) if device == "cpu" else 1


def _run_workers(todo: list[RunSpec], specs: list[RunSpec], runs: Path, jobs: int, console: Console) -> None:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # Small tensors gain nothing from more threads than cores, and lose much.
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as scratch:
        request = Path(scratch, "cells.json")
        request.write_text(json.dumps([spec.model_dump(mode="json") for spec in todo]), encoding="utf-8")
        workers = []
        for number in range(jobs):
            log = Path(scratch, f"worker-{number}.log")
            command = [sys.executable, "-m", "infinitevl_bench.ablations.worker", str(request), str(runs), str(number)]
            with open(log, "w", encoding="utf-8") as output:
                # A session of its own: Ctrl-C reaches this process only, which then ends the workers in order.
                process = subprocess.Popen(  # noqa: S603
                    command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
                )
            workers.append(_Worker(process, log))
        try:
            with Live(_table(specs, runs), console=console, refresh_per_second=2) as live:
                while any(worker.process.poll() is None for worker in workers):
                    time.sleep(POLL_SECONDS)
                    live.update(_table(specs, runs))
                live.update(_table(specs, runs))
        except BaseException:
            for worker in workers:
                worker.process.send_signal(signal.SIGTERM)
            for worker in workers:
                worker.process.wait()
            raise
        for worker in workers:
            if worker.process.returncode:
                lines = worker.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise UserError("a worker ended early: " + (lines[-1] if lines else "it left no message"), 1)


def _table(specs: list[RunSpec], runs: Path) -> Table:
    table = Table(title=f"{len(specs)} cell{'s' * (len(specs) != 1)} in {runs}")
    for heading in ("mixer", "pattern", "seed", "state", "step", "loss", "tokens/s", "left", "scores in %"):
        table.add_column(
            heading, justify="left" if heading in ("mixer", "pattern", "state", "scores in %") else "right"
        )
    for spec in specs:
        arguments = spec.arguments
        row = _last_row(runs / spec.id / "metrics.jsonl")
        result = runs / spec.id / "result.json"
        state, scores = ("training" if row else "waiting"), ""
        if result.exists():
            body = json.loads(result.read_text(encoding="utf-8"))
            state = "done" if body["summary"]["status"] == "ok" else body["summary"]["status"]
            shown = [record for record in body["records"] if record["metric"] == "score"]
            scores = "  ".join(f"{record['benchmark']} {record['value']:.1f}" for record in shown)
        elif row and row["step"] >= arguments["training"]["steps"]:
            state = "scoring"
        table.add_row(
            str(arguments["mixer"]),
            str(arguments["pattern"]),
            str(arguments["seed"]),
            state,
            f"{row['step']}/{arguments['training']['steps']}" if row else "",
            f"{row['loss']:.3f}" if row else "",
            f"{row['tokens_per_second']:,.0f}" if row else "",
            f"{row['seconds_left']:.0f} s" if row and state == "training" else "",
            scores,
        )
    return table


def _last_row(path: Path) -> dict[str, Any] | None:
    """The last whole row of a metrics file that another process is writing."""
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return json.loads(lines[-1]) if lines else None
