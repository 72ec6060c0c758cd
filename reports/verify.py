"""The `verify` command: the verdict on each claim asked for, with the rule and the evidence, and whether it is decided.

Nothing is measured here: a verdict is a function of the records that are there.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from ..errors import unknown_name
from ..records import Record, measured_records
from .claims import CLAIMS, Verdict, judge
from .published import published_records
from .verdicts import counted, interval_text, lacking

WIDTH = 80
"""Columns of every terminal; only a command to be copied is longer."""
INDENT = " " * 12


def verify_command(runs: Path, claims: Sequence[str] | None) -> tuple[str, bool]:
    """Judge claims from the records of all finished runs and those that the package ships.

    Args:
        runs: Folder of all runs; need not be there.
        claims: Names of `CLAIMS`, in any case; all without them.

    Returns:
        What to print, and whether all claims asked for are decided, either way.

    Raises:
        UserError: for an unknown claim, with the nearest names; for records that cannot be read.
    """
    verdicts, measured = verdicts_on(runs, claims)
    used = {run for verdict in verdicts for run in verdict.runs}
    count = sum(record.run_id in used for record in measured)
    lines = [verdict_text(verdict) for verdict in verdicts]
    summary = f"{counted(verdicts)}; {len(measured):,} measured records read, {count:,} of the runs used"
    lines.append(_wrapped(summary, "", ""))
    return "\n\n".join(lines), all(verdict.decided for verdict in verdicts)


def verdicts_on(runs: Path, claims: Sequence[str] | None) -> tuple[list[Verdict], list[Record]]:
    """The verdicts on claims (all of them if none is named), and the measured records that were read."""
    names = list(dict.fromkeys(name.upper() for name in claims or CLAIMS))
    for name in names:
        if name not in CLAIMS:
            raise unknown_name("claim", name, CLAIMS)
    measured = measured_records(runs)
    records = [*published_records(), *measured]
    return [judge(name, records) for name in names], measured


def verdict_text(verdict: Verdict) -> str:
    """One verdict in full, as plain text."""
    facts = [
        ("effect", verdict.effect or "—"),
        ("interval", f"95 % {interval_text(verdict)}" if verdict.interval else "—"),
        ("rule", verdict.rule),
        ("shown by", verdict.artifact),
        ("runs", ", ".join(verdict.runs) or "none"),
        *(("missing", one) for one in lacking(verdict)),
    ]
    lines = [_wrapped(verdict.text, f"{verdict.claim}  {verdict.status.upper()}: ", " " * 4)]
    lines += [_wrapped(value, f"  {name:<10}", INDENT) for name, value in facts]
    if not verdict.decided:
        # In one piece, so that it can be copied.
        lines.append(f"  {'command':<10}{verdict.command or 'none of this version measures it yet'}")
    return "\n".join(lines)


def _wrapped(text: str, first: str, others: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )
