"""What the settings of training may be, and how a user is told that one cannot be."""

import json
import math
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from ..errors import UserError, unknown_name
from ..options import FEWEST_PIXELS, MOST_PIXELS

Settings = TypeVar("Settings", bound=BaseModel)


def _no_truth(value: object) -> object:
    """Refuse ``true``, which would count as 1."""
    if isinstance(value, bool):
        raise ValueError("neither true nor false is a number")
    return value


_NUMBER = BeforeValidator(_no_truth)

Count = Annotated[int, Field(gt=0, le=10**9), _NUMBER]
Number = Annotated[int, Field(ge=0, le=10**9), _NUMBER]
Area = Annotated[int, Field(ge=FEWEST_PIXELS, le=MOST_PIXELS), _NUMBER]
"""Of a picture, in pixels; of less than one visual token there is none."""
Size = Annotated[float, Field(gt=0, le=10**9, allow_inf_nan=False), _NUMBER]
Rate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False), _NUMBER]
"""Of learning: AdamW moves every weight by about as much a step, and weights are below 1."""
Amount = Annotated[float, Field(ge=0, le=10**9, allow_inf_nan=False), _NUMBER]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), _NUMBER]
OpenShare = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), _NUMBER]
"""Of which a part remains: what decays at a rate of 1 never moves, and what is dropped wholly never learns."""
Seed = Annotated[int, Field(ge=0, lt=2**32), _NUMBER]
"""What every generator of random numbers takes."""


def changed(stands: Settings, changes: dict[str, Any], whose: str) -> Settings:
    """Settings with some of them changed, by name.

    Args:
        stands: the settings as they are.
        changes: name → value.
        whose: in front of the value that stands, where another cannot be: such as ``this stage has``.

    Raises:
        UserError: for an unknown name, or a value that it cannot take.
    """
    for name in changes:
        if name not in type(stands).model_fields:
            raise unknown_name("setting", name, type(stands).model_fields)
    try:
        return type(stands).model_validate(stands.model_dump() | changes)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        given, takes = changes[name], _takes(type(stands).model_json_schema()["properties"][name])
        if isinstance(given, float) and not math.isfinite(given):
            takes = takes.replace("a number", "a finite number")
        shown = "nothing" if given in (None, "") else str(given).lower() if isinstance(given, bool) else repr(given)
        raise UserError(
            f"setting {name} takes {takes}, not {shown}; {whose} {json.dumps(getattr(stands, name))}"
        ) from None


_KINDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "null": "null"}
_BOUNDS = {
    "exclusiveMinimum": "above", "minimum": "of at least", "exclusiveMaximum": "and below", "maximum": "and at most",
}  # fmt: skip


def _takes(schema: dict[str, Any]) -> str:
    """In words, what a field of this JSON schema may be."""
    if "anyOf" in schema:
        return " or ".join(map(_takes, schema["anyOf"]))
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if "prefixItems" in schema:
        return f"a list of {len(schema['prefixItems'])}, each {_takes(schema['prefixItems'][0])}"
    bounds = [f"{words} {schema[name]:,}" for name, words in _BOUNDS.items() if name in schema]
    return " ".join([_KINDS[schema["type"]], *bounds])
