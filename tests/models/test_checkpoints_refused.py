"""Checkpoints that are damaged or do not fit what they say: refused in one line that names tensor or file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.models import loading
from infinitevl_bench.models.checkpoints import load_model
from infinitevl_bench.models.convert import save_infinite_vl
from infinitevl_bench.models.hybrid import HybridVLForConditionalGeneration
from safetensors.torch import load_file, save_file

Edit = Callable[[Path, dict[str, Any], dict[str, torch.Tensor]], None]


def without(name: str) -> Edit:
    def edit(folder: Path, body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        del tensors[name]

    return edit


def with_surplus(folder: Path, body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.1.self_attn.extra.weight"] = torch.zeros(2)


def with_shape(folder: Path, body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.2.mlp.up_proj.weight"] = torch.zeros(3, 5)


def with_depth(folder: Path, body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    body["text_config"]["num_hidden_layers"] = 12


def with_type(folder: Path, body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    body["model_type"] = "llava"


def with_value(part: str, **changes: Any) -> Edit:
    def edit(folder: Path, body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        body[part] |= changes

    return edit


MISFITS: dict[str, tuple[Edit, str]] = {
    "missing": (without("model.layers.1.self_attn.a_proj.weight"), r"layer 1 is neither attention nor Gated DeltaNet"),
    "missing norm": (without("model.norm.weight"), r"lacks model\.language_model\.norm\.weight"),
    "missing eye": (without("visual.patch_embed.proj.weight"), r"lacks model\.visual\.patch_embed\.proj\.weight"),
    "surplus": (with_surplus, r"also has model\.language_model\.layers\.1\.self_attn\.extra\.weight"),
    "shape": (with_shape, r"layers\.2\.mlp\.up_proj\.weight is \[3, 5\] and should be \[48, 32\]"),
    "depth": (with_depth, "says 12 layers, its tensors are those of 8"),
    "type of a field": (
        with_value("text_config", hidden_size="32"),
        r"config\.json describes no model \(Field 'hidden_size' expected int, got str .*\); mend it",
    ),
    "function": (with_value("text_config", hidden_act="no_such"), r"config\.json describes no model \(.*no_such"),
    "endless blocks": (with_value("vision_config", depth=10**9), r"says depth is 1000000000, and it has \d+ tensors"),
    "endless layers": (with_value("text_config", num_hidden_layers=10**9), "says num_hidden_layers is 1000000000"),
    "type": (with_type, "model_type is 'llava'; those that can be read: hybrid_vl, qwen2_5_vl, infinite_vl"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_what_does_not_fit_is_named(kind: str, published: tuple[Path, Any]) -> None:
    folder, _ = published
    edit, words = MISFITS[kind]
    tensors, body = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    edit(folder, body, tensors)
    (folder / "config.json").write_text(json.dumps(body))
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=words) as caught:
        HybridVLForConditionalGeneration.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_cut_off_names_what_it_lost(published: tuple[Path, Any]) -> None:
    folder, _ = published
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for size, words in (
        (len(whole) - 9, r"is cut off after .* bytes, which loses \S+"),
        (100, "cut off within its header"),
        (0, "cut off within its header"),
    ):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=words):
            HybridVLForConditionalGeneration.from_pretrained(folder)
    path.write_bytes((40).to_bytes(8, "little") + b"{" * 64)
    with pytest.raises(UserError, match="no safetensors file"):
        HybridVLForConditionalGeneration.from_pretrained(folder)


def test_missing_files_are_named(tmp_path: Path, make_model: Callable[..., Any]) -> None:
    save_infinite_vl(make_model("SLLL"), None, tmp_path / "shards", "", shard_bytes=20_000)
    shard = sorted((tmp_path / "shards").glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(UserError, match=rf"{shard.name} is missing, and with it visual\.\S+"):
        HybridVLForConditionalGeneration.from_pretrained(tmp_path / "shards")
    index = tmp_path / "shards" / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"x": "../x.safetensors"}}')
    with pytest.raises(UserError, match="outside of its folder"):
        HybridVLForConditionalGeneration.from_pretrained(tmp_path / "shards")
    for name, words in (("[" * 3000, "is no index of shards"), (f'"{"x" * 300}"', "that cannot be read")):
        index.write_text(f'{{"weight_map": {{"x": {name}}}}}')
        with pytest.raises(UserError, match=words):
            HybridVLForConditionalGeneration.from_pretrained(tmp_path / "shards")
    index.unlink()
    (tmp_path / "shards" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is a pickle and is never read"):
        HybridVLForConditionalGeneration.from_pretrained(tmp_path / "shards")
    for damage, words in (("{", "cannot be read"), ("[]", "is no configuration"), (None, r"no config\.json in")):
        config = tmp_path / "shards" / "config.json"
        config.unlink() if damage is None else config.write_text(damage)
        with pytest.raises(UserError, match=words):
            HybridVLForConditionalGeneration.from_pretrained(tmp_path / "shards")


@pytest.mark.parametrize("reference", ["", " "])
def test_a_name_that_is_empty_is_not_the_current_folder(reference: str) -> None:
    with pytest.raises(UserError, match="the name of a model is empty"):
        load_model(reference)


@pytest.mark.parametrize("fault", [NameError("name 'widht' is not defined"), ImportError("no triton"), MemoryError()])
def test_a_fault_of_ours_is_not_taken_for_a_damaged_file(
    fault: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_model: Callable[..., Any]
) -> None:
    def fails(config: object) -> None:
        raise fault

    make_model("SL").save_pretrained(tmp_path)
    assert loading.open_checkpoint(tmp_path).tensors
    monkeypatch.setattr(loading, "expected_shapes", fails)
    with pytest.raises(type(fault)):
        loading.open_checkpoint(tmp_path)
