"""What several processes of one run share: who holds its folder, and that all of them stop when one must."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..errors import UserError
from ..records import RunFolder, RunSpec


@contextmanager
def shared_folder(runs: Path, spec: RunSpec, state: PartialState) -> Iterator[RunFolder]:
    """A run's folder, held by the first process for all of them.

    Raises:
        UserError: in every process, if the first cannot hold it.
    """
    folder = RunFolder(runs, spec)
    first_does(state, folder.__enter__)
    try:
        yield folder
    finally:
        if state.is_main_process:
            folder.__exit__(None, None, None)


def first_does(state: PartialState, action: Callable[[], Any]) -> Any:
    """Let the first process do something while the others wait, and give all of them what came of it.

    Raises:
        UserError: in every process, what the first one raised.
    """
    if state.num_processes == 1:
        return action()
    outcome: list[Any] = [None, None]
    if state.is_main_process:
        try:
            outcome[0] = _plain(action())
        except UserError as error:
            outcome[1] = (str(error), error.exit_code)
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise UserError(*outcome[1])
    return outcome[0]


def _plain(value: Any) -> Any:
    """Only what every process may be given; a folder or a lock stays with its holder."""
    return value if isinstance(value, bool | int | float | str | list | dict | None) else None
