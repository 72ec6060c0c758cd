"""How arms learnt, from made-up records of studies: shares of seeds, medians of steps, curves."""

from types import SimpleNamespace

import pytest
from infinitevl_bench.records import Record
from infinitevl_bench.reports.artifacts import make_artifact
from infinitevl_bench.reports.figures import LIGHT
from infinitevl_bench.reports.tables import Row, Table

DELTA, GLA = ("gated_deltanet", "SLLL"), ("gla", "SLLL")


def shown(row: Row) -> list[str]:
    return [cell.text for cell in row.cells]


def learnt(name: str, records: list[Record]) -> Table:
    return next(table for table in make_artifact(name, records).tables if table.title.startswith("Seeds that learnt"))


def test_a_study_shows_the_share_of_seeds_and_the_median_of_their_steps(make: SimpleNamespace) -> None:
    records = make.learning(
        {DELTA: [25, 75, 100, None, 50], GLA: [None] * 5}, benchmarks=("DocVQA", "TextVQA", "OCRBench")
    )
    table = learnt("table3", records)
    assert "scale small, synthetic data" in table.title
    assert [column.heading for column in table.columns][1:] == [
        f"{name} synthetic (seeds)" for name in ("DocVQA", "OCRBench", "TextVQA")
    ]
    gla, delta = table.rows
    assert shown(gla) == ["GLA", "0/5", "0/5", "0/5"]
    # The median of 25, 50, 75 and 100.
    assert shown(delta) == ["Gated DeltaNet", *["4/5 (62)"] * 3]
    assert [cell.value for cell in delta.cells[1:]] == [0.8] * 3
    assert "half way" in make_artifact("table3", records).caption


def test_a_seed_that_diverged_has_not_learnt(make: SimpleNamespace) -> None:
    records = [
        record.model_copy(update={"extra": record.extra | {"status": "diverged"}}) if record.seed == 1 else record
        for record in make.learning({DELTA: [25, 50]})
    ]
    assert shown(learnt("table3", records).rows[0])[1].startswith("1/2")


def test_every_arm_has_its_parameters_state_and_chosen_rate(make: SimpleNamespace) -> None:
    records = make.learning({DELTA: [25, 50], GLA: [25, 50]}, extra={"best_lr": 0.001})
    table = make_artifact("table3", records).tables[0]
    headings = [column.title for column in table.columns]
    for row in table.rows[:2]:
        cells = dict(zip(headings, row.cells, strict=True))
        assert (cells["Parameters"].value, cells["State"].value) == (1000, 64)
        assert cells["Learning rate"].text == "0.001"
        assert cells["Seeds"].value == 2


def test_ratios_say_how_they_learnt_too(make: SimpleNamespace) -> None:
    patterns = {"L": [None, 75], "SLLL": [25, 25]}
    table = learnt("table4", make.learning({("gated_deltanet", one): steps for one, steps in patterns.items()}))
    assert [shown(row)[:2] for row in table.rows] == [["0", "1/2 (75)"], ["1/4", "2/2 (25)"]]


def test_without_what_was_learnt_there_is_no_such_table(make: SimpleNamespace) -> None:
    tables = make_artifact("table3", make.cells({DELTA: [50.0, 51.0]})).tables
    assert len(tables) == 1


def test_curves_of_exact_answers(make: SimpleNamespace) -> None:
    records = make.learning({DELTA: [25, 50, 100], GLA: [None, None, 75]}, benchmarks=("DocVQA", "OCRBench"))
    of_rates = [r.model_copy(update={"extra": r.extra | {"role": "validation"}, "value": 1.0}) for r in records]
    artifact = make_artifact("probe_curves", records + of_rates)
    assert len(artifact.tables) == 1
    rows = {tuple(shown(row)[:2]): shown(row)[2:] for row in artifact.tables[0].rows}
    # The median of three seeds is at 20 until the second has learnt, and at 80 from then on.
    assert rows[("DocVQA (synthetic)", "Gated DeltaNet")] == ["SLLL", "50", "80.0", "80.0", "3/3 (50)"]
    assert rows[("OCRBench (synthetic)", "GLA")] == ["SLLL", "25", "20.0", "20.0", "1/3 (75)"]
    assert len(rows) == 4
    assert artifact.figure is not None
    figure = artifact.figure(LIGHT)
    panel = figure.axes[0]
    thin = [line for line in panel.lines if line.get_linewidth() < 1]
    thick = [line for line in panel.lines if line.get_linewidth() > 1]
    assert (len(thin), len(thick)) == (6, 2)
    delta = next(line for line in thick if line.get_label() == "Gated DeltaNet")
    assert list(delta.get_xdata()) == [25, 50, 75, 100]
    assert list(delta.get_ydata()) == [20.0, 80.0, 80.0, 80.0]


def test_curves_of_arms_that_differ_in_their_pattern_are_told_apart(make: SimpleNamespace) -> None:
    records = make.learning({("gated_deltanet", one): [25, 50] for one in ("L", "SLLL", "SL")})
    artifact = make_artifact("probe_curves", records)
    assert artifact.figure is not None
    thick = [line for line in artifact.figure(LIGHT).axes[0].lines if line.get_linewidth() > 1]
    assert len({(line.get_linestyle(), line.get_marker()) for line in thick}) == 3
    assert {line.get_label() for line in thick} == {f"Gated DeltaNet {one}" for one in ("L", "SLLL", "SL")}


def test_difficulty_shows_the_other_levels_of_a_study_and_variants_apart(make: SimpleNamespace) -> None:
    plain = make.cells({GLA: [60.0, 62.0]})
    bare = [
        r.model_copy(update={"extra": r.extra | {"variant": "conv_size=0"}, "run_id": f"bare-{r.run_id}"})
        for r in plain
    ]
    harder = [
        r.model_copy(update={"metric": "level_score", "value": 30.0, "extra": r.extra | {"level": 2}})
        for r in plain + bare
        if r.metric == "score"
    ]
    rows = [shown(row) for row in make_artifact("difficulty", plain + bare + harder).tables[0].rows]
    assert {(row[1], row[3]) for row in rows} == {
        (mixer, level) for mixer in ("GLA", "GLA (no convolution)") for level in ("1", "2")
    }


@pytest.mark.parametrize("name", ["difficulty", "learning_curves"])
def test_cells_that_are_matched_otherwise_are_not_averaged(name: str, make: SimpleNamespace) -> None:
    """As in tables 3 and 4: an arm that was widened is another arm."""
    scores = [r for r in make.cells({GLA: [60.0, 62.0]}) if r.metric == "score"]
    harder = [r.model_copy(update={"metric": "level_score", "extra": r.extra | {"level": 2}}) for r in scores]
    plain = scores + harder + make.losses("gla", scale="small")
    records = [
        r.model_copy(
            update={"value": r.value / by, "run_id": f"{r.run_id}-{match}", "extra": r.extra | {"match": match}}
        )
        for match, by in (("none", 1), ("widen", 2))
        for r in plain
    ]
    artifact = make_artifact(name, records)
    assert len(artifact.tables) == 2
    values = []
    for match, table in zip(("none", "widen"), artifact.tables, strict=True):
        assert table.title.endswith(f"match {match}")
        assert all(match in run for row in table.rows for run in row.runs)
        values.append({row.cells[-2 if name == "learning_curves" else -1].value for row in table.rows})
    assert not values[0] & values[1]
    if artifact.figure is not None:
        artifact.figure(LIGHT)
