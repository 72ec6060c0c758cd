"""Several processes on one evaluation, started by ``accelerate launch``: who takes what, and who waits for whom."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

PATIENCE = timedelta(hours=24)
"""How long processes wait for each other: one may get the longest questions."""


@dataclass(frozen=True)
class Team:
    """This process among those that share an evaluation.

    Attributes:
        rank: Its number.
        size: How many there are.
        state: accelerate's state of them; None for one alone.
    """

    rank: int = 0
    size: int = 1
    state: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process scores and writes what all have answered."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait for all."""
        if self.state is not None:
            self.state.wait_for_everyone()

    def takes(self, number: int) -> bool:
        """Whether this process answers a batch."""
        return number % self.size == self.rank


ALONE = Team()


def join_team(device: str) -> tuple[Team, str]:
    """The team that a launcher has put this process in, and the device that is its own.

    Args:
        device: cpu or cuda.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return ALONE, device
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu", timeout=PATIENCE)
    own = device if device == "cpu" else f"cuda:{state.local_process_index}"
    return Team(state.process_index, state.num_processes, state), own
