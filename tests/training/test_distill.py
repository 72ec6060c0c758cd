"""The two distillation losses against their definitions, what trains in them, and what they refuse."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.registry import mixer_names
from infinitevl_bench.training import batch as batch_module
from infinitevl_bench.training.batch import PADDING, TEXT, Batch, hidden_states
from infinitevl_bench.training.distill import LayerDistillation, LogitDistillation, share_frozen, train_mixers

Pair = Callable[..., tuple[Any, Any]]
MakeBatch = Callable[..., Batch]


def layer_outputs(model: Any, batch: Batch) -> list[torch.Tensor]:
    """Input of the first layer and outputs of all, by a hook on each."""
    seen: list[torch.Tensor] = []
    layers = model.model.language_model.layers
    hooks = [layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))]
    hooks += [layer.register_forward_hook(lambda *args: seen.append(args[2])) for layer in layers]
    hidden_states(model, batch.inputs)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("mixer", mixer_names())
def test_each_layer_is_compared_on_the_teachers_own_input(pair: Pair, make_batch: MakeBatch, mixer: str) -> None:
    student, teacher = pair("SLLF", mixer, depth=4)
    train_mixers(student)
    batch = make_batch()
    batch.kinds[1, 9:] = PADDING
    objective = LayerDistillation(student, teacher).train()
    loss = objective(*batch) / objective.count(batch)
    loss.backward()
    with torch.no_grad():
        states = layer_outputs(teacher, batch)
    text = student.model.language_model
    real = batch.kinds != PADDING
    expected = torch.zeros(())
    rotary = text.rotary_emb(states[0], batch.inputs["position_ids"])
    for index in (1, 2):
        output = text.layers[index](states[index], position_embeddings=rotary)
        expected = expected + F.mse_loss(output[real], states[index + 1][real]) * 1000 / 4
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    gradients = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
    parameters = [p for name, p in student.named_parameters() if name in gradients]
    for (name, ours), theirs in zip(
        gradients.items(), torch.autograd.grad(expected, parameters, allow_unused=True), strict=True
    ):
        torch.testing.assert_close(
            ours, torch.zeros_like(ours) if theirs is None else theirs, rtol=1e-4, atol=1e-6, msg=name
        )


def test_only_new_mixers_train_in_layer_distillation(pair: Pair, make_batch: MakeBatch) -> None:
    student, teacher = pair("SLLF", depth=4)
    train_mixers(student)
    objective = LayerDistillation(student, teacher).train()
    objective(*make_batch()).backward()
    moved = {name for name, p in objective.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {name.split(".self_attn.")[0] for name in moved} == {
        f"model.model.language_model.layers.{index}" for index in (1, 2)
    }
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())


def test_layer_distillation_keeps_no_activation_but_those_between_layers(pair: Pair, make_batch: MakeBatch) -> None:
    student, teacher = pair("SLLL", depth=4)
    train_mixers(student)
    objective, batch = LayerDistillation(student, teacher).train(), make_batch(rows=2, length=64)
    parameters = {p.data_ptr() for p in objective.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        objective(*batch)
    between_layers = 2 * 64 * 128 * 4
    assert sum(kept.values()) <= 4 * between_layers


@pytest.mark.parametrize("learnt_on", ["text", "answers"])
@pytest.mark.parametrize("chunk", [1024, 5], ids=["whole", "in chunks"])
def test_the_divergence_is_the_definitions(
    pair: Pair, make_batch: MakeBatch, learnt_on: Any, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module.chunked_sum, "__kwdefaults__", {"size": chunk})
    student, teacher = pair()
    batch = make_batch()
    objective = LogitDistillation(student, teacher, learnt_on=learnt_on).train()
    loss = objective(*batch) / objective.count(batch)
    loss.backward()
    ours = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    student.zero_grad()
    logits, wanted = (model.lm_head(hidden_states(model, batch.inputs)) for model in (student, teacher))
    p, q = (F.softmax(x[:, :-1] / 2, dim=-1) for x in (wanted, logits))
    divergence = (p * (p.log() - q.log())).sum(-1)
    learnt = batch.labels[:, 1:] != -100 if learnt_on == "answers" else batch.kinds[:, 1:] == TEXT
    expected = 4 * divergence[learnt].mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-7)
    expected.backward()
    for name, parameter in student.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(pair: Pair, make_batch: MakeBatch) -> None:
    student, teacher = pair("F")
    assert LogitDistillation(student, teacher)(*make_batch()).abs() < 1e-4


def test_pictures_are_never_predicted(pair: Pair, make_batch: MakeBatch) -> None:
    batch = make_batch(rows=1, length=12)
    # Twelve tokens: the first is predicted by nothing, three stand for a picture, four are an answer.
    assert LogitDistillation(*pair()).count(batch) == 8
    assert LogitDistillation(*pair(), learnt_on="answers").count(batch) == 4


def test_frozen_weights_are_held_once(pair: Pair, make_batch: MakeBatch) -> None:
    student, teacher = pair()
    train_mixers(student)
    before = LayerDistillation(student, teacher)(*make_batch())
    frozen = sum(p.numel() * 4 for p in student.parameters() if not p.requires_grad)
    assert share_frozen(student, teacher) == frozen
    assert share_frozen(student, teacher) == 0
    assert LayerDistillation(student, teacher)(*make_batch()) == before


@pytest.mark.parametrize(("change", "words"), [({"depth": 4}, "num_hidden_layers 4, the student 2")])
def test_a_teacher_of_another_geometry_is_refused(
    make_model: Callable[..., Any], change: dict[str, int], words: str
) -> None:
    for objective in (LayerDistillation, LogitDistillation):
        with pytest.raises(UserError, match=words):
            objective(make_model("SL"), make_model("F", **change))
