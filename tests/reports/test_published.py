"""The paper's numbers: every file becomes records, labelled as published, that agree with what is printed."""

import pytest
from infinitevl_bench.records import package_path
from infinitevl_bench.reports.published import (
    BENCHMARK_TABLES,
    MIXER_ORDERING,
    RATIO_ORDERING,
    average_score,
    benchmark_columns,
    published_records,
    read_published,
    recomputed_averages,
)


def test_every_file_becomes_records() -> None:
    files = {path.name: read_published(path.name) for path in package_path("reports", "published").glob("*.csv")}
    assert len(files) == 7
    # Every number of every file is a record, but the positions along the curves, which are part of their points.
    numbers = sum(int(frame.select_dtypes("number").notna().sum().sum()) for frame in files.values())
    positions = sum(len(files[name]) for name in ("latency_vs_context.csv", "streaming_fps_vs_frames.csv"))
    assert len(published_records()) == numbers - positions


def test_nothing_published_is_labelled_measured() -> None:
    for record in published_records():
        assert record.source == "published"
        assert record.run_id is None
        assert record.seed is None
        assert record.split in (None, "official")
        assert "arXiv 2512.08829" in str(record.extra["origin"])


@pytest.mark.parametrize("table", BENCHMARK_TABLES)
def test_recomputed_averages_are_the_printed_ones(table: str) -> None:
    frame = recomputed_averages(table)
    assert len(frame) == 9
    off = frame[(frame.printed - frame.recomputed).abs() > 0.1 + 1e-9]
    assert off.empty, off.to_string()


def test_mme_counts_by_25_and_nothing_else_is_scaled() -> None:
    assert average_score({"MME": 2500.0, "MMStar": 50.0}) == 75.0
    assert average_score({"OCRBench": 80.0, "ChartQA_TEST": 40.0}) == 60.0


def test_the_tables_have_the_papers_columns() -> None:
    assert benchmark_columns("table1")[0] == "MME"
    assert len(benchmark_columns("table1")) == 7
    assert len(benchmark_columns("table2")) == 6


def test_only_curves_are_digitised() -> None:
    digitised = {record.artifact for record in published_records() if "digitised" in str(record.extra["origin"])}
    assert digitised == {"fig4_latency", "fig4_streaming"}


def test_orderings_are_words() -> None:
    for words in (*MIXER_ORDERING.values(), *RATIO_ORDERING.values()):
        assert not any(sign.isdigit() for sign in words.replace("than 0", "")), words
