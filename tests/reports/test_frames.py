"""The study of frames in the report and in its verdict: arms, stages and tasks are kept apart."""

from types import SimpleNamespace

import pytest
from infinitevl_bench.records import Record
from infinitevl_bench.reports.artifacts import make_artifact
from infinitevl_bench.reports.claims import judge
from infinitevl_bench.reports.figures import render
from infinitevl_bench.reports.tables import NOTHING

STAGES = {"short": (90.0, 60.0), "long": (91.0, 90.0), "control": (92.0, 65.0)}
DEPTHS = (0.0, 0.5, 1.0)
HYBRID = {"mixer": "gated_deltanet", "pattern": "SLLL", "model": "tiny", "artifact": "fig_frames"}
FULL = {"mixer": "none", "pattern": "F", "model": "tiny", "artifact": "fig_frames"}
NOISE = (0.0, 0.4, -0.4, 0.2, -0.2)


def study(make: SimpleNamespace, shift: float = 0.0, benchmark: str = "VideoNeedle", **arm: str) -> list[Record]:
    """Records as the study writes them: scores by frames and stage, and those of each depth, around the same mean."""
    records = []
    for stage, both in STAGES.items():
        for frames, mean in zip((32, 1024), both, strict=True):
            seeds = {(stage, frames): [mean + shift + noise for noise in NOISE]}
            records += make.framed(seeds, benchmark=benchmark, **arm)
            for number, depth in enumerate(DEPTHS):
                moved = {key: [value + 5 * (number - 1) for value in values] for key, values in seeds.items()}
                records += make.framed(moved, benchmark=benchmark, extra={"depth": depth}, **arm)
    return records


def baselines(make: SimpleNamespace, benchmark: str, value: float) -> list[Record]:
    return [
        record
        for metric in ("blind", "page_value")
        for record in make.framed({("short", 32): [value] * 5}, metric=metric, benchmark=benchmark, **HYBRID)
    ]


def of_run(records: list[Record], name: str) -> list[Record]:
    return [record.model_copy(update={"run_id": f"{name}-{record.run_id}"}) for record in records]


def test_the_verdict_is_on_the_hybrid_alone_and_on_scores_over_all_depths(make: SimpleNamespace) -> None:
    alone = judge("C7", study(make, **HYBRID))
    assert alone.status == "reproduced at small scale"
    assert "1024 − 32 frames: -1.0 points" in alone.effect
    falling = [r.model_copy(update={"value": 5.0}) for r in study(make, **FULL) if r.frames == 1024]
    others = of_run([r for r in study(make, **FULL) if r.frames == 32] + falling, "full")
    assert judge("C7", study(make, **HYBRID) + others).effect == alone.effect
    assert judge("C7", others).status == "no data"


def test_tasks_that_were_not_learnt_decide_nothing(make: SimpleNamespace) -> None:
    needle = study(make, **HYBRID) + baselines(make, "VideoNeedle", 12.5)
    guessed = of_run(study(make, -60.0, "VideoOrder", **HYBRID), "order") + baselines(make, "VideoOrder", 50.0)
    both = judge("C7", needle + guessed)
    assert both.status == "reproduced at small scale"
    assert both.effect == judge("C7", needle).effect + "; not learnt at 32 frames, so left out: VideoOrder"
    nothing = judge("C7", guessed)
    assert nothing.status == "inconclusive"
    assert "a task that the short stage has learnt" in nothing.missing[0]


@pytest.mark.parametrize("seeds", [4, 5])
def test_five_seeds_are_needed(seeds: int, make: SimpleNamespace) -> None:
    found = judge("C7", [record for record in study(make, **HYBRID) if (record.seed or 0) < seeds])
    assert (found.status == "inconclusive") == (seeds < 5)


def test_the_table_of_frames_has_a_row_an_arm_and_stage_and_no_depths(make: SimpleNamespace) -> None:
    records = study(make, **HYBRID) + of_run(study(make, -10.0, **FULL), "full")
    artifact = make_artifact("fig_frames", records)
    (table,) = artifact.tables
    assert [column.title for column in table.columns][2:] == ["Training", "32 frames", "1,024 frames", "Seeds"]
    rows = [tuple(cell.text for cell in row.cells) for row in table.rows]
    arms = ["Full attention, scale small"] * 3 + ["Gated DeltaNet SLLL, scale small"] * 3
    assert [row[1:3] for row in rows] == list(zip(arms, ["short", "long", "control"] * 2, strict=True))
    values = {row[1:3]: row[3:] for row in rows}
    assert values["Gated DeltaNet SLLL, scale small", "short"][1].startswith("60.0")
    assert values["Full attention, scale small", "long"][0].startswith("81.0")
    assert artifact.figure is not None
    assert render(artifact.figure, "png")


def test_baselines_stand_below_the_arms_and_are_the_hardest_to_beat(make: SimpleNamespace) -> None:
    higher = [r.model_copy(update={"value": 20.0}) for r in of_run(baselines(make, "VideoNeedle", 0.0), "full")]
    others = [r.model_copy(update={"mixer": "none", "pattern": "F"}) for r in higher if r.metric == "blind"]
    records = study(make, **HYBRID) + baselines(make, "VideoNeedle", 12.5) + others
    artifact = make_artifact("fig_frames", records)
    floors = {row.cells[1].text: row.cells[3].value for row in artifact.tables[0].rows if row.kind == "baseline"}
    assert floors == {"Baseline: sees nothing": 20.0, "Baseline: names any value at hand": 12.5}
    assert "Dotted" in artifact.caption
    assert render(artifact.figure, "png") if artifact.figure else False


def test_a_model_that_was_not_asked_a_task_leaves_its_panel_empty(make: SimpleNamespace) -> None:
    other = of_run(study(make, -10.0, "VideoCount", **FULL), "full")
    later = [r.model_copy(update={"frames": 1024}) for r in baselines(make, "VideoNeedle", 12.5)]
    artifact = make_artifact("fig_frames", study(make, **HYBRID) + other + later)
    assert artifact.figure is not None
    assert render(artifact.figure, "png")
    # A baseline stands under the number of frames that it was measured at.
    rows = [row for row in artifact.tables[0].rows if row.kind == "baseline"]
    assert {(row.cells[3].value, row.cells[4].value) for row in rows} == {(None, 12.5)}


def test_what_was_not_asked_has_no_figure_in_its_place(make: SimpleNamespace) -> None:
    records = [r for r in study(make, **HYBRID) if (r.extra["stage"], r.frames) != ("long", 1024)]
    artifact = make_artifact("fig_frames", records)
    rows = {row.cells[2].text: row.cells for row in artifact.tables[0].rows}
    assert rows["long"][4].text == NOTHING
    assert rows["long"][4].value is None
    assert artifact.figure is not None
    assert render(artifact.figure, "png")


def test_the_heat_map_has_a_panel_an_arm_and_stage(make: SimpleNamespace) -> None:
    records = study(make, **HYBRID) + of_run(study(make, -10.0, **FULL), "full")
    artifact = make_artifact("depth_frames", records)
    (table,) = artifact.tables
    rows = [tuple(cell.text for cell in row.cells) for row in table.rows]
    assert len(rows) == 2 * 3 * len(DEPTHS)
    values = {row[1:4]: row[4:] for row in rows}
    assert values["Gated DeltaNet SLLL, scale small", "short", "0%"][0].startswith("85.0")
    assert values["Gated DeltaNet SLLL, scale small", "short", "100%"][0].startswith("95.0")
    assert artifact.figure is not None
    assert render(artifact.figure, "png")
