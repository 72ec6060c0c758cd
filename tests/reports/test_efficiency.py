"""Figures of speed and memory: ratios, crossings, estimates, what ran out of memory, and how far floors are."""

from types import SimpleNamespace
from typing import Any

import pytest
from infinitevl_bench.records import Record
from infinitevl_bench.reports.artifacts import Artifact, make_artifact
from infinitevl_bench.reports.claims import judge_all
from infinitevl_bench.reports.efficiency import conditions, is_plain
from infinitevl_bench.reports.efficiency_ratios import crossover
from infinitevl_bench.reports.figures import render
from infinitevl_bench.reports.published import published_records

HYBRID, TRANSFORMER = "infinitevl-4b", "qwen2.5-vl-3b"


def made(name: str, measured: list[Record]) -> Artifact:
    return make_artifact(name, [*published_records(), *measured])


def latencies(make: SimpleNamespace, model: str, points: dict[int, float], **extra: Any) -> list[Record]:
    notes = {"protocol": "matched"} | extra
    return list(make.curve(model, "latency_ms", "ms", "context", points, extra=notes))


def ratio_rows(artifact: Artifact, where: str) -> dict[int, tuple[float, Any]]:
    table = next(table for table in artifact.tables if table.title == "Hybrid against Transformer")
    return {
        int(str(row.cells[1].value)): (float(str(row.cells[2].value)), row.cells[3].value)
        for row in table.rows
        if where in row.cells[0].text
    }


def test_ratios_and_the_crossing_stand_by_protocol_beside_the_published(make: SimpleNamespace) -> None:
    records = [
        *latencies(make, HYBRID, {8192: 4.0, 65536: 4.0, 262144: 4.0}),
        *latencies(make, TRANSFORMER, {8192: 2.0, 65536: 8.0, 262144: 16.0}),
        *latencies(make, HYBRID, {65536: 4.0}, protocol="as-published"),
        *latencies(make, TRANSFORMER, {65536: 40.0}, protocol="as-published"),
    ]
    artifact = made("fig4_latency", records)
    matched = ratio_rows(artifact, "matched")
    assert {at: ratio for at, (ratio, _) in matched.items()} == {8192: 0.5, 65536: 2.0, 262144: 4.0}
    crossing = matched[8192][1]
    assert crossing == pytest.approx(8192 * (65536 / 8192) ** (0.5 / 1.5))
    assert ratio_rows(artifact, "as-published") == {65536: (10.0, None)}
    published = ratio_rows(artifact, "published, RTX 4090")
    assert max(ratio for ratio, _ in published.values()) > 7


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [({1: 0.5, 4: 2.0}, 4 ** (1 / 3)), ({1: 1.5, 4: 2.0}, None), ({1: 0.5, 4: 0.9}, None), ({1: 0.5, 4: 1.0}, 4.0)],
)
def test_the_crossing_is_where_the_ratio_rises_through_one(ratios: dict[int, float], expected: float | None) -> None:
    found = crossover(ratios)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_estimates_are_drawn_as_such_and_decide_nothing(make: SimpleNamespace) -> None:
    measured = latencies(make, HYBRID, {1024: 4.0, 65536: 4.0})
    estimated = latencies(make, HYBRID, {1_048_576: 4.1}, status="estimate")
    artifact = made("fig4_latency", measured + estimated)
    headings = [column.title for column in artifact.tables[0].columns]
    assert sum("matched, estimate" in heading for heading in headings) == 1
    assert artifact.figure is not None
    assert render(artifact.figure, "svg") != render(made("fig4_latency", measured).figure, "svg")  # type: ignore[arg-type]
    verdict = next(v for v in judge_all([*measured, *estimated]) if v.claim == "C4")
    assert "1,048,576" not in verdict.effect


def test_what_ran_out_of_memory_is_said_and_not_drawn_as_zero(make: SimpleNamespace) -> None:
    alive = make.curve(TRANSFORMER, "streaming_fps", "frames/s", "frames", {5: 9.0, 100: 3.0})
    dead = make.curve(
        TRANSFORMER, "streaming_fps", "frames/s", "frames", {300: 0.0},
        extra={"protocol": "matched", "status": "out_of_memory"},
    )  # fmt: skip
    artifact = made("fig4_streaming", alive + dead)
    assert "Out of memory: qwen2.5-vl-3b (matched, NVIDIA H100, measured) at 300." in artifact.caption
    assert all(cell.value != 0.0 for row in artifact.tables[0].rows for cell in row.cells)


@pytest.mark.parametrize(
    ("extra", "device", "expected"),
    [
        ({"protocol": "matched", "batch": 1, "dtype": "bfloat16"}, "NVIDIA H100", "matched"),
        ({"protocol": "matched", "batch": 8, "dtype": "bfloat16"}, "NVIDIA H100", "matched, batch 8"),
        ({"protocol": "matched", "dtype": "float16"}, "NVIDIA H100", "matched, float16"),
        ({"protocol": "matched", "dtype": "float32"}, "cpu", "matched"),
        ({"status": "estimate"}, "NVIDIA H100", "estimate"),
        ({}, "NVIDIA H100", ""),
    ],
)
def test_unusual_conditions_make_a_series_of_their_own(
    make: SimpleNamespace, extra: dict[str, Any], device: str, expected: str
) -> None:
    record = make.curve(HYBRID, "latency_ms", "ms", "context", {64: 1.0}, extra=extra, device=device)[0]
    assert conditions(record) == expected
    assert is_plain(record) == (expected in ("matched", ""))


def test_batches_and_other_lengths_do_not_decide_a_claim(make: SimpleNamespace) -> None:
    def throughput(model: str, value: float, context: int, batch: int = 1) -> list[Record]:
        notes = {"protocol": "matched", "batch": batch}
        points = {context: value}
        return list(make.curve(model, "training_tokens_per_day", "tokens/day", "context", points, extra=notes))

    at_8k = throughput(HYBRID, 1.5e9, 8192) + throughput(TRANSFORMER, 1e9, 8192)
    others = throughput(HYBRID, 9e9, 32768) + throughput(HYBRID, 9e9, 8192, batch=4)
    with_others, alone = (next(v for v in judge_all(rows) if v.claim == "C8") for rows in (at_8k + others, at_8k))
    assert with_others.effect == alone.effect
    assert alone.status == "not reproduced"


def test_the_distance_from_the_floor_is_shown_for_every_speed(make: SimpleNamespace) -> None:
    notes = {"protocol": "matched", "path": "graph", "ratio_to_floor": 1.2, "floor_ms": 3.0, "median_ms": 3.6}
    records = [
        *make.curve(HYBRID, "latency_ms", "ms", "context", {1024: 3.6, 8192: 3.6}, extra=notes),
        *make.curve(HYBRID, "latency_ms", "ms", "context", {8192: 3.6}, extra=notes, artifact="fig1"),
        *make.curve(HYBRID, "streaming_fps", "frames/s", "frames", {5: 60.0}, extra=notes, artifact="fig4_streaming"),
    ]
    artifact = made("floors", records)
    assert [row.cells[0].text for row in artifact.tables[0].rows] == ["Decode", "Decode", "Stream"]
    assert [one.command for one in artifact.missing] == ["infinitevl-bench profile training"]
    assert artifact.figure is not None
    assert render(artifact.figure, "svg").startswith(b"<?xml")
