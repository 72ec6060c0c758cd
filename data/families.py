"""Registry of page families, and the one door to a page.

A page is a function of (family, seed, split, index, level) alone: not of the order of calls, the process or the
machine's hash seed.
"""

import hashlib
import random
from collections.abc import Callable
from functools import cache
from importlib import import_module

from ..errors import UserError, unknown_name
from .pages import SPLITS, Page

FAMILIES: dict[str, str] = {
    "documents": "documents:draw_page",
    "transcription": "transcription:draw_page",
    "shapes": "shapes:draw_page",
    "scene_text": "scene_text:draw_page",
    "charts": "charts:draw_page",
    "backgrounds": "backgrounds:draw_page",
}
"""Name of a family → "module of this package:function(rng, level) -> Page"."""

LEVELS = (1, 2, 3, 4)


def family_names() -> tuple[str, ...]:
    """Names of all page families."""
    return tuple(FAMILIES)


@cache
def _drawer(family: str) -> Callable[[random.Random, int], Page]:
    if family not in FAMILIES:
        raise unknown_name("page family", family, FAMILIES)
    module, function = FAMILIES[family].split(":")
    drawer: Callable[[random.Random, int], Page] = getattr(import_module(f".{module}", __package__), function)
    return drawer


def page_seed(family: str, *, seed: int, index: int, split: str, level: int) -> int:
    """Seed of one page: the SHA-256 of all that names it, so no two pages share a seed."""
    key = f"{family}|{seed}|{split}|{index}|{level}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest(), "big")


def generate_page(family: str, *, seed: int, index: int, split: str, level: int) -> Page:
    """Draw one page.

    Args:
        family: One of ``FAMILIES``.
        seed: Seed of the whole data set.
        index: Which page of the split, from 0.
        split: ``train``, ``validation`` or ``test``. Each draws from its own seeds, and a page of any family has
            far more than 2**32 appearances, so no page turns up in two splits.
        level: 1 (easiest) to 4.

    Raises:
        UserError: For an unknown family, split or level, or a negative index.
    """
    drawer = _drawer(family)
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if level not in LEVELS:
        raise UserError(f"level {level} of {family} does not exist; levels are 1 to {LEVELS[-1]}")
    if index < 0:
        raise UserError(f"page index {index} is negative; pages are counted from 0")
    return drawer(random.Random(page_seed(family, seed=seed, index=index, split=split, level=level)), level)
