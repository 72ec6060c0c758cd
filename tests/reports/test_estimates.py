"""Means and intervals: against scipy, over seeds, over samples, and what may not be averaged."""

import numpy as np
import pytest
from infinitevl_bench.errors import UserError
from infinitevl_bench.records import Record
from infinitevl_bench.reports.estimates import estimate, interval_of_mean, scale_rank, swa_ratio, unique
from scipy import stats


def record(value: float, **changes: object) -> Record:
    fields = {
        "artifact": "ablation", "metric": "score", "unit": "%", "model": "tiny", "source": "measured",
        "benchmark": "DocVQA", "seed": 0, "run_id": "one",
    }  # fmt: skip
    return Record.model_validate(fields | {"value": value} | changes)


def test_the_interval_is_scipys() -> None:
    values = np.random.default_rng(0).normal(50, 4, size=7)
    expected = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    assert interval_of_mean(values.tolist()) == pytest.approx(expected)
    assert interval_of_mean([3.0, 3.0]) == (3.0, 3.0)


def test_several_seeds_give_an_interval_over_seeds() -> None:
    found = estimate([record(v, seed=s, n=100 + s, run_id=f"run-{s}") for s, v in enumerate([50.0, 52.0, 57.0])])
    assert found.interval == "seeds"
    assert found.value == pytest.approx(53.0)
    assert (found.low, found.high) == pytest.approx(interval_of_mean([50.0, 52.0, 57.0]))
    assert found.seeds == (0, 1, 2)
    assert found.samples == 100
    assert found.runs == ("run-0", "run-1", "run-2")


def test_one_seed_keeps_the_interval_over_samples() -> None:
    found = estimate([record(50.0, ci_low=44.0, ci_high=56.0)])
    assert (found.low, found.high, found.interval) == (44.0, 56.0, "samples")
    assert estimate([record(50.0)]).interval == "none"


def test_repeated_runs_of_a_seed_count_once() -> None:
    found = estimate([record(40.0), record(60.0, run_id="two"), record(70.0, seed=1)])
    assert found.value == pytest.approx(60.0)


def test_an_interval_of_a_score_stays_in_its_range() -> None:
    found = estimate([record(1.0), record(9.0, seed=1)])
    assert found.low == 0.0
    assert estimate([record(1.0, unit="ms"), record(9.0, seed=1, unit="ms")]).low < 0  # type: ignore[operator]


def test_units_may_not_be_mixed() -> None:
    with pytest.raises(UserError, match=r"several units \(%, points\) by one, two") as error:
        estimate([record(50.0), record(1500.0, unit="points", run_id="two")])
    assert error.value.exit_code == 1
    with pytest.raises(ValueError, match="nothing"):
        estimate([])


def test_a_later_record_of_a_run_replaces_the_earlier() -> None:
    first, again, other = record(1.0), record(2.0), record(3.0, extra={"level": 2})
    assert unique([first, other, again]) == [again, other]
    nameless = record(1.0, run_id=None)
    assert len(unique([nameless, record(2.0, run_id=None)])) == 2


def test_scales_and_ratios() -> None:
    assert scale_rank("unheard of") < scale_rank("tiny") < scale_rank("small") < scale_rank("infinitevl-4b")
    assert str(swa_ratio("SLLL")) == "1/4"
    assert swa_ratio("F") is None
    assert swa_ratio("") is None
