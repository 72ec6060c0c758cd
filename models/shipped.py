"""What the package ships, by name and path: nothing heavy is imported to know it."""

from ..errors import UserError

SHIPPED = "teacher"
"""Name of the trained model that the package ships: small, full attention, trained on our synthetic pages."""

TEACHER = ("models", "assets", "teacher", "model.safetensors")
VISION_TOWER = ("models", "assets", "vision_tower", "model.safetensors")


def named(reference: str | None, option: str) -> str:
    """The model that an option names; the shipped one where it is left out.

    Raises:
        UserError: for an empty name, as an unset variable of a shell gives: it is neither.
    """
    if reference is not None and not reference.strip():
        raise UserError(
            f"{option} is empty; name a folder, run, preset or hub id, or leave it out for the shipped model"
        )
    return SHIPPED if reference is None else reference
