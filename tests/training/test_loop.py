"""The loop learns, resumes bit for bit, records a divergence; its checkpoint refuses what does not fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.checkpoints import new_model
from infinitevl_bench.models.presets import get_preset
from infinitevl_bench.records import RunFolder, RunSpec
from infinitevl_bench.training.batch import TEXT, AnswerLoss, Batch
from infinitevl_bench.training.checkpoint import FILE_NAME, load_checkpoint, save_checkpoint
from infinitevl_bench.training.loop import TrainArguments, learning_rate_at, parameter_groups, train
from torch import nn

SPEC = RunSpec(kind="train", arguments={})


class TinyLanguageModel(nn.Module):
    """Just enough of a model: ``model`` gives hidden states, ``lm_head`` logits, with dropout to exercise the RNG."""

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(16, 8)
            self.mix = nn.Linear(8, 8)
            self.dropout = nn.Dropout(0.1)

        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> tuple[torch.Tensor]:
            return (self.dropout(torch.tanh(self.mix(self.embed(input_ids)))),)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = self.Body()
        self.lm_head = nn.Linear(8, 16)


def batches_at(step: int) -> list[Batch]:
    ids = torch.randint(0, 16, (4, 6), generator=torch.Generator().manual_seed(step))
    labels = torch.cat([torch.full((4, 1), -100), (ids[:, :-1] * 3 + 1) % 16], dim=1)
    return [Batch({"input_ids": ids}, labels, torch.full_like(ids, TEXT))]


def arguments(**changes: Any) -> TrainArguments:
    return TrainArguments(**{"steps": 60, "batch_size": 4, "learning_rate": 0.02, "log_every": 10} | changes)


class StoppedError(Exception):
    pass


def test_it_learns_and_logs(tmp_path: Path) -> None:
    with RunFolder(tmp_path, SPEC) as folder:
        result = train(AnswerLoss(TinyLanguageModel()), batches_at, arguments(steps=300), folder, "data")
        rows = folder.rows("metrics.jsonl")
    assert result.status == "ok"
    assert [row["step"] for row in rows] == list(range(10, 301, 10))
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert result.loss == rows[-1]["loss"]
    assert all(row["tokens_per_second"] > 0 for row in rows)


def test_an_interrupted_run_ends_with_the_same_weights_and_curve(tmp_path: Path) -> None:
    def run(root: Path, interruptions: list[int]) -> tuple[dict[str, torch.Tensor], list[float]]:
        with RunFolder(root, SPEC) as folder:
            for stop in interruptions:

                def stopping(step: int, stop: int = stop) -> list[Batch]:
                    if step == stop:
                        raise StoppedError
                    return batches_at(step)

                with pytest.raises(StoppedError):
                    train(
                        AnswerLoss(TinyLanguageModel()),
                        stopping,
                        arguments(checkpoint_every_seconds=1e-9),
                        folder,
                        "data",
                    )
            model = TinyLanguageModel()
            train(AnswerLoss(model), batches_at, arguments(checkpoint_every_seconds=1e-9), folder, "data")
            return model.state_dict(), [row["loss"] for row in folder.rows("metrics.jsonl")]

    weights, losses = run(tmp_path / "whole", [])
    weights_again, losses_again = run(tmp_path / "broken", [25, 41])
    assert losses == losses_again
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


def test_a_divergence_is_a_result_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    class Exploding(TinyLanguageModel):
        steps = 0

        def __init__(self) -> None:
            super().__init__()
            self.lm_head.register_forward_hook(self.explode)

        def explode(self, *_: Any) -> torch.Tensor | None:
            self.steps += 1
            return _[2] * float("nan") if self.steps > 30 else None

    with RunFolder(tmp_path, SPEC) as folder:
        result = train(AnswerLoss(Exploding()), batches_at, arguments(checkpoint_every_seconds=1e-9), folder, "data")
        assert result.status == "diverged"
        assert result.steps == 40
        model = AnswerLoss(TinyLanguageModel())
        optimizer = torch.optim.AdamW([{"params": [p]} for p in model.parameters()])
        assert load_checkpoint(folder.path / FILE_NAME, model, optimizer, "data") == 30
        assert all(p.isfinite().all() for p in model.parameters())
        assert folder.rows("metrics.jsonl")[-1]["loss"] == arguments().diverged_at


def test_the_schedule_rises_and_falls() -> None:
    args = arguments(steps=100, warmup=0.1)
    rates = [learning_rate_at(step, args) for step in range(100)]
    assert max(rates) == pytest.approx(args.learning_rate)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[0] < rates[5] < rates[9]
    assert rates[20] > rates[50] > rates[99]
    assert rates[99] == pytest.approx(args.learning_rate * args.final_rate, rel=0.1)


def other_width(model: nn.Module) -> nn.Module:
    model.lm_head = nn.Linear(8, 17)
    return model


def other_name(model: nn.Module) -> nn.Module:
    model.second_head = nn.Linear(2, 2)
    return model


@pytest.mark.parametrize(
    ("change", "data", "words"),
    [
        (other_width, "data", "lm_head"),
        (other_name, "data", "second_head"),
        (lambda model: model, "other", "other data"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    tmp_path: Path, change: Callable[[nn.Module], nn.Module], data: str, words: str
) -> None:
    model = TinyLanguageModel()
    save_checkpoint(tmp_path / FILE_NAME, model, torch.optim.AdamW(model.parameters()), 7, "data")
    other = change(TinyLanguageModel())
    with pytest.raises(UserError, match=words):
        load_checkpoint(tmp_path / FILE_NAME, other, torch.optim.AdamW(other.parameters()), data)


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: bytes | None) -> None:
    model = TinyLanguageModel()
    optimizer = torch.optim.AdamW(model.parameters())
    save_checkpoint(tmp_path / FILE_NAME, model, optimizer, 7, "data")
    whole = (tmp_path / FILE_NAME).read_bytes()
    (tmp_path / FILE_NAME).write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(tmp_path / FILE_NAME, model, optimizer, "data")


def test_groups_keep_the_order_of_the_parameters_and_spare_vectors_the_decay() -> None:
    model = new_model(get_preset("tiny"), 0).model.language_model
    model.layers[0].requires_grad_(False)
    groups = parameter_groups(model, 0.1)
    listed = [parameter for group in groups for parameter in group["params"]]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert [id(one) for one in listed] == [id(one) for one in trained]
    assert len(groups) < len(trained)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            spared = parameter.ndim < 2 or name.endswith(("A_log", "dt_bias"))
            assert group["weight_decay"] == (0.0 if spared else 0.1), name
