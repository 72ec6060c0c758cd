"""Tables 1 and 2: nine published rows, ours beside them on the same data, and averages that can be checked."""

from types import SimpleNamespace
from typing import Any

import pytest
from infinitevl_bench.records import Record
from infinitevl_bench.reports.benchmark_tables import HELD_BACK, general_table, text_rich_table
from infinitevl_bench.reports.published import benchmark_columns, published_records, recomputed_averages

TABLES = {"table1": general_table, "table2": text_rich_table}


def measured(make: SimpleNamespace, table: str, model: str = "mine", skip: str = "") -> list[Record]:
    """One score of 60 on every benchmark of a table, on the split that can be scored; 1500 points of MME."""
    records = []
    for column in benchmark_columns(table):
        dataset = HELD_BACK.get(column, column)
        if dataset == skip:
            continue
        points: dict[str, Any] = {"unit": "points"} if column == "MME" else {}
        value = 1500.0 if column == "MME" else 60.0
        records.append(make.evaluated(model, dataset, value, dataset=dataset, artifact=table, **points))
    return records


@pytest.mark.parametrize("table", TABLES)
def test_nine_published_rows_with_averages_that_can_be_recomputed(table: str) -> None:
    rows = TABLES[table](published_records()).tables[0].rows
    shown = {row.cells[0].text: row.cells[-3].value for row in rows}
    again = recomputed_averages(table).set_index("model")["recomputed"]
    assert len(shown) == 9
    for model, average in shown.items():
        assert average == pytest.approx(again[model], abs=0.1 + 1e-9)


@pytest.mark.parametrize("table", TABLES)
def test_ours_stands_beside_with_interval_n_and_split(table: str, make: SimpleNamespace) -> None:
    artifact = TABLES[table]([*published_records(), *measured(make, table)])
    official = artifact.tables[0]
    (row,) = [row for row in official.rows if row.kind == "measured"]
    cells = dict(zip([column.title for column in official.columns], row.cells, strict=True))
    assert (cells["Data"].text, cells["n"].text) == ("official", "500")
    for column in benchmark_columns(table):
        if column in HELD_BACK:
            # A public split is never printed under the name of one that is not.
            assert cells[column].text == "—"
        else:
            assert cells[column].interval
    assert cells["Average"].value == pytest.approx(60.0)
    assert cells["Average"].mark == "†"
    (held_back,) = set(benchmark_columns(table)) & set(HELD_BACK)
    assert f"{HELD_BACK[held_back]} in the place of {held_back}" in artifact.caption
    assert any(HELD_BACK[held_back] in column.title for column in artifact.tables[1].columns)


@pytest.mark.parametrize("table", TABLES)
def test_an_average_of_less_than_all_columns_is_not_shown(table: str, make: SimpleNamespace) -> None:
    for missing in (benchmark_columns(table)[1], *HELD_BACK.values()):
        records = measured(make, table, skip=missing)
        if len(records) == len(benchmark_columns(table)):
            continue
        artifact = TABLES[table]([*published_records(), *records])
        (row,) = [row for row in artifact.tables[0].rows if row.kind == "measured"]
        assert row.cells[-3].text == "—"
        assert "in the place of" not in artifact.caption


def test_a_submitted_test_score_needs_no_stand_in(make: SimpleNamespace) -> None:
    records = [*measured(make, "table2"), make.evaluated("mine", "DocVQA_TEST", 90.0, artifact="table2")]
    (row,) = [row for row in text_rich_table([*published_records(), *records]).tables[0].rows if row.kind == "measured"]
    assert row.cells[-3].value == pytest.approx(65.0)
    assert row.cells[-3].mark == ""
