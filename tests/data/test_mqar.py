"""Sequences of multi-query recall: what their definition promises, and a dictionary as the oracle."""

import numpy as np
import pytest
from infinitevl_bench.data.mqar import FILLER, ROWS, RecallSpec, draw_sequences
from infinitevl_bench.errors import UserError
from scipy import stats

SPECS = (
    RecallSpec(length=64, pairs=4, examples=300),
    RecallSpec(length=128, pairs=8, examples=100, vocabulary=64, seed=3),
    # As many pairs, keys and values as there can be.
    RecallSpec(length=32, pairs=8, examples=50, vocabulary=18, power=1.0),
)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"T{spec.length}-P{spec.pairs}-V{spec.vocabulary}")
def test_a_dictionary_answers_every_query_and_nothing_else_is_asked(spec: RecallSpec) -> None:
    tokens, queries, values = draw_sequences(spec)
    assert tokens.shape == (spec.examples, spec.length)
    assert queries.shape == values.shape == (spec.examples, spec.pairs)
    half, context = spec.vocabulary // 2, 2 * spec.pairs
    for row, asked, expected in zip(tokens.tolist(), queries.tolist(), values.tolist(), strict=True):
        known = dict(zip(row[:context:2], row[1:context:2], strict=True))
        assert len(known) == len(set(known.values())) == spec.pairs
        assert all(1 <= key < half for key in known)
        assert all(half <= value < spec.vocabulary for value in known.values())
        # Every key is asked once, at a place of its own after the pairs; its value stands nowhere again.
        assert sorted(row[place] for place in asked) == sorted(known)
        assert [known[row[place]] for place in asked] == expected
        assert all(place >= context and place % 2 == 0 for place in asked)
        rest = [token for place, token in enumerate(row[context:], context) if place not in asked]
        assert set(rest) <= {FILLER}
        assert len(rest) == spec.length - context - spec.pairs


def test_places_of_queries_follow_the_power_law_in_the_order_of_the_pairs() -> None:
    spec = RecallSpec(length=64, pairs=4, examples=20_000, vocabulary=64)
    places = draw_sequences(spec).queries // 2 - spec.pairs
    weights = np.arange(1, spec.places + 1) ** (spec.power - 1.0)
    first = np.bincount(places[:, 0], minlength=spec.places)
    assert stats.chisquare(first, weights / weights.sum() * spec.examples).pvalue > 1e-3
    # The second draw is from what the first has left: by the law of total probability, place by place.
    share = weights / weights.sum()
    second = np.array(
        [sum(share[i] * share[j] / (1 - share[i]) for i in range(spec.places) if i != j) for j in range(spec.places)]
    )
    found = np.bincount(places[:, 1], minlength=spec.places)
    assert stats.chisquare(found, second * spec.examples).pvalue > 1e-3
    assert places[:, 0].mean() < places[:, 3].mean()
    even = draw_sequences(spec.model_copy(update={"power": 1.0})).queries[:, 0]
    assert stats.chisquare(np.bincount(even // 2 - spec.pairs, minlength=spec.places)).pvalue > 1e-3


def test_all_keys_and_values_are_drawn_alike_at_every_place() -> None:
    spec = RecallSpec(length=32, pairs=3, examples=20_000, vocabulary=20)
    tokens, _, _ = draw_sequences(spec)
    for column in range(6):
        lowest, count = (1, 9) if column % 2 == 0 else (10, 10)
        counts = np.bincount(tokens[:, column] - lowest, minlength=count)
        assert len(counts) == count
        assert stats.chisquare(counts).pvalue > 1e-3


def test_a_set_is_a_function_of_its_specification_and_splits_and_seeds_differ() -> None:
    spec = RecallSpec(length=64, pairs=4, examples=ROWS + 10)
    one, other = draw_sequences(spec), draw_sequences(spec)
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    sets = [spec, spec.model_copy(update={"split": "test"}), spec.model_copy(update={"seed": 1})]
    rows = [{tuple(row) for row in draw_sequences(one).tokens.tolist()} for one in sets]
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]
    # The second lot of rows is not the first again.
    assert len(rows[0]) == ROWS + 10


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pairs": 17}, "17 pairs do not fit a sequence of 64 tokens: .* take 16 pairs or fewer"),
        ({"vocabulary": 8}, "a vocabulary of 8 has 3 keys and 4 pairs need as many; take a vocabulary of 10 or more"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(changes: dict[str, int], said: str) -> None:
    spec = RecallSpec(length=64, pairs=4, examples=5)
    with pytest.raises(UserError, match=said):
        draw_sequences(spec.model_copy(update=changes))
