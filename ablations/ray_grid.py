"""Run the cells of a grid on Ray: on this machine, or on a cluster by its address, each with its share of a GPU.

A cell is a task in a process of its own. The folder of runs must be one that all machines see. A task whose process
ends without a word (killed, out of memory, its machine gone) is tried again, and goes on from its checkpoint; what a
user has to mend is not. Finished cells are never started.
"""

import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.live import Live

from ..environment import COMMAND, command_line
from ..errors import UserError
from ..printing import PlainConsole
from ..records import RunHeldError, RunSpec
from .progress import POLL_SECONDS, GridProgress

LOCAL = "local"
ANSWER_SECONDS = 5.0
CLIENT_SCHEME = "ray://"

RunCell = Callable[[RunSpec, Path], Any]


@dataclass(frozen=True)
class Cluster:
    """Where Ray runs the cells.

    Attributes:
        address: `LOCAL`; "auto" for a cluster that this machine is part of; or HOST:PORT, perhaps after ``ray://``.
        gpus: of each cell, a share of one or a whole number; 0 on the CPU.
        retries: how often a cell is tried again whose process ended without a word.
    """

    address: str = LOCAL
    gpus: float = 0.0
    retries: int = 2


def check_cluster(cluster: Cluster) -> None:
    """Refuse a cluster that cannot be used, before anything is trained.

    Raises:
        UserError: if Ray is not installed, the address does not answer, or the share of GPUs makes no sense.
    """
    if find_spec("ray") is None:
        raise UserError(
            "Ray is not installed; install it with `pip install 'infinitevl-bench[ray]'`, or leave out --ray"
        )
    if cluster.gpus > 1 and cluster.gpus != int(cluster.gpus):
        raise UserError(f"{cluster.gpus:g} GPUs a cell: Ray gives a share of one GPU, or whole ones; round it")
    if cluster.address in (LOCAL, "auto"):
        return
    host, _, port = cluster.address.removeprefix(CLIENT_SCHEME).rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"Ray address {cluster.address!r} is not local, auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except OSError as error:
        raise UserError(f"the Ray address {cluster.address} does not answer ({error}); is the cluster up?", 1) from None


def run_on_ray(
    todo: list[RunSpec],
    specs: list[RunSpec],
    runs: Path,
    cluster: Cluster,
    console: PlainConsole,
    run_cell: RunCell | None = None,
) -> UserError | None:
    """Run cells as tasks until all have ended; what the first that failed has said, if one did.

    Args:
        todo: cells to run.
        specs: cells to show.
        runs: folder of all runs, seen by all machines.
        cluster: where.
        console: where the live table goes.
        run_cell: what a task does; trains and scores if None.

    Raises:
        UserError: if Ray cannot be reached.
    """
    check_cluster(cluster)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    # "local" begins an instance of its own; without an address Ray would join whatever cluster it finds, or wait for
    # one that is gone.
    own: dict[str, Any] = {"include_dashboard": False} if cluster.address == LOCAL else {}
    own["runtime_env"] = {"env_vars": {COMMAND: json.dumps(command_line())}}
    try:
        ray.init(address=cluster.address, log_to_driver=False, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        # A cluster with token authentication refuses whoever has another token as if it were not there.
        raise UserError(
            f"Ray at {cluster.address} cannot be used ({' '.join(str(error).split())[:200]}); where a cluster asks for "
            "a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here as there",
            1,
        ) from None
    try:
        return _run_tasks(ray, todo, specs, runs.resolve(), cluster, console, run_cell or _run_cell)
    finally:
        # Tasks that are still running end with the connection, and go on from their checkpoints the next time.
        ray.shutdown()


def _run_tasks(
    ray: Any,
    todo: list[RunSpec],
    specs: list[RunSpec],
    runs: Path,
    cluster: Cluster,
    console: PlainConsole,
    run_cell: RunCell,
) -> UserError | None:
    # A process a task, so that a GPU is free again after it. Only processes that end without a word are tried again:
    # an exception would be the same the next time.
    options = {"num_cpus": 1, "num_gpus": cluster.gpus, "max_retries": cluster.retries, "max_calls": 1}
    task = ray.remote(**options)(_task(run_cell))
    waiting = {task.remote(spec.model_dump(mode="json"), str(runs)): spec for spec in todo}
    failure: UserError | None = None
    progress = GridProgress(specs, runs)
    with Live(progress.table(), console=console, refresh_per_second=2) as live:
        while waiting:
            ended, _ = ray.wait(list(waiting), timeout=POLL_SECONDS)
            for reference in ended:
                spec = waiting.pop(reference)
                failure = failure or _outcome(ray, reference, spec)
            live.update(progress.table())
            if not console.is_terminal and (line := progress.news()):
                console.print(line)
    if not console.is_terminal:
        # On a terminal the live table ends its last line itself.
        console.print()
    return failure


def _outcome(ray: Any, reference: Any, spec: RunSpec) -> UserError | None:
    try:
        said = ray.get(reference)
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines()
        return UserError(f"run {spec.id} failed on Ray: {lines[-1] if lines else type(error).__name__}", 1)
    return None if said is None else UserError(said, 1)


def _task(run_cell: RunCell) -> Callable[[dict[str, Any], str], str | None]:
    """A function that Ray can send: what a user has to mend comes back as a text, nothing as None."""

    def task(spec: dict[str, Any], runs: str) -> str | None:
        try:
            run_cell(RunSpec.model_validate(spec), Path(runs))
        except RunHeldError:
            return None
        except UserError as error:
            return str(error)
        return None

    return task


def _run_cell(spec: RunSpec, runs: Path) -> None:
    from .cell import run_cell

    run_cell(spec, runs)
