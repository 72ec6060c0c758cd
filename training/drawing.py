"""Processes that draw for this one."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from ..errors import UserError

Each = Callable[..., Generator[Any, None, None]]
"""As ``map``, in the processes: from a function and what it takes to its results, in order."""


@contextmanager
def drawing_processes(workers: int, start: Callable[..., None] | None = None, *arguments: Any) -> Iterator[Each]:
    """Hold processes that hear no Ctrl-C, and end with this one or with an error in it, whatever they are at.

    Args:
        workers: how many.
        start: called with the arguments in each process first.
        *arguments: of ``start``.

    Raises:
        UserError: if one is ended from outside.
    """
    others = set(multiprocessing.active_children())
    # Spawned, not forked: the parent may hold threads and an accelerator.
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start, initargs=(start, arguments)
    )

    def each(function: Callable[..., Any], *given: Any) -> Generator[Any, None, None]:
        # The processes start here and inherit the block: Ctrl-C in a terminal is for this process alone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            results = pool.map(function, *given)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield from results

    try:
        yield each
    except BrokenProcessPool:
        raise UserError(
            "a process that drew was ended from outside, perhaps for lack of memory; call the same command again, "
            "with fewer --pages if need be",
            1,
        ) from None
    except BaseException:
        # What they are at is begun again by the next call; a pool that was interrupted while it started never ends.
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start(*arguments)


def _end_with_parent() -> None:
    """A killed parent cannot stop its pool, whose processes would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
