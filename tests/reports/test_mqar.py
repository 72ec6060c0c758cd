"""Multi-query recall in the report: what is compared, what is kept apart, and what it is compared with."""

from types import SimpleNamespace

from infinitevl_bench.reports.artifacts import Artifact, make_artifact
from infinitevl_bench.reports.figures import render
from infinitevl_bench.reports.tables import Row


def shown(row: Row) -> list[str]:
    return [cell.text for cell in row.cells]


def lines_of(artifact: Artifact) -> str:
    assert artifact.figure is not None
    return render(artifact.figure, "svg").decode()


def test_a_row_is_an_arm_at_a_width_and_a_task_whatever_its_learning_rate(make: SimpleNamespace) -> None:
    arms = {("gated_deltanet", "L", 32): [90.0, 30.0, 96.0], ("none", "F", 32): [10.0], ("none", "S", 32): [20.0]}
    records = make.recalled(arms) + make.recalled(
        {("none", "F", 64): [99.0]}, pairs=8, length=128, extra={"batch_size": 16}
    )
    (table,) = make_artifact("mqar", records).tables
    assert table.title == "MQAR (synthetic), scale small, 2,000 steps, vocabulary 128"
    rows = [shown(row) for row in table.rows]
    assert [row[:6] for row in rows] == [
        ["Gated DeltaNet", "L", "4 in 64", "32", "32", "5,000"],
        ["Full attention", "F", "4 in 64", "32", "32", "5,000"],
        ["Sliding window only", "S", "4 in 64", "32", "32", "5,000"],
        ["Full attention", "F", "8 in 128", "16", "64", "5,000"],
    ]
    # Half way from one in four, and from one in eight, to all.
    assert [row[-1] for row in rows] == ["2/3", "0/1", "0/1", "1/1"]
    assert [row[7] for row in rows] == ["25.0", "25.0", "25.0", "12.5"]
    assert rows[0][8] == "72.0"


def test_scales_trainings_and_the_page_stand_in_tables_of_their_own_and_the_largest_is_drawn(
    make: SimpleNamespace,
) -> None:
    one = {("gla", "L", 64): [50.0]}
    records = [
        *make.recalled(one, scale="tiny"),
        *make.recalled(one),
        *make.recalled(one, steps=4000, extra={"vocabulary": 8192}),
        *make.recalled({("gla", "L", 128): [50.0]}, benchmark="MQAR-vision"),
    ]
    artifact = make_artifact("mqar", records)
    assert [table.title.split(", ", 1)[0] + table.title.split(",")[1] for table in artifact.tables] == [
        "MQAR (synthetic) scale small",
        "MQAR (synthetic) scale small",
        "MQAR-vision (synthetic) scale small",
        "MQAR (synthetic) scale tiny",
    ]
    assert artifact.missing == ()
    assert lines_of(artifact) == lines_of(make_artifact("mqar", make.recalled(one)))


def test_what_chose_a_rate_is_no_row_and_what_is_not_there_is_said(make: SimpleNamespace) -> None:
    chosen = make.recalled({("gla", "L", 64): [50.0]}, extra={"role": "validation"})
    artifact = make_artifact("mqar", chosen)
    assert artifact.tables == ()
    assert artifact.figure is None
    assert [one.command for one in artifact.missing] == [
        "infinitevl-bench ablate --study mqar --scale small",
        "infinitevl-bench ablate --study mqar_vision --scale small",
    ]
    tiny = make_artifact("mqar", make.recalled({("gla", "L", 64): [50.0]}, scale="tiny"))
    assert len(tiny.missing) == 2
