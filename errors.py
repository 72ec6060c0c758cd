"""What a user did wrong, said in one line that also says how to mend it."""

import difflib
import errno
from collections.abc import Iterable

FULL = {errno.ENOSPC, errno.EDQUOT}
"""Numbers of the errors that say that a disk has no room, or not for this user."""


class UserError(Exception):
    """A mistake in what the user asked for or provided; shown as one line, without a traceback.

    Args:
        message: what is wrong and how to mend it. Names from files and folders go into it as they are, so whatever
            would break the line or command a terminal is escaped.
        exit_code: 2 for a wrong request (the default), 1 for anything else that ended the work.
    """

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(terminal_safe(message))
        self.exit_code = exit_code


def terminal_safe(text: str) -> str:
    """A text with everything escaped that is no printable sign: line breaks, what commands a terminal, halves."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Build the error for a name that no registry holds, with the nearest names first."""
    names = sorted(known)
    folded = {candidate.lower(): candidate for candidate in names}
    near = [folded[match] for match in difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)]
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")
