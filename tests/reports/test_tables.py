"""Tables as Markdown, LaTeX and CSV: nothing in a record can break out of its cell."""

import csv
import io
import re

import pytest
from infinitevl_bench.reports.estimates import Estimate
from infinitevl_bench.reports.tables import (
    NOTHING,
    Cell,
    Column,
    Row,
    Table,
    count_cell,
    estimate_cell,
    latex_text,
    markdown_command,
    markdown_text,
    number_cell,
    text_cell,
    to_csv,
    to_latex,
    to_markdown,
)

NASTY = "<script>a</script> | 50 % & _x_ `y` $z$ #1 {b} \\ [c]\n~^"
ESTIMATE = Estimate(51.25, 49.0, 53.5, "seeds", (0, 1), 100, "%", ("run-1", "run-2"), 0)


@pytest.fixture
def table() -> Table:
    columns = (Column("Model", numeric=False), Column("DocVQA_TEST", "%"), Column("State", "elements"))
    rows = (
        Row((text_cell(NASTY), number_cell(70.0), count_cell(None)), "published"),
        Row(
            (text_cell("mine"), estimate_cell(ESTIMATE, mark="†", strong=True), count_cell(51904512)),
            "measured",
            ESTIMATE.runs,
        ),
    )
    return Table("A & B", columns, rows)


def test_a_row_must_fit_its_columns() -> None:
    with pytest.raises(ValueError, match="1 cells under 2 columns"):
        Table("t", (Column("a"), Column("b")), (Row((text_cell("x"),), "measured"),))


def test_cells_keep_value_and_interval() -> None:
    cell = estimate_cell(ESTIMATE)
    assert (cell.text, cell.value, cell.interval) == ("51.2", 51.25, "[49.0, 53.5]")
    assert number_cell(None).text == estimate_cell(None).text == NOTHING
    assert count_cell(1234567).text == "1,234,567"
    assert Cell("52M", 5.2e7, 5e7, 5.4e7).interval == "[50M, 54M]"


def test_markdown_has_one_row_a_line_and_no_tag(table: Table) -> None:
    text = to_markdown("T | itle", "Cap <b>", [table], [("<a", "b <c>"), ("d", None)])
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    bars = [line.replace(r"\|", "").count("|") for line in rows]
    assert bars == [5, 5, 5, 5]
    assert "<" not in text.replace("`b <c>`", "")
    assert text.endswith("\n- &lt;a: `b <c>`\n- d: no command of this version measures it yet\n")
    assert "&lt;script&gt;" in text
    assert r"**51.2† \[49.0, 53.5\]**" in text
    assert rows[-1].endswith("| measured |")
    assert rows[-2].endswith("| published |")


@pytest.mark.parametrize("command", ["run a_b_c --x '*' [d]", "echo `date`", "a ``b` c", "plain"])
def test_a_command_stands_in_markdown_as_it_is_typed(command: str) -> None:
    # By CommonMark, a code span ends at the first run of as many backticks as began it.
    span = markdown_command(command)
    fence = re.match("`+", span)
    assert fence is not None
    assert [len(run) for run in re.findall("`+", span)].count(len(fence[0])) == 2
    assert span.removeprefix(fence[0]).removesuffix(fence[0]).strip() == command


def test_markdown_text_is_flat() -> None:
    assert markdown_text("a\n\n b") == "a b"


def test_latex_escapes_what_latex_reads(table: Table) -> None:
    text = to_latex("table_1", "T_1", "50 % & more", [table])
    assert r"50 \% \& more" in text
    assert r"DocVQA\_TEST (\%)" in text
    assert r"\label{tab:table-1}" in text
    assert r"\textbf{51.2\textsuperscript{\dag}} {\scriptsize {[}49.0, 53.5{]}}" in text
    for sign in "&%$#_":
        assert latex_text(f"a{sign}b") == rf"a\{sign}b"
    assert latex_text("a\\b{c}~^") == r"a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}"
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")].splitlines()
    rows = [line for line in body if line.endswith(r"\\")]
    assert [line.replace(r"\&", "").count("&") for line in rows] == [3, 3, 3]
    assert text.count("{") == text.count("}")
    assert body.count(r"\midrule") == 2  # under the heading, and between published and measured


def test_latex_of_nothing_is_a_comment() -> None:
    assert to_latex("x", "Title", "Caption.", []).startswith("% Title")


def test_csv_holds_typed_values(table: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv([table]))))
    assert rows[0]["Model"] == NASTY
    assert rows[1]["DocVQA_TEST (%)"] == "51.25"
    assert rows[1]["DocVQA_TEST (%) low"] == "49.0"
    assert rows[0]["DocVQA_TEST (%) low"] == ""
    assert rows[1]["State (elements)"] == "51904512"
    assert rows[1]["runs"] == "run-1 run-2"
    assert [row["source"] for row in rows] == ["published", "measured"]
    assert to_csv([]) == "block\n"


def test_equal_headings_do_not_hide_each_other() -> None:
    twice = Table("t", (Column("a"), Column("a")), (Row((number_cell(1.0), number_cell(2.0)), "measured"),))
    assert twice.values().iloc[0].tolist()[:2] == [1.0, 2.0]
    assert list(twice.display().columns) == ["a", "a", "source"]
