"""Samples packed into one row give the loss and the gradients that they give alone, whatever the layers hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from infinitevl_bench.data.conversations import Conversation, Message
from infinitevl_bench.data.encode import Limits, encode
from infinitevl_bench.data.inspection import inspect
from infinitevl_bench.data.sources import open_source
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.processor import load_processor
from infinitevl_bench.models.registry import mixer_names
from infinitevl_bench.training.batch import FIRST, IGNORED, AnswerLoss, Batch, Objective
from infinitevl_bench.training.distill import LayerDistillation, LogitDistillation, train_mixers
from infinitevl_bench.training.packed import PackedData, pack_samples
from PIL import Image

ARMS = [("S", "gated_deltanet"), ("F", "gated_deltanet"), *[("SL", mixer) for mixer in mixer_names()]]


@pytest.fixture(scope="module")
def processor() -> Any:
    return load_processor()


@pytest.fixture(scope="module")
def samples(processor: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """Text alone, two pictures, and a video."""
    path = tmp_path_factory.mktemp("film") / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 2.0, (64, 64))
    for number in range(6):
        writer.write(np.full((64, 64, 3), 40 * number, dtype=np.uint8))
    writer.release()
    pictures = tuple(Image.new("RGB", size, "teal") for size in ((84, 56), (56, 56)))

    def one(question: str, answer: str, **seen: Any) -> dict[str, torch.Tensor]:
        messages = (Message("user", question), Message("assistant", answer))
        talk = Conversation(messages, seen.get("images", ()), seen.get("videos", ()), "here")
        return encode(talk, processor, Limits())

    return [
        one("What is it?", "nothing at all"),
        one("<image>And <image>here?", "teal", images=pictures),
        one("<video>Why?", "so", videos=(path,)),
    ]


def gradients(objective: Objective, batches: list[Batch]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    objective.zero_grad()
    loss = torch.stack([objective(*batch) for batch in batches]).sum()
    loss.backward()
    found = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
    return loss.detach(), found


def assert_same(objective: Objective, samples: list[dict[str, torch.Tensor]]) -> None:
    positions_of = objective.model.model.get_rope_index
    packed = pack_samples(samples, positions_of)
    alone = [pack_samples([sample], positions_of) for sample in samples]
    assert objective.count(packed) == sum(objective.count(batch) for batch in alone)
    loss, gradient = gradients(objective, [packed])
    expected, expected_gradient = gradients(objective, alone)
    torch.testing.assert_close(loss, expected, rtol=2e-5, atol=1e-5)
    assert gradient.keys() == expected_gradient.keys()
    for name, theirs in expected_gradient.items():
        scale = theirs.abs().max().clamp(min=1e-3)
        assert (gradient[name] - theirs).abs().max() <= 2e-4 * scale, name


@pytest.mark.parametrize(("pattern", "mixer"), ARMS, ids=[f"{pattern}-{mixer}" for pattern, mixer in ARMS])
def test_tuning_on_a_pack_is_tuning_on_its_samples(
    pattern: str, mixer: str, make_model: Callable[..., Any], samples: list[dict[str, torch.Tensor]]
) -> None:
    assert_same(AnswerLoss(make_model(pattern, mixer)), samples)


@pytest.mark.parametrize("make", [LayerDistillation, LogitDistillation])
def test_distilling_on_a_pack_is_distilling_on_its_samples(
    make: Any, pair: Callable[..., tuple[Any, Any]], samples: list[dict[str, torch.Tensor]]
) -> None:
    student, teacher = pair("SL")
    train_mixers(student)
    assert_same(make(student, teacher).train(), samples)


def test_a_pack_says_where_each_sample_begins(
    make_model: Callable[..., Any], samples: list[dict[str, torch.Tensor]], processor: Any
) -> None:
    batch = pack_samples(samples, make_model("F").model.get_rope_index)
    lengths = [len(sample["input_ids"]) for sample in samples]
    starts = [0, lengths[0], lengths[0] + lengths[1]]
    assert batch.inputs["cu_seq_lens_q"].tolist() == [*starts, sum(lengths)]
    assert batch.inputs["cu_seq_lens_q"].dtype == torch.int32
    assert torch.nonzero(batch.kinds[0] == FIRST).flatten().tolist() == starts
    assert batch.inputs["position_ids"].shape == (3, 1, sum(lengths))
    assert batch.inputs["position_ids"][:, 0, starts].eq(0).all()
    learnt = batch.labels[0][batch.labels[0] != IGNORED]
    assert processor.tokenizer.decode(learnt) == "nothing at all<|im_end|>teal<|im_end|>so<|im_end|>"


@pytest.fixture
def data(tmp_path: Path, processor: Any, make_model: Callable[..., Any]) -> Callable[..., PackedData]:
    def make(**changes: Any) -> PackedData:
        sources = [open_source("pages:shapes:12"), open_source("pages:charts:8")]
        limits = Limits(context=400)
        found = [inspect(source, processor, limits, tmp_path, most_broken=0) for source in sources]
        options = {"batch_size": 2, "seed": 0} | changes
        return PackedData(sources, found, [1.0, 1.0], make_model("F"), processor, limits, **options)

    return make


def test_the_batches_of_a_step_are_a_function_of_the_step(data: Callable[..., PackedData]) -> None:
    one, other = data(), data()
    ahead = [one.batches(step) for step in range(4)]
    for step in (3, 1):
        for ours, theirs in zip(ahead[step], other.batches(step), strict=True):
            assert ours.inputs.keys() == theirs.inputs.keys()
            assert all(torch.equal(ours.inputs[name], theirs.inputs[name]) for name in ours.inputs)
            assert ours.labels.shape[1] <= 400
    assert max(len(pack) for batches in ahead for pack in batches.packs) > 1  # type: ignore[attr-defined]
    assert all(len(pack) == 1 for pack in data(pack=False).batches(0).packs)  # type: ignore[attr-defined]


def test_what_breaks_when_it_is_decoded_is_passed_over(data: Callable[..., PackedData], monkeypatch: Any) -> None:
    from infinitevl_bench.data.conversations import BrokenSampleError
    from infinitevl_bench.training import packed

    broken = data(most_broken=2)
    encode_one, calls = packed.encode, []

    def failing(talk: Any, *rest: Any) -> Any:
        calls.append(talk.origin)
        if len(calls) in (2, 3, 5):
            raise BrokenSampleError(f"{talk.origin}: spoilt")
        return encode_one(talk, *rest)

    monkeypatch.setattr(packed, "encode", failing)
    whole = broken.batch([(0, 0), (0, 1)])
    assert whole.labels.ne(IGNORED).any()
    # Nothing is left of this pack: it has no terms.
    assert broken.batch([(0, 2)]).labels.eq(IGNORED).all()
    assert broken.broken == [f"{calls[1]}: spoilt", f"{calls[2]}: spoilt"]
    with pytest.raises(UserError, match="page 4: spoilt; mend or remove it"):
        broken.batch([(0, 3), (0, 4)])
