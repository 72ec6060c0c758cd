"""The token mixers by name. A new one is a file in `mixers` and a line here.

Third parties add theirs through the entry-point group ``infinitevl_bench.mixers`` (name → "module:Class").
"""

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, TypeVar

from ..errors import UserError, unknown_name

if TYPE_CHECKING:
    from .mixers.base import TokenMixer
    from .ops.recurrence import Recurrence

MIXERS: dict[str, str] = {
    "gated_deltanet": "mixers.gated_deltanet:GatedDeltaNet",
    "mamba2": "mixers.mamba2:Mamba2",
    "gla": "mixers.gla:GatedLinearAttention",
    "linear_attention": "mixers.linear_attention:LinearAttention",
    "deltanet": "mixers.deltanet:DeltaNet",
    "kimi_delta_attention": "mixers.kimi_delta_attention:KimiDeltaAttention",
    "retnet": "mixers.retnet:RetNet",
    "hgrn2": "mixers.hgrn2:HGRN2",
    "mamba1": "mixers.mamba1:Mamba1",
    "identity": "mixers.identity:Identity",
}
"""Name → "module of this package:class"; imported when it is asked for."""

ALIASES: dict[str, str] = {"mamba": "mamba2", "gdn": "gated_deltanet", "kda": "kimi_delta_attention"}

ENTRY_POINTS = "infinitevl_bench.mixers"

Names = TypeVar("Names", str, str | None, list[str] | None)


def mixer_names() -> list[str]:
    """All mixers, ours in their order and then those of third parties."""
    return [*MIXERS, *sorted(_third_party())]


def canonical_name(name: str) -> str:
    """The one name of a mixer, given that or an alias.

    Raises:
        UserError: for an unknown name, with the nearest ones.
    """
    known = {known.lower(): known for known in mixer_names()} | ALIASES
    if name.lower() not in known:
        raise unknown_name("mixer", name, [*mixer_names(), *ALIASES])
    return known[name.lower()]


def known_mixer(names: Names) -> Names:
    """The mixers that an option of a command names, looked up before anything is imported that takes seconds.

    Raises:
        UserError: as `canonical_name`.
    """
    for name in [names] if isinstance(names, str) else names or ():
        canonical_name(name)
    return names


@cache
def get_mixer(name: str) -> "type[TokenMixer]":
    """The class of a mixer.

    Raises:
        UserError: for an unknown name, with the nearest ones, or an entry point that gives no mixer.
    """
    from .mixers.base import TokenMixer

    name = canonical_name(name)
    if name in MIXERS:
        module, attribute = MIXERS[name].split(":")
        found = getattr(import_module(f".{module}", __package__), attribute)
    else:
        try:
            found = _third_party()[name].load()
        except (ImportError, AttributeError) as error:
            raise UserError(f"mixer {name!r} cannot be loaded ({error}); mend or uninstall its package", 1) from error
    if not (isinstance(found, type) and issubclass(found, TokenMixer)):
        raise UserError(f"mixer {name!r} is {found!r}, not a subclass of TokenMixer; mend or uninstall its package", 1)
    return found


def get_recurrence(name: str) -> "Recurrence":
    """The recurrence of a mixer.

    Raises:
        UserError: as `get_mixer`, or for a mixer that has none.
    """
    recurrence = get_mixer(name).recurrence
    if recurrence is None:
        raise UserError(f"mixer {name!r} has no recurrence; name another, such as {next(iter(MIXERS))}")
    return recurrence


def recurrent_mixers() -> list[str]:
    """The mixers that have a recurrence, in the order of `mixer_names`."""
    return [name for name in mixer_names() if get_mixer(name).recurrence is not None]


@cache
def _third_party() -> dict[str, EntryPoint]:
    found = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    taken = sorted(found.keys() & (MIXERS.keys() | ALIASES.keys()))
    if taken:
        raise UserError(f"an installed package names a mixer {taken[0]!r}, which exists; rename it in that package")
    return found
