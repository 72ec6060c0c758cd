"""Recall over image tokens: the page says what the sequence says, the tower can tell the tiles apart, text follows."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from infinitevl_bench.data.drawing import MONO, text_size
from infinitevl_bench.data.mqar import RecallSpec, draw_sequences
from infinitevl_bench.data.mqar_pages import COLUMNS, MOST_CODES, TYPE_PIXELS, code_of, draw_pairs
from infinitevl_bench.data.pages import TOKEN_PIXELS
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.positions import batch_positions
from infinitevl_bench.models.recall import new_recall_model, recall_config, shipped_tower
from infinitevl_bench.training.fixed import answer_loss
from infinitevl_bench.training.reading import batched_features
from infinitevl_bench.training.seen_recall import SeenSequences

SPEC = RecallSpec(length=32, pairs=4, examples=12, vocabulary=64)


def test_every_token_has_a_code_of_its_own() -> None:
    assert len({code_of(token) for token in range(MOST_CODES)}) == MOST_CODES
    with pytest.raises(UserError, match=f"two characters name {MOST_CODES} tokens and not {MOST_CODES + 1}"):
        code_of(MOST_CODES)


def test_a_page_is_two_tiles_wide_and_every_code_stays_on_its_tile() -> None:
    for face in MONO:
        sizes = np.array([text_size(face, TYPE_PIXELS, code_of(token)) for token in range(MOST_CODES)])
        assert sizes.max() < TOKEN_PIXELS
    tokens = [1, 40, 2, 41, 3, 1155]
    page = draw_pairs(tokens, 0)
    assert page.shape == (3 * TOKEN_PIXELS, COLUMNS * TOKEN_PIXELS, 3)
    assert np.array_equal(page, draw_pairs(tokens, 0))
    for seed in range(20):
        one, other = draw_pairs(tokens, seed).astype(int), draw_pairs([*tokens[:3], 500, *tokens[4:]], seed).astype(int)
        places = np.argwhere((one != other).any(axis=-1))
        # Another code changes its own tile, in the second row on the right, and nothing else.
        assert len(places) > 0
        assert (places[:, 0] // TOKEN_PIXELS == 1).all()
        assert (places[:, 1] // TOKEN_PIXELS == 1).all()


def test_the_tower_tells_codes_apart_whatever_they_are_drawn_with() -> None:
    """Each tile is nearest to the mean of the same code's other drawings: what is studied are mixers, not eyes."""
    tower = shipped_tower().eval()
    codes = list(range(0, MOST_CODES, 9))[:128]
    order = np.random.default_rng(0)
    drawn = []
    for seed in range(9):
        shuffled = order.permutation(len(codes))
        page = torch.from_numpy(draw_pairs([codes[place] for place in shuffled], seed)).unsqueeze(0)
        with torch.no_grad():
            features = batched_features(tower, page)[0].float()
        drawn.append(features[torch.from_numpy(np.argsort(shuffled))])
    means = torch.stack(drawn[1:]).mean(dim=0)
    right = (torch.cdist(drawn[0], means).argmin(dim=1) == torch.arange(len(codes))).double().mean().item()
    assert right > 0.9


def test_pairs_are_seen_and_queries_are_read(tmp_path: Path) -> None:
    sequences = SeenSequences(SPEC, shipped_tower, tmp_path, "cpu")
    tokens, queries, values = draw_sequences(SPEC)
    batch = sequences.batch(torch.tensor([3, 7]))
    shown = 2 * SPEC.pairs
    assert batch.seen.expand(2, -1).sum(dim=1).tolist() == [shown, shown]
    assert batch.seen[0, :shown].all()
    # No pair can be read as text.
    assert not batch.input_ids[:, :shown].any()
    assert batch.input_ids[:, shown:].tolist() == tokens[[3, 7], shown:].tolist()
    assert (batch.slots - 1).tolist() == queries[[3, 7]].tolist()
    assert batch.targets.tolist() == values[[3, 7]].tolist()
    kinds = (torch.arange(SPEC.length) < shown).long().unsqueeze(0)
    # The processor's grid counts patches, of which two by two make a token.
    grid = torch.tensor([[1, 2 * SPEC.pairs, 2 * COLUMNS]])
    expected, _ = batch_positions(kinds, None, grid, None, None, 2, 2.0)
    assert batch.position_ids[:, :1].tolist() == expected.tolist()
    config = recall_config("gated_deltanet", "L", {}, width=128, vocabulary=SPEC.vocabulary, window=8)
    assert answer_loss(new_recall_model(config, 0), batch).isfinite()


def test_features_are_made_once_and_are_those_of_the_page(tmp_path: Path) -> None:
    made = []

    def tower() -> torch.nn.Module:
        made.append(1)
        return shipped_tower()

    first, again = (SeenSequences(SPEC, tower, tmp_path, "cpu") for _ in range(2))
    assert len(made) == 1
    assert torch.equal(first.features, again.features)
    assert first.features.shape == (SPEC.examples, 2 * SPEC.pairs, 128)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(b"damaged")
    assert torch.equal(SeenSequences(SPEC, tower, tmp_path, "cpu").features, first.features)
    other = SeenSequences(SPEC.model_copy(update={"split": "test"}), tower, tmp_path, "cpu")
    assert len(made) == 3
    keys = [first.key, other.key, SeenSequences(SPEC.model_copy(update={"seed": 1}), tower, tmp_path, "cpu").key]
    assert all(one != two for one, two in pairwise(keys))
