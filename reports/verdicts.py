"""The verdicts on the claims, counted and written as Markdown."""

from collections.abc import Sequence

from .claims import STATUSES, Status, Verdict
from .tables import markdown_command, markdown_text


def counts(verdicts: Sequence[Verdict]) -> dict[Status, int]:
    """How many verdicts have each status, in the order of `claims.STATUSES`; statuses that none has are left out."""
    found = {status: sum(verdict.status == status for verdict in verdicts) for status in STATUSES}
    return {status: number for status, number in found.items() if number}


def counted(verdicts: Sequence[Verdict]) -> str:
    """The counts in one line."""
    return ", ".join(f"{number} {status}" for status, number in counts(verdicts).items())


def lacking(verdict: Verdict) -> tuple[str, ...]:
    """What a claim lacks to be decided; nothing where it is."""
    if verdict.decided:
        return ()
    return verdict.missing or (
        ("any measurement",) if verdict.status == "no data" else ("a narrower interval: more seeds or more samples",)
    )


def interval_text(verdict: Verdict) -> str:
    """The 95 % interval behind a verdict with its unit; empty without one."""
    if verdict.interval is None:
        return ""
    low, high = verdict.interval
    return f"[{low:+.2f}, {high:+.2f}] {verdict.unit}".rstrip()


def verdicts_markdown(verdicts: Sequence[Verdict]) -> str:
    """Write all verdicts as GitHub Markdown: a table of them, then the rule and the evidence of each."""
    lines = ["# Verdicts on the paper's claims", "", f"{counted(verdicts)}.", ""]
    lines += ["| Claim | Verdict | Effect |", "| :--- | :--- | :--- |"]
    for verdict in verdicts:
        claim = f"{verdict.claim}: {markdown_text(verdict.text)}"
        lines.append(f"| {claim} | **{verdict.status}** | {markdown_text(verdict.effect) or '—'} |")
    for verdict in verdicts:
        lines += ["", f"## {verdict.claim} · {verdict.status}", "", markdown_text(verdict.text), ""]
        lines.append(f"- Rule, written down before the runs: {markdown_text(verdict.rule)}")
        if verdict.effect:
            lines.append(f"- Effect: {markdown_text(verdict.effect)}")
        if verdict.interval is not None:
            lines.append(f"- 95 % interval: {markdown_text(interval_text(verdict))}")
        lines += [f"- Missing: {markdown_text(one)}" for one in lacking(verdict)]
        lines.append(f"- Shown by: {markdown_text(verdict.artifact)}")
        if verdict.runs:
            lines.append(f"- Runs: {', '.join(map(markdown_text, verdict.runs))}")
        if not verdict.decided:
            lines.append(f"- Command: {markdown_command(verdict.command)}")
    return "\n".join(lines) + "\n"


def claims_table(verdicts: Sequence[Verdict]) -> str:
    """The table of claims that README shows: claim, artifact, verdict of the shipped records, and what decides it."""
    lines = ["| | claim of the paper | shown in | today | what decides it |", "|---|---|---|---|---|"]
    for one in verdicts:
        lines.append(
            f"| {one.claim} | {markdown_text(one.text)} | {markdown_text(one.artifact)} | {one.status} | "
            f"{markdown_command(one.command)} |"
        )
    return "\n".join(lines) + "\n"


def found_so_far(verdicts: Sequence[Verdict]) -> str:
    """What the shipped records say of each claim that they speak of, as the list that README shows under the table."""
    return "".join(
        f"- **{one.claim}**{'' if one.decided else ' (not decided)'} · {markdown_text(one.effect)}.\n"
        for one in verdicts
        if one.effect
    )
