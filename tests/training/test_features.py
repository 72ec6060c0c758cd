"""Pages seen once: batches gathered from them, their order, and the file that holds them."""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitevl_bench.data.samples import page_turns
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.checkpoints import new_model
from infinitevl_bench.models.presets import get_preset
from infinitevl_bench.models.processor import load_processor
from infinitevl_bench.training import drawing, features
from infinitevl_bench.training.batch import FIRST, IGNORED, PADDING, TEXT, VISION, AnswerLoss, Batch
from infinitevl_bench.training.features import (
    RANGE,
    PageSet,
    PageSetSpec,
    load_page_set,
    page_set_key,
    prepare_page_sets,
)

IMAGE = 99
WIDTH = 8
SPEC = PageSetSpec(weights={"transcription": 1, "shapes": 1}, pages=RANGE + 6)


@pytest.fixture
def pages() -> PageSet:
    """Seven made-up pages of 4 to 16 tokens, with 0 to 5 image tokens each."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([9, 4, 12, 7, 16, 5, 10])
    ids, labels, positions = [], [], []
    for number, length in enumerate(lengths.tolist()):
        page = torch.randint(0, 90, (length,), generator=generator)
        page[1 : 1 + number % 6] = IMAGE
        ids.append(page)
        labels.append(torch.where(torch.arange(length) < length - 2, IGNORED, page))
        positions.append(torch.randint(0, 50, (3, length), generator=generator))
    joined = torch.cat(ids)
    tensors = {
        "input_ids": joined,
        "labels": torch.cat(labels),
        "position_ids": torch.cat(positions, dim=-1),
        "features": torch.randn(int((joined == IMAGE).sum()), WIDTH, generator=generator).half(),
        "token_starts": torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]),
    }
    return PageSet(tensors, IMAGE, "key")


def one_page(pages: PageSet, index: int) -> tuple[torch.Tensor, ...]:
    """Tokens, features, positions and labels of a page, read off one after the other."""
    start, stop = pages.tensors["token_starts"][index : index + 2].tolist()
    ids = pages.tensors["input_ids"]
    seen_before, seen = (int((ids[part] == IMAGE).sum()) for part in (slice(start), slice(start, stop)))
    features = pages.tensors["features"][seen_before : seen_before + seen]
    return ids[start:stop], features, pages.tensors["position_ids"][:, start:stop], pages.tensors["labels"][start:stop]


def test_a_batch_is_its_pages_side_by_side(pages: PageSet) -> None:
    indices = torch.tensor([4, 1, 0, 6])
    batch = pages.batch(indices)
    assert batch.labels.shape == (4, 16)
    features = iter(batch.inputs["image_features"])
    for row, index in enumerate(indices.tolist()):
        ids, own_features, positions, labels = one_page(pages, index)
        length = len(labels)
        assert torch.equal(batch.inputs["input_ids"][row, :length], ids)
        assert torch.equal(batch.inputs["position_ids"][:, row, :length], positions)
        assert batch.labels[row, :length].tolist() == labels.tolist()
        assert batch.labels[row, length:].eq(IGNORED).all()
        assert all(torch.equal(next(features), feature) for feature in own_features)
        kinds = [FIRST, *(VISION if token == IMAGE else TEXT for token in ids[1:]), *[PADDING] * (16 - length)]
        assert batch.kinds[row].tolist() == kinds
    assert next(features, None) is None


def test_length_groups_hold_every_page_once_and_less_padding(pages: PageSet) -> None:
    indices = torch.tensor([4, 1, 0, 6, 5])
    whole, parts = pages.batch(indices), pages.batches(indices, groups=2)

    def learnt(batch: Batch) -> list[list[int]]:
        return [row[row != IGNORED].tolist() for row in batch.labels]

    assert sorted(row for part in parts for row in learnt(part)) == sorted(learnt(whole))
    assert sum(part.labels.numel() for part in parts) < whole.labels.numel()
    # More groups than pages: no group is empty.
    assert [len(part.labels) for part in pages.batches(indices[:2], groups=3)] == [1, 1]


def test_length_groups_leave_loss_and_gradient_as_they_are(tmp_path: Path) -> None:
    config = get_preset("tiny", pattern="SL")
    config.text_config.num_hidden_layers, config.text_config.layer_types = 2, config.text_config.layer_types[:2]
    model = new_model(config, seed=0).train()
    pages = load_page_set(
        PageSetSpec(weights={"documents": 1, "shapes": 1}, pages=6), model, load_processor(), tmp_path / "cache"
    )
    loss_of = AnswerLoss(model)

    def loss_and_gradient(batches: list[Batch]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.zero_grad()
        loss = sum((loss_of(*batch) for batch in batches), torch.zeros(()))
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    indices = torch.arange(6)
    loss, gradient = loss_and_gradient([pages.batch(indices)])
    parts = pages.batches(indices, groups=3)
    assert len({part.labels.shape[1] for part in parts}) > 1
    loss_of_parts, gradient_of_parts = loss_and_gradient(parts)
    torch.testing.assert_close(loss_of_parts, loss, atol=0, rtol=1e-5)
    assert len(gradient) == len([p for p in model.parameters() if p.requires_grad])
    for ours, theirs in zip(gradient_of_parts, gradient, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max().clamp(min=1.0)


def test_an_epoch_is_a_permutation_and_the_seed_decides_it(pages: PageSet) -> None:
    def epochs(seed: int) -> list[list[int]]:
        order = pages.order(seed, batch_size=7)
        return [order(step).tolist() for step in range(3)]

    assert all(sorted(epoch) == list(range(7)) for epoch in epochs(0))
    assert len({tuple(epoch) for epoch in epochs(0)}) == 3
    assert epochs(0) == epochs(0)
    assert epochs(0) != epochs(1)


def test_a_step_has_the_same_pages_whatever_was_asked_before(pages: PageSet) -> None:
    forward = pages.order(0, batch_size=2)
    steps = [forward(step).tolist() for step in range(9)]
    backward = pages.order(0, batch_size=2)
    assert [backward(step).tolist() for step in reversed(range(9))] == steps[::-1]
    # Three batches of two out of seven pages an epoch: none twice.
    for epoch in range(3):
        seen = [page for batch in steps[3 * epoch : 3 * epoch + 3] for page in batch]
        assert len(set(seen)) == 6


def test_fewer_pages_than_a_batch_are_refused(pages: PageSet) -> None:
    with pytest.raises(ValueError, match="7 pages make no batch of 8"):
        pages.order(0, batch_size=8)


@pytest.mark.parametrize(
    "change",
    [{"pages": 7}, {"seed": 1}, {"level": 2}, {"split": "test"}, {"weights": {"shapes": 1}}],
    ids=lambda change: next(iter(change)),
)
def test_another_request_has_another_key(change: dict[str, Any]) -> None:
    spec = PageSetSpec(weights={"shapes": 1, "documents": 1}, pages=6)
    assert page_set_key(spec) != page_set_key(spec.model_copy(update=change))
    assert page_set_key(spec) == page_set_key(PageSetSpec(weights={"documents": 1, "shapes": 1}, pages=6))


def test_a_prefix_of_the_pages_is_balanced() -> None:
    spec = PageSetSpec(weights={"documents": 2, "shapes": 1}, pages=9)
    assert [spec.family_of(index) for index in range(6)] == ["documents", "documents", "shapes"] * 2


@pytest.fixture(scope="module")
def tower() -> Any:
    return new_model(get_preset("tiny"), seed=0)


def test_two_workers_see_what_one_sees_and_the_file_is_found_again(
    tmp_path: Path, tower: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor, seen = load_processor(), []
    alone = load_page_set(SPEC, tower, processor, tmp_path / "one")
    shared = load_page_set(
        SPEC, tower, processor, tmp_path / "two", workers=2, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(RANGE, SPEC.pages), (SPEC.pages, SPEC.pages)]
    assert len(alone) == SPEC.pages
    assert alone.key == shared.key
    assert sorted(alone.tensors) == sorted(shared.tensors)
    for name, tensor in alone.tensors.items():
        assert torch.equal(tensor, shared.tensors[name]), name

    monkeypatch.setattr("infinitevl_bench.training.features._encode", None)  # calling it would fail
    again = load_page_set(SPEC, tower, processor, tmp_path / "one")
    assert torch.equal(again.tensors["features"], alone.tensors["features"])


def test_a_truncated_file_is_made_again(tmp_path: Path, tower: Any) -> None:
    spec, processor = SPEC.model_copy(update={"pages": 4}), load_processor()
    whole = load_page_set(spec, tower, processor, tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    mended = load_page_set(spec, tower, processor, tmp_path)
    assert all(torch.equal(mended.tensors[name], tensor) for name, tensor in whole.tensors.items())
    assert len(load_page_set(spec, tower, processor, tmp_path)) == 4


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, tower: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file/cache"):
        load_page_set(SPEC, tower, load_processor(), tmp_path / "file" / "cache")


def test_several_sets_are_made_by_one_pool_and_found_again(
    tmp_path: Path, tower: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = load_processor()
    specs = [SPEC.model_copy(update={"pages": 4, "seed": seed}) for seed in (0, 1)]
    pools = []

    def counted(*arguments: Any, **keywords: Any) -> Any:
        pools.append(1)
        return ProcessPoolExecutor(*arguments, **keywords)

    monkeypatch.setattr(drawing, "ProcessPoolExecutor", counted)
    prepare_page_sets(specs, tower, processor, tmp_path, workers=2)
    assert len(pools) == 1
    monkeypatch.setattr(features, "_encode", None)  # calling it would fail
    assert [len(load_page_set(spec, tower, processor, tmp_path)) for spec in specs] == [4, 4]


def test_guesses_are_the_share_of_a_pages_values_that_answer_its_first_question(tmp_path: Path, tower: Any) -> None:
    spec = PageSetSpec(weights={"documents": 1, "shapes": 1, "transcription": 1}, pages=6)
    found = load_page_set(spec, tower, load_processor(), tmp_path).tensors["guesses"].tolist()
    for index, guess in enumerate(found):
        page = spec.page(index)
        answer = page_turns(page)[0].answers[0]
        assert guess == sum(value == answer for value in page.values) / max(1, len(page.values))
    assert found[0] == 1 / len(spec.page(0).values), "documents have distinct values"


def test_fewer_turns_and_tokens_are_the_first_turns_of_the_page(tmp_path: Path, tower: Any) -> None:
    processor, whole = load_processor(), PageSetSpec(weights={"documents": 1, "charts": 1}, pages=8, level=2)

    def tokens(**changes: Any) -> list[list[int]]:
        pages = load_page_set(whole.model_copy(update=changes), tower, processor, tmp_path)
        return [ids.tolist() for ids in pages.tensors["input_ids"].split(pages.lengths.tolist())]

    every, limit = tokens(), 160
    assert max(map(len, every)) > limit
    end = processor.tokenizer.eos_token_id
    for all_turns, one, fitting in zip(every, tokens(turns=1), tokens(tokens=limit), strict=True):
        answers = [ids.count(end) for ids in (all_turns, one, fitting)]
        assert answers[1] < answers[0]
        assert len(fitting) <= limit or fitting == one
        for cut in (one, fitting):
            # Behind the last answer's end-of-turn token the template closes otherwise than it goes on.
            kept = len(cut) - cut[::-1].index(end)
            assert cut[:kept] == all_turns[:kept]
    assert tokens(turns=99) == every == tokens(tokens=9999)
    assert [len(ids) for ids in tokens(tokens=1)] == [len(ids) for ids in tokens(turns=1)]
