"""Checkpoints of every format: loaded bit by bit whatever their configuration says."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models import loading
from infinitevl_bench.models.checkpoints import load_model, save_model
from infinitevl_bench.models.convert import save_infinite_vl
from infinitevl_bench.models.hybrid import HybridVLForConditionalGeneration
from infinitevl_bench.models.processor import load_processor
from infinitevl_bench.models.published import KEY_MAPPING, PIXEL_LIMITS, our_name, their_name
from infinitevl_bench.models.registry import mixer_names
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration

# The names of one published Gated DeltaNet layer and of one attention layer, as the paper's authors released them.
GATED_DELTANET = {
    *(f"{name}_proj.weight" for name in "qkvabgo"), *(f"{name}_conv1d.weight" for name in "qkv"), "A_log", "dt_bias",
    "o_norm.weight",
}  # fmt: skip
ATTENTION = {*(f"{name}_proj.weight" for name in "qkvo"), *(f"{name}_proj.bias" for name in "qkv")}


def edited(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "config.json"
    body = json.loads(path.read_text())
    edit(body)
    path.write_text(json.dumps(body))


def assert_same(ours: Any, other: Any) -> None:
    left, right = ours.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def test_the_released_names_are_exactly_the_published_ones(published: tuple[Path, Any]) -> None:
    names = set(load_file(published[0] / "model.safetensors"))
    for layer in range(8):
        prefix = f"model.layers.{layer}.self_attn."
        own = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        assert own == (ATTENTION if layer % 4 == 0 else GATED_DELTANET)
    assert {"model.embed_tokens.weight", "model.norm.weight", "visual.patch_embed.proj.weight"} <= names
    assert "lm_head.weight" not in names
    body = json.loads((published[0] / "config.json").read_text())
    assert body["model_type"] == "infinite_vl"
    assert body["architectures"] == ["InfiniteVLQwen2_5_VLForConditionalGeneration"]
    assert "auto_map" not in body


def all_full(body: dict[str, Any]) -> None:
    body["text_config"]["layer_types"] = ["full_attention"] * 8


def no_types(body: dict[str, Any]) -> None:
    del body["text_config"]["layer_types"]


def flat(body: dict[str, Any]) -> None:
    """As the released repository's own config.json has it: no text_config, no layer types, code of its own."""
    text = body.pop("text_config")
    text.pop("layer_types")
    text.pop("model_type")
    body |= {name: value for name, value in text.items() if name not in body}
    body["auto_map"] = {"AutoModel": "modeling_infinitevl.InfiniteVLQwen2_5_VLForConditionalGeneration"}
    body["use_cache"] = False


def called_qwen(body: dict[str, Any]) -> None:
    all_full(body)
    body["model_type"] = "qwen2_5_vl"


@pytest.mark.parametrize("edit", [None, all_full, no_types, flat, called_qwen], ids=lambda e: e and e.__name__)
def test_layer_types_come_from_the_tensors(
    edit: Any, published: tuple[Path, Any], picture_prompt: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    folder, model = published
    if edit:
        edited(folder, edit)
    with caplog.at_level(logging.WARNING, logger="infinitevl_bench"):
        loaded = HybridVLForConditionalGeneration.from_pretrained(folder)
    assert ("layer types are taken from the tensors: SLLLSLLL" in caplog.text) == bool(edit)
    text = loaded.config.text_config
    assert (text.pattern, text.mixer, text.sliding_window) == ("SLLL", "gated_deltanet", 6)
    assert text.use_cache
    assert_same(model, loaded)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(model.generate(**picture_prompt, **options), loaded.generate(**picture_prompt, **options))
    loaded.save_pretrained(folder.parent / "again")
    assert_same(model, HybridVLForConditionalGeneration.from_pretrained(folder.parent / "again"))
    save_infinite_vl(loaded, None, folder.parent / "back", "")
    theirs, back = (load_file(one / "model.safetensors") for one in (folder, folder.parent / "back"))
    assert theirs.keys() == back.keys()
    assert all(torch.equal(tensor, back[name]) for name, tensor in theirs.items())


@pytest.mark.parametrize("shard_bytes", [20_000, 100_000])
def test_shards_are_one_checkpoint(shard_bytes: int, tmp_path: Path, make_model: Callable[..., Any]) -> None:
    model = make_model("SLLL", depth=8)
    save_infinite_vl(model, None, tmp_path / "shards", "", shard_bytes=shard_bytes)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert_same(model, HybridVLForConditionalGeneration.from_pretrained(tmp_path / "shards"))
    save_model(model, None, tmp_path / "ours", "", shard_size="30KB")
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 2
    assert_same(model, HybridVLForConditionalGeneration.from_pretrained(tmp_path / "ours"))


@pytest.mark.parametrize("head", ["left out", "there"])
@pytest.mark.parametrize("names", ["as published", "as transformers 5 writes them"])
def test_qwens_own_checkpoints_load(
    names: str, head: str, tmp_path: Path, make_model: Callable[..., Any], picture_prompt: dict[str, torch.Tensor]
) -> None:
    model = make_model("F")
    body = model.config.to_dict()
    for part in (body, body["text_config"], body["vision_config"]):
        part.pop("model_type")
    from transformers import Qwen2_5_VLConfig

    qwen = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**body)).eval()
    qwen.load_state_dict(model.state_dict())
    qwen.save_pretrained(tmp_path)
    tensors = {our_name(name): tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    tensors.pop("lm_head.weight", None)
    if head == "there":
        tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"].clone()
    renamed = {their_name(name) if names == "as published" else name: tensor for name, tensor in tensors.items()}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = HybridVLForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.config.text_config.pattern == "F"
    with torch.no_grad():
        assert torch.equal(loaded(**picture_prompt).logits, qwen(**picture_prompt).logits)


def test_names_go_both_ways(make_model: Callable[..., Any]) -> None:
    import re

    for name in make_model("SLLL").state_dict():
        assert our_name(their_name(name)) == name == our_name(name)
        mapped = their_name(name)
        for pattern, replacement in KEY_MAPPING.items():
            mapped = re.sub(pattern, replacement, mapped)
        assert mapped == name


@pytest.mark.parametrize("mixer", mixer_names())
def test_our_own_checkpoints_survive_a_wrong_configuration(
    mixer: str, tmp_path: Path, make_model: Callable[..., Any]
) -> None:
    model = make_model("SLLL", depth=8, mixer=mixer)
    model.save_pretrained(tmp_path)
    edited(tmp_path, all_full)
    loaded = HybridVLForConditionalGeneration.from_pretrained(tmp_path)
    assert (loaded.config.text_config.pattern, loaded.config.text_config.mixer) == ("SLLL", mixer)
    assert_same(model, loaded)


def test_options_of_the_mixer_are_read_off_the_tensors(tmp_path: Path, make_model: Callable[..., Any]) -> None:
    model = make_model("SLLL", expand_v=1, conv_size=3, gate=False)
    save_infinite_vl(model, None, tmp_path / "narrow", "")
    loaded = HybridVLForConditionalGeneration.from_pretrained(tmp_path / "narrow")
    assert loaded.config.text_config.mixer_args == {"expand_v": 1, "conv_size": 3, "gate": False}
    assert_same(model, loaded)


def test_a_hub_gives_weights_and_no_code(published: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot(reference: str, **options: Any) -> str:
        asked.update(options, reference=reference)
        return str(published[0])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    found = loading.open_checkpoint("hustvl/InfiniteVL", revision="main")
    assert (asked["reference"], asked["revision"]) == ("hustvl/InfiniteVL", "main")
    assert not any(pattern.endswith((".py", ".bin", ".pt", "*")) for pattern in asked["allow_patterns"])
    assert found.format == "infinite_vl"

    def offline(reference: str, **options: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(UserError, match=r"cannot be fetched from the hub \(no network\); give a folder"):
        loading.open_checkpoint("hustvl/InfiniteVL")


def test_a_foreign_model_sees_pictures_as_the_paper_does(tmp_path: Path) -> None:
    loaded = load_model("tiny")
    save_infinite_vl(loaded.model, loaded.processor, tmp_path / "published", "")
    save_model(loaded.model, loaded.processor, tmp_path / "ours", "")
    sizes = {
        name: dict(load_model(str(tmp_path / name)).processor.image_processor.size) for name in ("published", "ours")
    }
    assert (sizes["published"]["shortest_edge"], sizes["published"]["longest_edge"]) == PIXEL_LIMITS
    assert sizes["ours"] == dict(load_processor().image_processor.size)
    chosen = load_model(str(tmp_path / "published"), min_pixels=3136, max_pixels=6272).processor.image_processor.size
    assert (chosen["shortest_edge"], chosen["longest_edge"]) == (3136, 6272)
