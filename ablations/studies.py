"""The registered studies by name. A new one is a file beside this and a line here."""

from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import unknown_name

if TYPE_CHECKING:
    from .plan import Plan

STUDIES: dict[str, str] = {
    "mixer_choice": "mixer_choice:PLAN",
    "swa_ratio": "swa_ratio:PLAN",
    "frame_scaling": "frame_scaling:PLAN",
    "mqar": "mqar:PLAN",
    "mqar_vision": "mqar_vision:PLAN",
}
"""Name → "module of this package:plan"; imported when it is asked for."""


def check_study(name: str) -> None:
    """Look a name up, and import nothing.

    Raises:
        UserError: for an unknown name.
    """
    if name not in STUDIES:
        raise unknown_name("study", name, STUDIES)


def get_plan(name: str) -> "Plan":
    """The plan of a study.

    Raises:
        UserError: for an unknown name.
    """
    check_study(name)
    module, attribute = STUDIES[name].split(":")
    plan: Plan = getattr(import_module(f".{module}", __package__), attribute)
    return plan
