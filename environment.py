"""Where a run ran: the machine, the packages, the commit and the command line, without secrets."""

import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from .files import package_path

RECORDED_PACKAGES = (
    "infinitevl-bench", "torch", "transformers", "accelerate", "fla-core", "triton", "tilelang", "mamba-ssm",
    "flash-attn", "ms-vlmeval", "numpy", "pandas",
)  # fmt: skip
SECRETS = re.compile(
    r"(?<=://)[^/@\s]+(?=@)"  # user and password of an address
    r"|\b(?:hf_|sk-|ghp_|github_pat_|xox[abp]-)[\w-]{8,}"  # tokens that say whose they are
    r"|(?<=bearer )\S+"
    r"|(?:(?<=token=)|(?<=key=)|(?<=secret=)|(?<=password=))[^&\s]+",
    re.IGNORECASE,
)

PACKAGE, PROGRAM = "infinitevl_bench", "infinitevl-bench"

COMMAND = "INFINITEVL_BENCH_COMMAND"
"""What a command tells the processes that it starts: its own command line, a list in JSON."""

_ABSOLUTE = re.compile(r"(?<![\w.~/-])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\=]+[/\\])*(?=[^\s/\\=]*)")


def without_paths(text: str) -> str:
    """Shorten absolute paths to their last part: what is passed on need not tell where a home folder lies."""
    return _ABSOLUTE.sub("…/", text)


def without_secrets(text: str) -> str:
    """A text with whatever looks like a password or a token replaced by three dots."""
    return SECRETS.sub("…", text)


def environment(device: str) -> dict[str, Any]:
    """Describe the machine, the packages, the commit and the command line, without any secret or user name."""
    return {
        "device": device,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in RECORDED_PACKAGES if (version := _version(name)) is not None},
        "git": _git_state(),
        "command": command_line(),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def command_line() -> list[str]:
    """What the user called, without secrets: of this process, or of that which started it for its work."""
    told = os.environ.get(COMMAND)
    if told is not None:
        return [str(part) for part in json.loads(told)]
    return [*_program(), *map(without_secrets, sys.argv[1:])]


def _program() -> list[str]:
    """What stands before the arguments, so that a recorded command can be called again as it is."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec is not None else ""
    if name == f"{PACKAGE}.cli":
        return [PROGRAM]
    return ["python", "-m", name] if name.split(".")[0] == PACKAGE else [Path(sys.argv[0]).name]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, str | bool | None]:
    root = package_path()
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        # No git on this machine, or a checkout without a commit: the versions still say which release ran.
        return {"commit": None, "dirty": None}
