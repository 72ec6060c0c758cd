"""Timing: turns, repeats, percentiles; and what is noted of the device."""

import os
import subprocess
import sys
import time

import pytest
from infinitevl_bench.profiling import environment
from infinitevl_bench.profiling.environment import device_state, warnings_of
from infinitevl_bench.profiling.timing import Samples, time_in_turn


def test_samples_take_turns() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: (order.append(name), time.sleep(0.001)) for name in "ab"}
    found = time_in_turn(calls, "cpu", warmups=1, repeats=2)
    assert "".join(order) == "ababab"
    assert [len(samples.milliseconds) for samples in found.values()] == [2, 2]
    assert all(sample >= 1 for samples in found.values() for sample in samples.milliseconds)


def test_short_calls_are_repeated_within_a_sample() -> None:
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    samples = time_in_turn({"step": step}, "cpu", warmups=2, repeats=3)["step"]
    assert count > 2 + 3
    assert samples.median_ms < 0.2


def test_percentiles_and_shares() -> None:
    samples = Samples(tuple(float(x) for x in range(11)))
    assert (samples.median_ms, samples.p10_ms, samples.p90_ms) == (5.0, 1.0, 9.0)
    assert samples.scaled(0.5).median_ms == 2.5
    assert samples.text.split() == [str(x) for x in range(11)]


def test_the_device_is_noted() -> None:
    notes = device_state("cpu")
    assert notes["threads"]
    assert warnings_of(notes) == []


@pytest.mark.parametrize(
    ("notes", "count"),
    [
        ({"warning": "1 other process on this GPU", "throttle_reasons": "0x0000000000000001"}, 1),
        ({"throttle_reasons": "0x0000000000000004"}, 1),
        ({"throttle_reasons": "0x0000000000000000"}, 0),
        ({}, 0),
    ],
)
def test_what_a_reader_must_know_is_said(notes: dict[str, str], count: int) -> None:
    assert len(warnings_of(dict(notes))) == count


def test_only_processes_of_others_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child may compile kernels on the card; init is nobody's child here; a number that is not ours says nothing."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        seen = f"{os.getpid()}\n{child.pid}\n1\n"
        monkeypatch.setattr(environment, "_ask", lambda query: seen)
        assert environment._other_processes() == {1}
        monkeypatch.setattr(environment, "_ask", lambda query: "4194305\n")
        assert environment._other_processes() == set()
    finally:
        child.communicate(b"\n")


@pytest.mark.gpu
def test_a_gpu_names_its_driver_and_clocks() -> None:
    notes = device_state("cuda")
    assert notes["driver"]
    assert float(str(notes["sm_clock_mhz"])) > 0
