"""What the package ships, by name and path: nothing heavy is imported to know it."""

from ..errors import UserError

HYBRID, TEACHER = "hybrid", "teacher"

DEFAULT = HYBRID
"""The model that is meant where none is named."""

SHIPPED: dict[str, tuple[str, ...]] = {
    HYBRID: ("models", "assets", "hybrid", "model.safetensors"),
    TEACHER: ("models", "assets", "teacher", "model.safetensors"),
}
"""Trained models that the package ships, by name: small, trained on our synthetic pages, under the shipped tower."""

VISION_TOWER = ("models", "assets", "vision_tower", "model.safetensors")


def named(reference: str | None, option: str) -> str:
    """The model that an option names; the default one where it is left out.

    Raises:
        UserError: for an empty name, as an unset variable of a shell gives: it is neither.
    """
    if reference is not None and not reference.strip():
        raise UserError(
            f"{option} is empty; name a folder, run, preset or hub id, or leave it out for the shipped model"
        )
    return DEFAULT if reference is None else reference
