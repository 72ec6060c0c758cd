"""Videos of one shape against transformers' own way from frames and text to logits; questions asked after chunks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from infinitevl_bench.data.library import LibrarySpec
from infinitevl_bench.data.timelines import KINDS, VideoSetSpec
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.checkpoints import new_model
from infinitevl_bench.models.presets import get_preset
from infinitevl_bench.models.processor import load_processor
from infinitevl_bench.records import RunFolder, RunSpec
from infinitevl_bench.training.fixed import FixedBatch, FixedTraining, answer_logits, answer_loss, side_by_side
from infinitevl_bench.training.fixed_videos import Answers, FixedVideos, questions_of, turn_answers, turns_right
from infinitevl_bench.training.loop import TrainArguments
from infinitevl_bench.training.moments import Library, load_library
from infinitevl_bench.training.video_answers import (
    answers_alone,
    batch_that_fits,
    watch,
    watching_bytes,
    written_after,
)

LIBRARY = LibrarySpec(split="train", captions=1, events=3, scenes=2)
SPEC = VideoSetSpec(library=LIBRARY, videos=6, frames=(16, 26))
LONG = VideoSetSpec(library=LIBRARY, videos=3, frames=(40, 40), at_depths=True)


@pytest.fixture(scope="module")
def processor() -> Any:
    return load_processor()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return load_library(LIBRARY, model("SLLL").model.visual, tmp_path_factory.mktemp("cache"))


def model(pattern: str, seed: int = 0) -> Any:
    net = new_model(get_preset("tiny", pattern=pattern), seed).eval()
    for layer in net.model.language_model.layers:
        if hasattr(layer.self_attn, "q_proj") and pattern in "SF":
            # Sharp attention, so that places show.
            layer.self_attn.q_proj.weight.data.mul_(4)
    return net


def own_way(net: Any, processor: Any, videos: FixedVideos, index: int, turns: int | None = None) -> Any:
    """A conversation as a user's code would run it: frames, chat template, processor, the whole model."""
    timeline = videos.timelines[index]
    frames = np.concatenate([LIBRARY.draw(int(moment)) for moment in timeline.moments])
    messages: list[dict[str, Any]] = []
    for number, question in enumerate(timeline.questions[:turns]):
        content: list[dict[str, Any]] = [{"type": "text", "text": question.text}]
        messages += [
            {"role": "user", "content": [{"type": "video"}] * (number == 0) + content},
            {"role": "assistant", "content": [{"type": "text", "text": question.answer}]},
        ]
    inputs = processor(
        text=[processor.apply_chat_template(messages)],
        videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)],
        do_sample_frames=False,
        videos_kwargs={"size": {"shortest_edge": 3136, "longest_edge": 10**9}},
        return_tensors="pt",
    )
    # Two frames a second, of which the tower joins two.
    inputs["second_per_grid_ts"] = torch.tensor([1.0])
    with torch.no_grad():
        return inputs["input_ids"][0], net(**inputs).logits[0]


@pytest.mark.parametrize("pattern", ["SLLL", "F"])
def test_a_batch_is_what_transformers_makes_of_the_frames(
    pattern: str, library: Library, processor: Any
) -> None:  # fmt: skip
    net, videos = model(pattern), FixedVideos(SPEC, library, processor)
    indices = torch.tensor([4, 0, 2])
    batch = videos.batch(indices)
    with torch.no_grad():
        found = answer_logits(net, batch)
    lengths = set()
    for row, index in enumerate(indices.tolist()):
        ids, logits = own_way(net, processor, videos, index)
        learnt = batch.learnt[row]
        slots = batch.slots[row][learnt]
        # All but the line break after the last answer, which nothing follows.
        assert batch.input_ids[row, : len(ids) - 1].tolist() == ids[:-1].tolist()
        assert not batch.input_ids[row, len(ids) - 1 :].any()
        assert batch.targets[row][learnt].tolist() == ids[slots].tolist()
        answers = [question.answer for question in videos.timelines[index].questions]
        assert processor.decode(ids[slots]) == "".join(answer + "<|im_end|>" for answer in answers)
        # Features are kept in 16 bits.
        torch.testing.assert_close(found[row][learnt], logits[slots - 1], rtol=1e-2, atol=1e-2)
        lengths.add(len(ids))
    assert len(lengths) > 1


def test_a_blind_batch_differs_in_its_features_alone(library: Library, processor: Any) -> None:
    seen, blind = (FixedVideos(SPEC, library, processor, blind).batch(torch.arange(3)) for blind in (False, True))
    for name in ("input_ids", "position_ids", "seen", "slots", "targets", "learnt", "tokens"):
        assert torch.equal(getattr(seen, name), getattr(blind, name))
    kept = blind.features[blind.seen]
    torch.testing.assert_close(kept, library.features.float().mean((0, 1)).half().expand_as(kept))


def test_a_step_looks_at_no_value(library: Library, processor: Any) -> None:
    net = model("SL")
    net.model.visual.requires_grad_(False)
    batch = FixedVideos(SPEC, library, processor).batch(torch.arange(3))
    net.to("meta").train()
    answer_loss(net, FixedBatch(*(tensor.to("meta") for tensor in batch))).backward()
    assert net.model.language_model.layers[1].self_attn.o_proj.weight.grad is not None


@pytest.mark.parametrize("pattern", ["SLLL", "L", "S", "F"])
def test_a_question_after_chunks_is_the_question_after_the_video(
    pattern: str, library: Library, processor: Any
) -> None:  # fmt: skip
    net, videos = model(pattern), FixedVideos(LONG, library, processor)
    indices = torch.tensor([2, 0])
    remembered = watch(net, videos, indices, chunk_tokens=37)
    assert remembered.get_seq_length() == 4 + 20 * 8
    once = watch(net, videos, indices, chunk_tokens=10**6)
    for number in range(len(videos.timelines[0].questions)):
        text = Answers.of(videos.writing, questions_of(videos.timelines, number), "cpu")
        found = [written_after(net, memory, videos, text, indices) for memory in (remembered, once)]
        for row, index in enumerate(indices.tolist()):
            alone = Answers.of(videos.writing, [(videos.timelines[index].questions[number],)], "cpu")
            assert torch.equal(text.ids[index][: alone.lengths[0]], alone.ids[0])
            start = 4 + 20 * 8
            columns = torch.arange(start + len(alone.ids[0]))
            embeds = net.get_input_embeddings()(torch.cat([videos.before, torch.zeros(20 * 8).long(), alone.ids[0]]))
            embeds[4:start] = videos.look(torch.tensor([index]), columns)[0, 4:start].float()
            positions = videos.positions(columns, videos.counts[index : index + 1])
            with torch.no_grad():
                hidden = net.model.language_model(inputs_embeds=embeds[None], position_ids=positions)[0]
                whole = net.lm_head(hidden[0, start + alone.slots[0] - 1]).argmax(-1)
            for one in found:
                assert one[row, : len(whole)].tolist() == whole.tolist()


def test_the_first_turn_is_the_question_alone(library: Library, processor: Any) -> None:
    """Answers that are right: the targets are what the model writes of itself."""
    net, videos = model("SLLL", seed=1), FixedVideos(LONG, library, processor)
    batch = videos.batch(torch.arange(len(videos)))
    with torch.no_grad():
        likeliest = answer_logits(net, batch).argmax(-1)
    first = videos.text.turns == 0
    assert not bool((likeliest[first] == videos.text.targets[first]).all())
    alone = Answers.of(videos.writing, questions_of(videos.timelines, 0), "cpu")
    written = written_after(net, watch(net, videos, torch.arange(3)), videos, alone, torch.arange(3))
    assert written[alone.turns == 0].tolist() == likeliest[first].tolist()


def test_turns_are_right_if_every_token_is() -> None:
    turns = torch.tensor([[0, 0, 1, 1, 1, 2], [0, 1, 1, 2, -1, -1]])
    wrong = torch.tensor([[0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]]).bool()
    assert turns_right(wrong, turns).tolist() == [[True, False, True], [False, True, True]]


def test_it_learns_a_few_videos_by_heart_and_says_so(library: Library, processor: Any, tmp_path: Path) -> None:
    videos = FixedVideos(SPEC.model_copy(update={"videos": 2}), library, processor)
    net = model("SL")
    arguments = TrainArguments(steps=60, batch_size=2, learning_rate=4e-3, checkpoint_every_seconds=None)
    before = turn_answers(net, videos)
    assert {kind: len(rows) for kind, rows in before.items()} == {"needle": 16, "count": 4, "order": 4}
    assert sum(map(sum, before.values())) == 0
    with RunFolder(tmp_path, RunSpec(kind="train", arguments={})) as folder:
        (result,) = side_by_side([FixedTraining(net, videos, arguments, folder, videos.key).run()])
    assert result.loss < 0.1
    after = turn_answers(net, videos, batch_size=1)
    assert all(np.mean(after[kind]) > 0.9 for kind in KINDS)


def test_answers_alone_are_by_video_and_question(library: Library, processor: Any) -> None:
    net, videos = model("SL"), FixedVideos(LONG, library, processor)
    found = answers_alone(net, videos, batch_size=2)
    assert [len(row) for row in found] == [9, 9, 9]
    with pytest.raises(ValueError, match="several lengths"):
        answers_alone(net, FixedVideos(SPEC, library, processor))


def test_memory_is_constant_for_constant_states_and_refused_beforehand() -> None:
    hybrid, full = (get_preset("small", pattern=pattern) for pattern in ("SLLL", "F"))
    assert watching_bytes(hybrid, 2**20) == watching_bytes(hybrid, 1024)
    longer = watching_bytes(full, 2**20) - watching_bytes(full, 2**19)
    # Keys and values of 8 layers with 2 heads of 32 channels, in 4 bytes, of 8 tokens for 2 frames; thrice.
    assert longer == 2**19 // 2 * 8 * 8 * 2 * 2 * 32 * 4 * 3
    assert batch_that_fits(hybrid, 2**20, 1e9) > 1
    with pytest.raises(UserError, match=r"1,048,576 frames needs about 51\.\d GB and 5\.0 GB of 10\.0 GB free"):
        batch_that_fits(full, 2**20, 1e10)


def test_a_library_is_made_once_and_a_damaged_one_again(tmp_path: Path) -> None:
    spec = LibrarySpec(split="test", captions=1, events=1, scenes=1, scene_moments=2)
    tower = model("SL").model.visual
    first = load_library(spec, tower, tmp_path)
    assert first.features.shape == (sum(spec.sizes), 8, 128)
    (path,) = tmp_path.glob("moments-*.safetensors")
    written = path.stat().st_mtime_ns
    assert torch.equal(load_library(spec, tower, tmp_path).features, first.features)
    assert path.stat().st_mtime_ns == written
    path.write_bytes(b"damaged")
    again = load_library(spec, tower, tmp_path, workers=2)
    torch.testing.assert_close(again.features, first.features)


@pytest.mark.gpu
@pytest.mark.parametrize("pattern", ["SLLL", "L", "S", "F"])
def test_captured_steps_and_answers_on_a_gpu_are_those_of_the_cpu(
    pattern: str, library: Library, processor: Any, tmp_path: Path
) -> None:  # fmt: skip
    arguments = TrainArguments(steps=4, batch_size=2, log_every=1, checkpoint_every_seconds=None)
    losses, written = [], []
    for device in ("cuda", "cpu"):
        here = Library(library.spec, library.features.to(device), library.key)
        videos, long = (FixedVideos(spec, here, processor) for spec in (SPEC, LONG))
        net = model(pattern).to(device)
        text = Answers.of(long.writing, questions_of(long.timelines, 0), device)
        indices = torch.arange(3, device=device)
        written.append(written_after(net, watch(net, long, indices, chunk_tokens=37), long, text, indices).tolist())
        with RunFolder(tmp_path, RunSpec(kind="train", arguments={"device": device})) as folder:
            side_by_side([FixedTraining(net, videos, arguments, folder, videos.key).run()])
            losses.append([row["loss"] for row in folder.rows("metrics.jsonl")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert written[0] == written[1]
