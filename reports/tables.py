"""A table of the report, and how it is written as Markdown, LaTeX and CSV.

A cell keeps what is shown and what is meant: the text, and the typed value with its interval for sorting and export.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from .estimates import Estimate

Kind = Literal["published", "measured", "baseline", "missing"]
NOTHING = "—"
NO_COMMAND = "no command of this version measures it yet"


@dataclass(frozen=True)
class Column:
    """A column: its heading, the unit of its values ("" for text), and whether it is shown as numbers."""

    title: str
    unit: str = ""
    numeric: bool = True

    @property
    def heading(self) -> str:
        """Title with unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True)
class Cell:
    """What is shown, and the value behind it in the unit of its column.

    ``mark`` is a footnote sign that the caption explains; ``strong`` marks the best of a column.
    """

    text: str
    value: float | int | str | None = None
    low: float | None = None
    high: float | None = None
    mark: str = ""
    strong: bool = False

    @property
    def interval(self) -> str:
        """The interval as text, with the digits of the value; empty without one."""
        if self.low is None or self.high is None:
            return ""
        if re.fullmatch(r"[\d.]+[KMB]", self.text):
            return f"[{thousands(self.low)}, {thousands(self.high)}]"
        digits = len(self.text.partition(".")[2]) if re.fullmatch(r"[\d.,]+", self.text) else 1
        return f"[{self.low:.{digits}f}, {self.high:.{digits}f}]"


@dataclass(frozen=True)
class Row:
    """A row, who says so, and the runs behind it; ``facets`` are what the page's filters look at."""

    cells: tuple[Cell, ...]
    kind: Kind
    runs: tuple[str, ...] = ()
    facets: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Table:
    """One block of rows under common columns."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(f"{self.title}: {len(row.cells)} cells under {len(self.columns)} columns")

    def display(self) -> pd.DataFrame:
        """The table as shown: strings only, intervals after their values."""
        rows = [[*map(cell_text, row.cells), row.kind] for row in self.rows]
        return pd.DataFrame(rows, columns=[*(column.heading for column in self.columns), "source"], dtype=object)

    def values(self) -> pd.DataFrame:
        """The table as typed values, each interval in two columns of its own, and the runs behind each row."""
        data: dict[str, list[object]] = {}
        for index, column in enumerate(self.columns):
            cells = [row.cells[index] for row in self.rows]
            # Two columns may have one heading; neither may hide the other.
            heading = column.heading if column.heading not in data else f"{column.heading} #{index + 1}"
            data[heading] = [cell.value for cell in cells]
            if any(cell.low is not None for cell in cells):
                data[f"{heading} low"] = [cell.low for cell in cells]
                data[f"{heading} high"] = [cell.high for cell in cells]
        data["source"] = [row.kind for row in self.rows]
        data["runs"] = [" ".join(row.runs) for row in self.rows]
        return pd.DataFrame(data, dtype=object)


def thousands(value: float) -> str:
    """A count in short: 52M, 32K, 800."""
    for limit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def binary(value: float) -> str:
    """A power of two in short, as contexts are named: 64K are 65,536 tokens, 1M are 1,048,576."""
    for limit, letter in ((2**20, "M"), (2**10, "K")):
        if value >= limit and value % limit == 0:
            return f"{value // limit:.0f}{letter}"
    return f"{value:.0f}"


def text_cell(text: str) -> Cell:
    """A cell of words."""
    return Cell(text, text)


def number_cell(value: float | None, digits: int = 1) -> Cell:
    """A cell of a bare number; a dash for None."""
    return Cell(NOTHING) if value is None else Cell(f"{value:.{digits}f}", value)


def count_cell(value: int | None) -> Cell:
    """A cell of a count, thousands separated; a dash for None."""
    return Cell(NOTHING) if value is None else Cell(f"{value:,}", value)


def estimate_cell(estimate: Estimate | None, digits: int = 1, mark: str = "", strong: bool = False) -> Cell:
    """A cell of an estimate with its interval; a dash for None."""
    if estimate is None:
        return Cell(NOTHING)
    return Cell(f"{estimate.value:.{digits}f}", estimate.value, estimate.low, estimate.high, mark, strong)


def cell_text(cell: Cell) -> str:
    """Text, mark and interval of a cell in one line."""
    return " ".join(part for part in (cell.text + cell.mark, cell.interval) if part)


def to_markdown(
    title: str, caption: str, tables: Iterable[Table], missing: Iterable[tuple[str, str | None]] = ()
) -> str:
    """Write tables as GitHub Markdown under one heading, all text escaped, so that none can open a tag or a cell.

    Args:
        title: of the artifact.
        caption: below the tables.
        tables: blocks of rows.
        missing: what the artifact lacks, each with the command that makes it, if there is one.
    """
    parts = [f"## {markdown_text(title)}", ""]
    for table in tables:
        parts += [f"### {markdown_text(table.title)}", ""]
        headings = [*(column.heading for column in table.columns), "source"]
        rules = [*("---:" if column.numeric else ":---" for column in table.columns), ":---"]
        rows = [
            [
                *(f"**{markdown_text(cell_text(c))}**" if c.strong else markdown_text(cell_text(c)) for c in row.cells),
                row.kind,
            ]
            for row in table.rows
        ]
        lines = [[markdown_text(heading) for heading in headings], rules, *rows]
        parts += ["| " + " | ".join(line) + " |" for line in lines]
        parts.append("")
    parts += [markdown_text(caption), ""]
    parts += [f"- {markdown_text(what)}: {markdown_command(command)}" for what, command in missing]
    return "\n".join(parts).rstrip() + "\n"


def markdown_text(text: str) -> str:
    """Escape a text for a Markdown table cell."""
    flat = " ".join(str(text).split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", flat)


def markdown_command(command: str | None) -> str:
    """A command as a code span, nothing of it escaped: it can be copied from the source as well as from the page."""
    if not command:
        return NO_COMMAND
    flat = " ".join(command.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", flat)), default=0))
    inside = f" {flat} " if flat.startswith("`") or flat.endswith("`") else flat
    return fence + inside + fence


def to_latex(name: str, title: str, caption: str, tables: Sequence[Table]) -> str:
    r"""Write tables as LaTeX floats with booktabs rules; needs ``\usepackage{booktabs}`` only."""
    if not tables:
        return f"% {latex_text(title)}: {latex_text(caption)}\n"
    parts = []
    for number, table in enumerate(tables, start=1):
        label = name.replace("_", "-") + (f"-{number}" if len(tables) > 1 else "")
        columns = "".join("r" if column.numeric else "l" for column in table.columns) + "l"
        rows = [" & ".join([*(latex_text(c.heading) for c in table.columns), "source"]) + r" \\", r"\midrule"]
        previous: str | None = None
        for row in table.rows:
            if previous is not None and row.kind != previous:
                rows.append(r"\midrule")
            previous = row.kind
            rows.append(" & ".join([*map(_latex_cell, row.cells), row.kind]) + r" \\")
        parts += [
            r"\begin{table}[t]",
            r"\centering",
            r"\small",
            rf"\caption{{{latex_text(title)}. {latex_text(table.title)}. {latex_text(caption)}}}",
            rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    return "\n".join(parts)


def _latex_cell(cell: Cell) -> str:
    text = latex_text(cell.text + cell.mark)
    if cell.strong:
        text = rf"\textbf{{{text}}}"
    return rf"{text} {{\scriptsize {latex_text(cell.interval)}}}" if cell.interval else text


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "—": "---", "–": "--", "−": r"\ensuremath{-}", "†": r"\textsuperscript{\dag}",
    "≥": r"\ensuremath{\geq}", "≤": r"\ensuremath{\leq}", "×": r"\ensuremath{\times}", "±": r"\ensuremath{\pm}",
    "→": r"\ensuremath{\rightarrow}", "·": r"\ensuremath{\cdot}", "[": "{[}", "]": "{]}",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Escape a text for LaTeX, including the signs that our captions use."""
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(str(text).split()))


def to_csv(tables: Sequence[Table]) -> str:
    """Write the typed values of all blocks as one CSV, the block's title in the first column."""
    frames = []
    for table in tables:
        frame = table.values()
        frame.insert(0, "block", table.title)
        frames.append(frame)
    text: str = pd.concat(frames, ignore_index=True).to_csv(index=False, lineterminator="\n") if frames else "block\n"
    return text
