"""What a user is told when a command cannot go on: one line that names the way out, and the exit code."""

import errno
import re
from typing import TYPE_CHECKING

import typer

from .errors import FULL, UserError, terminal_safe

if TYPE_CHECKING:
    from click import UsageError
else:
    # click's own, or the copy that newer releases of typer carry.
    UsageError = next(one for one in typer.BadParameter.__mro__ if one.__name__ == "UsageError")

REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}
NO_PLACE = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR}


def told(error: Exception) -> tuple[str, int]:
    """The line for an error, and the exit code: 2 for a wrong request, 1 for what else ended the work.

    Raises:
        OSError: what is nobody's mistake comes back as it was.
    """
    if isinstance(error, UserError):
        return f"infinitevl-bench: {error}", error.exit_code
    if isinstance(error, typer.Abort):
        return "infinitevl-bench: stopped", 1
    if isinstance(error, OSError):
        return terminal_safe(f"infinitevl-bench: {_about_files(error)}"), 1
    return _about_usage(error), 2


def _about_usage(error: Exception) -> str:
    assert isinstance(error, UsageError)  # noqa: S101 - narrows what `told` is given
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        return message
    command = error.ctx.command_path if error.ctx is not None else "infinitevl-bench"
    # The checks behind typer's own words are pydantic's, and say that they are.
    plain = " ".join(message.split()).replace("Value error, ", "").rstrip(".")
    plain = re.sub(r"^([A-Z])(?=[a-z])", lambda first: first[1].lower(), plain)
    return f"infinitevl-bench: {plain}; see `{command} --help`"


def _about_files(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ""
    if error.errno in FULL:
        return f"no space left for{where or ' a file'}; free some, or set TMPDIR and --runs to folders that have some"
    if error.errno in REFUSED:
        return f"cannot write or read{where}: {error.strerror}; choose another folder, or set TMPDIR to one"
    if error.errno in NO_PLACE and error.filename:
        return f"{error.filename}: {(error.strerror or '').lower()}; name another file or folder"
    if error.errno == errno.ENOENT and "temporary directory" in (error.strerror or ""):
        return "no folder for temporary files can be written to; set TMPDIR to one that has some space"
    raise error
