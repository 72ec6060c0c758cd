"""The console on which results are shown."""

from typing import Any

from rich.console import Console  # noqa: TID251 - the one place
from rich.text import Text

from .errors import terminal_safe


class PlainConsole(Console):
    """Rich's console for names and texts from files: a bracket in one is no markup, and none commands a terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
        """As rich does, with control signs made visible."""
        return super().render_str("\n".join(map(terminal_safe, text.split("\n"))), **options)
