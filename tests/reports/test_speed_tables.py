"""Tables of speeds that the paper does not show, from made-up records and from those that the package ships."""

from infinitevl_bench.records import Record
from infinitevl_bench.reports.artifacts import make_artifact

SHARED = {"model": "infinitevl-4b", "source": "measured", "device": "GPU", "run_id": "profile-1", "n": 3}


def test_a_form_stands_beside_its_floor_and_flas_speed() -> None:
    notes = {"scope": "recurrence", "pass": "forward", "backend": "torch"}
    about = SHARED | {"artifact": "bench_ops", "mixer": "gla", "context": 4096}
    timed = Record(
        **about, metric="tokens_per_second", value=1e6, unit="tokens/s",
        extra=notes | {"median_ms": 4.0, "ratio_to_floor": 8.0},
    )  # fmt: skip
    ratio = Record(**about, metric="speed_ratio", value=0.5, unit="ratio", extra=notes | {"over": "fla"})
    other = Record(**about, metric="speed_ratio", value=9.0, unit="ratio", extra=notes | {"over": "reference"})
    (table,) = make_artifact("ops", [timed, ratio, other]).tables
    assert [cell.text for cell in table.rows[0].cells] == [
        "gla", "recurrence", "forward", "torch", "4,096", "4.000", "8.000", "0.50",
    ]  # fmt: skip
    assert len(table.rows) == 1


def test_without_records_the_commands_are_named() -> None:
    assert "bench ops" in str(make_artifact("ops", []).missing[0].command)
    missing = [str(one.command) for one in make_artifact("full_size", []).missing]
    assert ["full_size" in missing[0], "loading" in missing[1]] == [True, True]


def test_bytes_are_shown_in_gigabytes_and_conditions_in_words() -> None:
    record = Record(
        **SHARED, artifact="loading", metric="eval_peak_bytes", value=9.5e9, unit="B",
        extra={"batch_size": 16, "graph": False},
    )  # fmt: skip
    artifact = make_artifact("full_size", [record])
    assert [cell.text for cell in artifact.tables[0].rows[0].cells] == [
        "infinitevl-4b", "peak memory of answering", "batch 16, eager", "9.500", "GB",
    ]  # fmt: skip
    assert [one.what for one in artifact.missing] == ["Training at full size"]
