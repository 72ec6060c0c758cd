"""Steps of one shape against the loop's own steps, exact answers against greedy decoding, runs side by side."""

from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitevl_bench.data.families import generate_page
from infinitevl_bench.models.checkpoints import new_model
from infinitevl_bench.models.presets import get_preset
from infinitevl_bench.models.processor import load_processor
from infinitevl_bench.models.registry import mixer_names
from infinitevl_bench.records import RunFolder, RunSpec
from infinitevl_bench.training.batch import AnswerLoss
from infinitevl_bench.training.features import PageSet, PageSetSpec, load_page_set
from infinitevl_bench.training.fixed import (
    FixedBatch,
    FixedPages,
    FixedTraining,
    answer_loss,
    can_compile,
    compile_layers,
    exact_answers,
    side_by_side,
    uncompiled,
)
from infinitevl_bench.training.loop import TrainArguments, train

SPEC = PageSetSpec(weights={"documents": 1, "shapes": 1}, pages=10)
ARGUMENTS = TrainArguments(steps=4, batch_size=4, log_every=1, checkpoint_every_seconds=None)


@pytest.fixture(scope="module")
def processor() -> Any:
    return load_processor()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, processor: Any) -> PageSet:
    return load_page_set(SPEC, new_model(get_preset("tiny"), 0), processor, tmp_path_factory.mktemp("cache"))


def fixed(pages: PageSet, processor: Any) -> FixedPages:
    return FixedPages(pages, processor.tokenizer.eos_token_id)


def folder_at(path: Path, name: str) -> RunFolder:
    return RunFolder(path, RunSpec(kind="train", arguments={"name": name}))


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("pattern", ["SLLL", "F"])
def test_a_step_is_the_loops(pattern: str, pages: PageSet, processor: Any, make_model: Any, tmp_path: Path) -> None:
    ours, theirs = (make_model(pattern, depth=4) for _ in range(2))
    order = pages.order(0, ARGUMENTS.batch_size)
    theirs.model.visual.requires_grad_(False)
    with folder_at(tmp_path, "loop") as folder:
        train(AnswerLoss(theirs), lambda step: pages.batches(order(step), 2), ARGUMENTS, folder, pages.key)
        expected = folder.rows("metrics.jsonl")
    with folder_at(tmp_path, "fixed") as folder:
        training = FixedTraining(ours, fixed(pages, processor), ARGUMENTS, folder, pages.key)
        (result,) = side_by_side([training.run()])
        found = folder.rows("metrics.jsonl")
    assert result.status == "ok"
    for mine, other in zip(found, expected, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert mine["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-3)
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mixer", mixer_names())
def test_a_step_looks_at_no_value(mixer: str, pages: PageSet, processor: Any, make_model: Any) -> None:
    """A graph cannot ask the device for a number; tensors that have none show that the step does not."""
    model = make_model("SL", mixer)
    FixedTraining(model, fixed(pages, processor), ARGUMENTS, folder_at(Path("unused"), "none"), "key")
    batch = fixed(pages, processor).batch(torch.arange(4))
    nothing = FixedBatch(*(tensor.to("meta") for tensor in batch))
    model.to("meta").train()
    answer_loss(model, nothing).backward()
    assert all(p.grad is not None for p in model.model.language_model.layers[1].parameters())


def test_exact_answers_are_those_of_greedy_decoding(pages: PageSet, processor: Any, make_model: Any) -> None:
    model = make_model("SL")
    ready = fixed(pages, processor)
    training = FixedTraining(model, ready, ARGUMENTS, folder_at(Path("unused"), "none"), "key")
    training.rate.fill_(4e-3)
    found: list[bool] = []
    # Until it knows some pages: a model that knows all or nothing would show no difference.
    for step in range(200):
        training.indices.copy_(training.order(step))
        training._step()
        if step % 5 == 4 and any(found := exact_answers(model.eval(), ready, batch_size=3).tolist()):
            break
    assert 0 < sum(found) < len(found)
    end = processor.tokenizer.eos_token_id
    for index, is_right in enumerate(found):
        start, stop = pages.starts[index : index + 2].tolist()
        labels = pages.tensors["labels"][start:stop]
        first = int((labels != -100).nonzero()[0])
        answer = labels[first : int((labels == end).nonzero()[0]) + 1].tolist()
        batch = pages.batch(torch.tensor([index])).inputs
        seen = batch["input_ids"] == model.config.image_token_id
        embeds = model.get_input_embeddings()(batch["input_ids"])
        embeds[seen] = batch["image_features"].float()
        embeds, positions, written = embeds[:, :first], batch["position_ids"][:, :, :first], []
        while len(written) < len(answer):
            logits = model.lm_head(model.model.language_model(inputs_embeds=embeds, position_ids=positions)[0][:, -1])
            written.append(int(logits.argmax()))
            embeds = torch.cat([embeds, model.get_input_embeddings()(logits.argmax(-1, keepdim=True))], dim=1)
            following = pages.tensors["position_ids"][:, start + first + len(written) - 1]
            positions = torch.cat([positions, following.view(3, 1, 1)], dim=-1)
        assert (written == answer) == is_right, index
    page = generate_page("documents", seed=0, index=0, split="train", level=1)
    assert processor.tokenizer.decode(answer_of(pages, 0, end)) == page.questions[0].answers[0]


def answer_of(pages: PageSet, index: int, end: int) -> list[int]:
    labels = pages.tensors["labels"][pages.starts[index] : pages.starts[index + 1]]
    kept = labels[labels != -100].tolist()
    return kept[: kept.index(end)]


def test_a_run_goes_on_from_its_checkpoint(pages: PageSet, processor: Any, make_model: Any, tmp_path: Path) -> None:
    arguments = ARGUMENTS.model_copy(update={"checkpoint_every_seconds": 1e-9})
    ready, whole, cut = fixed(pages, processor), make_model("SL"), make_model("SL")
    with folder_at(tmp_path, "whole") as folder:
        side_by_side([FixedTraining(whole, ready, arguments, folder, pages.key).run()])
    with folder_at(tmp_path, "cut") as folder:
        begun = FixedTraining(cut, ready, arguments, folder, pages.key).run()
        next(begun)
        next(begun)
        again = make_model("SL", seed=1)
        side_by_side([FixedTraining(again, ready, arguments, folder, pages.key).run()])
        assert [row["step"] for row in folder.rows("metrics.jsonl")] == [1, 2, 3, 4]
    torch.testing.assert_close(weights(again), weights(whole))


def test_runs_side_by_side_are_runs_alone_and_a_divergence_ends_only_its_own(
    pages: PageSet, processor: Any, make_model: Any, tmp_path: Path
) -> None:
    ready, probed = fixed(pages, processor), []
    alone, together, wild = (make_model("SL") for _ in range(3))
    with folder_at(tmp_path, "alone") as folder:
        side_by_side([FixedTraining(alone, ready, ARGUMENTS, folder, pages.key).run()])
    broken = ARGUMENTS.model_copy(update={"diverged_at": 1e-3})
    with folder_at(tmp_path, "a") as first, folder_at(tmp_path, "b") as second:
        runs = [
            FixedTraining(wild, ready, broken, first, pages.key),
            FixedTraining(together, ready, ARGUMENTS, second, pages.key, probe=probed.append, probe_every=3),
        ]
        results = side_by_side(run.run() for run in runs)
    assert [result.status for result in results] == ["diverged", "ok"]
    assert [result.steps for result in results] == [1, 4]
    assert probed == [3, 4]
    torch.testing.assert_close(weights(together), weights(alone), rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("mixer", mixer_names())
def test_a_captured_step_is_the_eager_one(
    mixer: str, pages: PageSet, processor: Any, make_model: Any, tmp_path: Path
) -> None:
    on_gpu = PageSet(pages.tensors, new_model(get_preset("tiny"), 0).config.image_token_id, pages.key, "cuda")
    ready, found = fixed(on_gpu, processor), []
    for captured in (True, False):
        model = make_model("SLLL", mixer, depth=4).to("cuda")
        with folder_at(tmp_path, f"{mixer}-{captured}") as folder:
            training = FixedTraining(model, ready, ARGUMENTS, folder, pages.key)
            training.captured = captured
            with nullcontext() if captured else uncompiled():
                side_by_side([training.run()])
            found.append((weights(model), [row["loss"] for row in folder.rows("metrics.jsonl")]))
    # Four steps of AdamW multiply what rounding differs by: on an H200 by up to 4e-4 (HGRN-2), most by less than 1e-4.
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-3)
    for name, captured_weight in found[0][0].items():
        # AdamW divides by a gradient's own size, so one that is nothing but rounding may go either way.
        far = (captured_weight - found[1][0][name]).abs() > 1e-4 + 1e-3 * found[1][0][name].abs()
        assert far.double().mean() < 1e-3, name


@pytest.mark.slow
@pytest.mark.parametrize("mixer", mixer_names())
def test_compiled_layers_compute_what_the_layers_do(
    mixer: str, pages: PageSet, processor: Any, make_model: Any
) -> None:
    # What another case compiled would be found again.
    torch._dynamo.reset()
    model = make_model("SL", mixer).train()
    batch = fixed(pages, processor).batch(torch.arange(4))

    def loss_and_gradients() -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        loss = answer_loss(model, batch)
        loss.backward()
        return loss.item(), [p.grad.clone() for p in model.model.language_model.parameters()]

    loss, expected = loss_and_gradients()
    compile_layers(model)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compiled_loss, found = loss_and_gradients()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 2
    assert compiled_loss == pytest.approx(loss, rel=1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    with uncompiled():
        assert loss_and_gradients()[0] == loss
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 2


def test_without_a_compiler_steps_are_captured_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/bin/" + name if name == "clang" else None)
    assert can_compile() == (find_spec("triton") is not None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not can_compile()
