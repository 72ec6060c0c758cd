"""What trains in the second and third stage, for every mixer, and that merged updates change nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.registry import mixer_names
from infinitevl_bench.records import RunFolder, RunSpec
from infinitevl_bench.training.batch import AnswerLoss, Batch, hidden_states
from infinitevl_bench.training.full_size import generated_sample
from infinitevl_bench.training.loop import TrainArguments, train
from infinitevl_bench.training.packed import pack_samples
from infinitevl_bench.training.sft import LoraArguments, add_lora, lora_targets, merge_lora, train_decoder


def test_stage_two_freezes_vision_encoder_and_head(
    make_model: Callable[..., Any], make_batch: Callable[..., Batch]
) -> None:
    model = make_model("SL")
    train_decoder(model)
    AnswerLoss(model)(*make_batch()).backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {name for name, _ in model.named_parameters() if ".layers." in name} <= moved
    assert not any("visual" in name or "lm_head" in name or "embed_tokens" in name for name in moved)
    assert "model.language_model.norm.weight" in moved


@pytest.mark.parametrize("with_lora", [False, True])
def test_under_checkpointing_the_frozen_tower_is_run_once(
    with_lora: bool, make_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = make_model("SL")
    if with_lora:
        add_lora(model, LoraArguments(rank=4, alpha=8), seed=0)
    else:
        train_decoder(model)
    batch = pack_samples([generated_sample(model.config, 64, 56, seed=0)], model.model.get_rope_index)
    runs = {"tower": 0, "layer": 0}
    seen = {"tower": model.model.visual.blocks[0].norm1, "layer": model.model.language_model.layers[0].input_layernorm}
    for name, module in seen.items():
        module.register_forward_hook(lambda *_, name=name: runs.update({name: runs[name] + 1}))
    arguments = TrainArguments(steps=1, batch_size=1, gradient_checkpointing=True)
    with RunFolder(tmp_path, RunSpec(kind="train", arguments={})) as folder:
        result = train(AnswerLoss(model), lambda step: [batch], arguments, folder, "generated")
    assert result.status == "ok"
    # What trains is computed again in the backward pass; what does not has none.
    assert runs == {"tower": 1, "layer": 2}


@pytest.mark.parametrize("mixer", mixer_names())
def test_lora_reaches_every_projection_of_every_mixer(mixer: str, make_model: Callable[..., Any]) -> None:
    model = make_model("SL", mixer)
    targets = lora_targets(model, rank=8)
    for layer in (0, 1):
        prefix = f"model.language_model.layers.{layer}."
        own = dict(model.get_submodule(f"{prefix}self_attn").named_children())
        for name in {f"{letter}_proj" for letter in "qkvo"} & own.keys():
            assert f"{prefix}self_attn.{name}" in targets
        assert {"v_proj", "o_proj"} <= own.keys()
        for name in ("gate", "up", "down"):
            assert f"{prefix}mlp.{name}_proj" in targets
    assert not any("visual" in name for name in targets)
    # From 128 channels to 4 heads: an update of rank 8 would hold more than the matrix.
    assert not any(name.endswith(("a_proj", "b_proj", "dt_proj")) for name in targets)


@pytest.mark.parametrize("mixer", mixer_names())
def test_merged_updates_are_the_model_that_was_trained(
    mixer: str, make_model: Callable[..., Any], make_batch: Callable[..., Batch]
) -> None:
    model, batch = make_model("SL", mixer), make_batch()
    names = list(model.state_dict())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tuner = add_lora(model, LoraArguments(rank=4, alpha=8), seed=0)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        AnswerLoss(model)(*batch).backward()
        optimizer.step()
    with torch.no_grad():
        expected = hidden_states(model, batch.inputs)
        merged = merge_lora(tuner)
        torch.testing.assert_close(hidden_states(merged, batch.inputs), expected, rtol=1e-4, atol=1e-4)
    assert list(merged.state_dict()) == names
    changed = {name for name, tensor in merged.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{name}.weight" for name in lora_targets(merged, 4)}


def test_a_rank_too_high_for_every_projection_is_refused(make_model: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="rank 500"):
        add_lora(make_model("SL"), LoraArguments(rank=500), seed=0)
