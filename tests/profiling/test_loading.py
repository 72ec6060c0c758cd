"""The measurement of loading: at a small size here, at full size on an accelerator."""

from pathlib import Path

import pytest
from infinitevl_bench.models.loading import open_checkpoint
from infinitevl_bench.profiling.loading import main, measure
from infinitevl_bench.records import read_records


def test_every_measurement_is_a_record(tmp_path: Path) -> None:
    options = ["--preset", "tiny", "--device", "cpu", "--questions", "6", "--batch-size", "1", "4"]
    main([*options, "--shard-bytes", "3000000", "--out", str(tmp_path / "out.jsonl"), "--runs", str(tmp_path / "runs")])
    records = read_records(tmp_path / "out.jsonl")
    assert [record.metric for record in records] == ["load_s", "load_peak_over_weights", *["samples_per_s"] * 3]
    assert [record.extra.get("batch_size") for record in records[2:]] == [1, 4, 1]
    assert [record.extra.get("graph") for record in records[2:]] == [True, False, False]
    assert all(record.value > 0 and record.source == "measured" for record in records)
    assert {record.extra["weights"] for record in records} == {"random"}
    assert {(record.mixer, record.pattern) for record in records} == {("gated_deltanet", "SLLL")}
    assert {record.split for record in records[2:]} == {"synthetic"}
    assert records[0].extra["weight_bytes"] > 8_000_000


@pytest.mark.gpu
def test_a_full_size_checkpoint_loads_without_a_second_copy(tmp_path: Path) -> None:
    measured = measure(
        "infinitevl-4b", tmp_path / "weights", tmp_path / "runs", device="cuda", questions=4, batch_sizes=[2],
        shard_bytes=2_000_000_000,
    )  # fmt: skip
    found = {record.metric: record.value for records in measured for record in records}
    assert found["load_peak_over_weights"] <= 1.1
    assert open_checkpoint(tmp_path / "weights").nbytes > 8_000_000_000
