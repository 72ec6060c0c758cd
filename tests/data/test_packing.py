"""The order of a mixture and its packs: shares, epochs, no token too many, the same for the same seed."""

import random
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from infinitevl_bench.data.mixture import check_weights, mixed
from infinitevl_bench.data.packing import OPEN_PACKS, Plan, packed, steps_of_pass
from infinitevl_bench.errors import UserError


def first(count: int, sizes: list[int], weights: list[float], seed: int = 0) -> list[tuple[int, int]]:
    return list(islice(mixed([np.arange(size) for size in sizes], weights, seed), count))


def test_every_source_has_its_share_at_any_time() -> None:
    weights = [35.4, 11.9, 1.56, 0.78]
    stream = first(2000, [50, 7, 100, 3], weights)
    for length in (10, 100, 777, 2000):
        drawn = [sum(source == number for source, _ in stream[:length]) for number in range(4)]
        assert drawn == pytest.approx([length * weight / sum(weights) for weight in weights], abs=1.01)


def test_a_source_is_gone_through_whole_before_it_begins_again() -> None:
    own = [place for source, place in first(300, [20, 5], [1.0, 1.0]) if source == 0]
    for epoch in range(len(own) // 20):
        assert sorted(own[20 * epoch : 20 * epoch + 20]) == list(range(20))
    assert own[:20] != own[20:40]


def test_the_seed_decides_the_order() -> None:
    assert first(50, [20, 5], [2, 1]) == first(50, [20, 5], [2, 1])
    assert first(50, [20, 5], [2, 1]) != first(50, [20, 5], [2, 1], seed=1)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=40), st.integers(64, 128))
@settings(deadline=None)
def test_packs_hold_every_sample_once_and_no_token_too_many(lengths: list[int], context: int) -> None:
    stream = mixed([np.arange(len(lengths))], [1.0], 0)
    packs = list(islice(packed(stream, lambda place: lengths[place[1]], context), 60))
    assert all(sum(lengths[number] for _, number in pack) <= context for pack in packs)
    seen = [number for pack in packs for _, number in pack]
    counts = [seen.count(number) for number in range(len(lengths))]
    # What is still in open packs is missing from the last epochs.
    assert max(counts) - min(counts) <= 2 + OPEN_PACKS * context // min(lengths) // len(lengths)


def test_packs_are_well_filled_and_near_the_mixtures_order() -> None:
    chance = random.Random(0)
    lengths = [chance.randint(50, 2000) for _ in range(5000)]
    packs = list(islice(packed(((0, n) for n in range(5000)), lambda place: lengths[place[1]], 8192), 500))
    assert sum(lengths[number] for pack in packs for _, number in pack) / (500 * 8192) > 0.95
    middles = [np.mean([number for _, number in pack]) for pack in packs]
    assert np.corrcoef(middles, range(500))[0, 1] > 0.98


def test_a_step_has_the_same_packs_whatever_was_asked_before() -> None:
    def plan() -> Plan:
        stream = mixed([np.arange(30)], [1.0], 3)
        return Plan(packed(stream, lambda place: 1 + place[1], 64), batch_size=3)

    forward, backward = plan(), plan()
    steps = [forward.of_step(step) for step in range(8)]
    assert [backward.of_step(step) for step in reversed(range(8))] == steps[::-1]
    assert all(len(step) == 3 for step in steps)


def test_a_pass_sees_about_every_sample() -> None:
    stream = mixed([np.arange(100)], [1.0], 0)
    assert steps_of_pass(packed(stream, lambda _: 10, 50), samples=100, batch_size=4) == 5


@pytest.mark.parametrize(
    ("weights", "words"),
    [([1.0, None], "some sources have a weight"), ([1.0, 0.0], "positive numbers, not 0"), ([-1.0, 2.0], "not -1")],
)
def test_weights_that_say_nothing_are_refused(weights: list[float | None], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_weights(weights, [10, 20])
    assert check_weights([None, None], [10, 20]) == [10.0, 20.0]
