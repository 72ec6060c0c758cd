"""Every artifact, from nothing, from a little, and from records that must not be mixed."""

from types import SimpleNamespace

import pytest
from infinitevl_bench.errors import UserError
from infinitevl_bench.records import Record
from infinitevl_bench.reports.artifacts import ARTIFACTS, Artifact, artifact_names, artifact_title, make_artifact
from infinitevl_bench.reports.figures import DARK, LIGHT, render, render_all, spread
from infinitevl_bench.reports.published import published_records
from infinitevl_bench.reports.tables import NOTHING, Row, Table


def made(name: str, measured: list[Record]) -> Artifact:
    return make_artifact(name, [*published_records(), *measured])


def rows_of(artifact: Artifact, kind: str) -> list[Row]:
    return [row for table in artifact.tables for row in table.rows if row.kind == kind]


def table_titled(artifact: Artifact, words: str) -> Table:
    return next(table for table in artifact.tables if words in table.title)


def shown(row: Row) -> list[str]:
    return [cell.text for cell in row.cells]


@pytest.mark.parametrize("name", ARTIFACTS)
def test_without_measurements_only_the_published_side_stands(name: str) -> None:
    artifact = made(name, [])
    assert artifact.name == name
    assert artifact.title == artifact_title(name)
    assert artifact.label
    assert artifact.caption
    assert artifact.missing
    assert artifact.runs == ()
    assert {row.kind for table in artifact.tables for row in table.rows} <= {"published"}
    if artifact.figure is not None:
        assert render(artifact.figure, "svg").startswith(b"<?xml")


@pytest.mark.parametrize("name", ARTIFACTS)
def test_with_measurements_every_row_says_who_says_so(name: str, mixed: list[Record]) -> None:
    artifact = made(name, mixed)
    assert rows_of(artifact, "measured")
    assert set(artifact.runs) <= {record.run_id for record in mixed}
    assert artifact.runs
    for row in rows_of(artifact, "measured"):
        assert row.runs
    for row in rows_of(artifact, "published"):
        assert row.runs == ()
    if artifact.figure is not None:
        files = [("png", LIGHT), ("svg", LIGHT), ("svg", DARK), ("pdf", LIGHT)]
        together = render_all(artifact.figure, files, artifact.digest)
        assert together["svg", LIGHT] != together["svg", DARK]
        # Alone, and in another order, each is the same.
        assert together["svg", LIGHT] == render(artifact.figure, "svg", data=artifact.digest)
        assert together == render_all(artifact.figure, files[::-1], artifact.digest)


@pytest.mark.parametrize("name", ARTIFACTS)
def test_the_order_of_records_does_not_matter(name: str, mixed: list[Record]) -> None:
    forward, backward = made(name, mixed), made(name, mixed[::-1])
    assert forward.tables == backward.tables
    assert forward.caption == backward.caption
    assert forward.runs == backward.runs


@pytest.mark.parametrize("name", ARTIFACTS)
def test_synthetic_scores_never_stand_in_an_official_column(name: str, mixed: list[Record]) -> None:
    official = [record for record in mixed if record.split != "synthetic"]
    artifact, without = made(name, mixed), made(name, official)
    for table in without.tables:
        if "official" in table.title.lower() and "synthetic" not in table.title.lower():
            assert table in artifact.tables, table.title
    for table in artifact.tables:
        for row in table.rows:
            if ("split", "synthetic") in row.facets:
                told = " ".join([table.title, *(column.title for column in table.columns), *shown(row)])
                assert "synthetic" in told


def test_scales_splits_and_steps_stand_in_blocks_of_their_own(mixed: list[Record]) -> None:
    titles = [table.title for table in made("table3", mixed).tables]
    assert titles == [
        "Scale small, official data, recipe scratch, 100 steps",
        "Scale small, synthetic data, recipe scratch, 2,000 steps",
        "Scale tiny, synthetic data, recipe scratch, 100 steps",
        "Scale study, synthetic data, recipe scratch, 100 steps",
        "Seeds that learnt, scale study, synthetic data, recipe scratch, 100 steps",
    ]


def test_marks_at_the_ends_of_the_scale_are_drawn_whole(make: SimpleNamespace) -> None:
    artifact = made("table3", make.cells({("gla", "SLLL"): [0.0, 0.0], ("gated_deltanet", "SLLL"): [100.0, 100.0]}))
    assert artifact.figure is not None
    marks = [line for panel in artifact.figure(LIGHT).axes for line in panel.lines if line.get_marker() == "o"]
    assert marks
    assert not any(line.get_clip_on() for line in marks)


def test_mixer_table_marks_the_best_and_what_is_not_above_the_baselines(make: SimpleNamespace) -> None:
    artifact = made("table3", make.cells({("gla", "SLLL"): [12.0, 12.5], ("gated_deltanet", "SLLL"): [60.0, 61.0]}))
    gla, delta, blind = artifact.tables[0].rows
    assert shown(gla)[0] == "GLA"
    assert gla.cells[1].mark == "†"
    assert not gla.cells[1].strong
    assert delta.cells[1].strong
    assert not delta.cells[1].mark
    assert blind.kind == "baseline"
    assert [one.command for one in artifact.missing] == [
        "infinitevl-bench ablate --mixer linear_attention --swa-ratio 1/4",
        "infinitevl-bench ablate --mixer mamba2 --swa-ratio 1/4",
    ]


def test_ratio_table_reads_ratios_off_patterns(make: SimpleNamespace) -> None:
    cells = make.cells({("gated_deltanet", pattern): [50.0, 51.0] for pattern in ("L", "SLLLLLLL", "SLLL", "SL")})
    artifact = made("table4", cells)
    assert [row.cells[0].text for row in rows_of(artifact, "measured")] == ["0", "1/8", "1/4", "1/2"]
    assert artifact.missing == ()
    assert made("table4", cells[:6]).figure is None


def test_other_mixers_have_ratio_tables_of_their_own(make: SimpleNamespace) -> None:
    ours = {("gated_deltanet", pattern): [50.0, 51.0] for pattern in ("L", "SLLL")}
    theirs = {("gla", pattern): [40.0, 41.0] for pattern in ("L", "SLLL", "SL")}
    artifact = made("table4", make.cells(ours | theirs))
    first, second = (table for table in artifact.tables if "Seeds that learnt" not in table.title)
    assert second.title == f"{first.title}, GLA in the other layers"
    assert [row.cells[0].text for row in second.rows if row.kind == "measured"] == ["0", "1/4", "1/2"]
    assert {row.cells[-1].text for row in second.rows} == {NOTHING}
    # At two ratios it compares too little to stand here.
    few = made("table4", make.cells(ours | {key: theirs[key] for key in list(theirs)[:2]}))
    assert not any("GLA" in table.title for table in few.tables)


def test_a_rate_at_an_end_of_those_tried_is_marked(make: SimpleNamespace) -> None:
    cells = make.cells({("gated_deltanet", "SLLL"): [50.0, 51.0], ("gla", "SLLL"): [40.0, 41.0]})
    chosen = [r.model_copy(update={"extra": r.extra | {"learning_rate": 2e-3, "best_lr": 2e-3}}) for r in cells]
    rates = {"gated_deltanet": (1e-3, 2e-3, 4e-3), "gla": (5e-4, 1e-3, 2e-3)}
    tried = [
        record.model_copy(
            update={
                "metric": "validation_score", "seed": 100, "run_id": f"{record.mixer}-{rate}",
                "extra": record.extra | {"learning_rate": rate, "role": "validation"},
            }
        )
        for record in chosen if record.metric == "score" and record.seed == 0
        for rate in rates[str(record.mixer)]
    ]  # fmt: skip
    artifact = made("table3", chosen + tried)
    headings = [column.title for column in artifact.tables[0].columns]
    marks = {
        row.cells[0].text: row.cells[headings.index("Learning rate")].mark for row in rows_of(artifact, "measured")
    }  # fmt: skip
    assert marks == {"Gated DeltaNet": "", "GLA": "‡"}
    assert "‡: at an end" in artifact.caption
    assert "‡" not in made("table3", chosen).caption


def test_cells_that_are_matched_otherwise_are_not_averaged(make: SimpleNamespace) -> None:
    cells = make.cells({("gated_deltanet", "SLLL"): [50.0, 52.0]})
    blocks = {"widen": cells, "none": make.cells({("gated_deltanet", "SLLL"): [90.0, 92.0]})}
    noted = [
        r.model_copy(update={"extra": r.extra | {"match": match}, "run_id": f"{r.run_id}-{match}"})
        for match, rows in blocks.items()
        for r in rows
    ]
    tables = made("table3", noted).tables
    for match, mean in (("widen", "51.0"), ("none", "91.0")):
        (table,) = [one for one in tables if f"match {match}" in one.title and "learnt" not in one.title.lower()]
        assert any(mean in cell.text for row in table.rows for cell in row.cells), match


def test_an_arm_that_is_not_matched_is_marked_with_the_reason(make: SimpleNamespace) -> None:
    cells = make.cells({("gated_deltanet", pattern): [50.0, 51.0] for pattern in ("L", "SLLL")})
    said = "holds 10.0% more than the reference, and its FFN cannot be narrower"
    notes = {"L": said, "SLLL": ""}
    noted = [r.model_copy(update={"extra": r.extra | {"unmatched": notes[str(r.pattern)]}}) for r in cells]
    artifact = made("table4", noted)
    place = [column.title for column in artifact.tables[0].columns].index("Parameters")
    assert {row.cells[0].text: row.cells[place].mark for row in rows_of(artifact, "measured")} == {"0": "§", "1/4": ""}
    assert f"§: not matched: Gated DeltaNet L {said}." in artifact.caption
    assert "§" not in made("table4", cells).caption


def test_only_scores_within_the_best_ones_interval_are_bold(make: SimpleNamespace) -> None:
    wide = [30.0, 60.0, 95.0]
    cells = make.cells({("gated_deltanet", "SL"): [80.0, 81.0, 82.0], ("gated_deltanet", "L"): wide})
    rows = {row.cells[0].text: row.cells[1].strong for row in rows_of(made("table4", cells), "measured")}
    assert rows == {"0": False, "1/2": True}


def test_an_official_score_needs_the_very_data_set(make: SimpleNamespace) -> None:
    artifact = made(
        "table2",
        [
            make.evaluated("mine", "DocVQA", 61.0, dataset="DocVQA_VAL"),
            make.evaluated("mine", "ChartQA", 62.0, dataset="ChartQA_TEST"),
        ],
    )
    first = table_titled(artifact, "same official data")
    headings = [column.title for column in first.columns]
    row = next(row for row in first.rows if row.kind == "measured")
    assert shown(row)[headings.index("ChartQA_TEST")] == "62.0"
    assert shown(row)[headings.index("DocVQA_TEST")] == NOTHING
    assert shown(row)[headings.index("Average")] == NOTHING
    assert shown(table_titled(artifact, "other official splits").rows[0])[1] == "61.0"
    commands = {one.what: one.command for one in artifact.missing}
    assert commands["Measured on official data: OCRBench"] == (
        "infinitevl-bench eval OCRBench --data official --model PATH"
    )
    submission = next((what, command) for what, command in commands.items() if what.startswith("DocVQA_TEST"))
    assert "a file for its server" in submission[0]
    assert submission[1] == "infinitevl-bench eval DocVQA_TEST --data official --model PATH"


def test_levels_of_synthetic_pages_are_columns_of_their_own_beside_their_baselines(make: SimpleNamespace) -> None:
    records = []
    for level, value in ((1, 80.0), (2, 40.0)):
        made_of = {"split": "synthetic", "seed": 0, "extra": {"level": level}, "run_id": f"eval-{level}"}
        records.append(make.evaluated("mine", "DocVQA", value, dataset="DocVQA_VAL_SYNTH", **made_of))
        records.append(make.evaluated("mine", "DocVQA", 5.0, dataset="DocVQA_VAL_SYNTH", metric="blind", **made_of))
    table = table_titled(made("table2", records), "synthetic")
    assert [column.title for column in table.columns[1:3]] == [
        "DocVQA_VAL_SYNTH (synthetic, level 1)",
        "DocVQA_VAL_SYNTH (synthetic, level 2)",
    ]
    assert shown(table.rows[0])[1:3] == ["80.0", "40.0"]
    assert [row.kind for row in table.rows] == ["measured", "baseline"]


def test_random_weights_are_called_so(make: SimpleNamespace) -> None:
    record = make.evaluated("infinitevl-4b", "ChartQA", 0.1, dataset="ChartQA_TEST", extra={"weights": "random"})
    assert "random weights" in rows_of(made("table2", [record]), "measured")[0].cells[0].text


def test_other_mixers_of_the_full_size_are_lines_of_their_own(make: SimpleNamespace) -> None:
    published_kind = make.curve("infinitevl-4b", "latency_ms", "ms", "context", {1024: 4.0}, mixer="gated_deltanet")
    other = make.curve("infinitevl-4b", "latency_ms", "ms", "context", {1024: 9.0}, mixer="gla", pattern="SLLL")
    headings = [column.title for column in made("fig4_latency", published_kind + other).tables[0].columns]
    assert sum("infinitevl-4b gla SLLL" in heading for heading in headings) == 1
    assert sum("infinitevl-4b (" in heading for heading in headings) == 1


@pytest.mark.parametrize("name", ["table3", "fig4_latency", "fig_frames", "learning_curves"])
def test_any_name_can_be_drawn(name: str, make: SimpleNamespace) -> None:
    nasty = r"$\frac{<script>&"
    records = [
        *make.cells({(nasty, "SLLL"): [50.0, 51.0]}),
        *make.curve(nasty, "latency_ms", "ms", "context", {1024: 4.0, 2048: 5.0}),
        *make.framed({("long", 32): [50.0], ("long", 1024): [51.0]}, model=nasty),
        *make.losses(nasty),
    ]
    figure = made(name, records).figure
    assert figure is not None
    assert b"<script" not in render(figure, "svg")


def test_labels_keep_apart_and_above_the_floor() -> None:
    places = spread([1.0, 1.1, 5.0], 1.0, floor=0.8)
    assert places[0] >= 0.8
    assert places[1] - places[0] >= 1.0 - 1e-6
    assert places[2] == 5.0
    assert spread([], 1.0) == []


def test_an_unknown_artifact_has_near_names() -> None:
    with pytest.raises(UserError, match="did you mean table3") as error:
        make_artifact("table33", [])
    assert error.value.exit_code == 2
    assert artifact_names()[0] == "table3"
