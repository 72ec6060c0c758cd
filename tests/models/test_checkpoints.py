"""Checkpoints of every format: loaded bit by bit whatever their configuration says, and refused by tensor names."""

import json
import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitevl_bench.errors import UserError
from infinitevl_bench.files import mode
from infinitevl_bench.models import loading
from infinitevl_bench.models.checkpoints import load_model, new_folder, save_model
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

WRITER = """
import sys
from pathlib import Path
from infinitevl_bench.models.checkpoints import new_folder
with new_folder(Path(sys.argv[1])) as folder:
    (folder / "model.safetensors").write_bytes(b"half")
    print(folder, flush=True)
    sys.stdin.read()
"""

Edit = Callable[[Path, dict[str, Any], dict[str, torch.Tensor]], None]


@pytest.fixture
def published(tmp_path: Path, make_model: Callable[..., Any]) -> tuple[Path, Any]:
    """A checkpoint in the released format, and the model that is in it."""
    model = make_model("SLLL", depth=8)
    save_infinite_vl(model, None, tmp_path / "published", "")
    return tmp_path / "published", model


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


@pytest.mark.parametrize("reference", ["", " "])
def test_a_name_that_is_empty_is_not_the_current_folder(reference: str) -> None:
    with pytest.raises(UserError, match="the name of a model is empty"):
        load_model(reference)


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


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    loaded, folder = load_model("tiny"), tmp_path_factory.mktemp("exported") / "tiny"
    save_model(loaded.model, loaded.processor, folder, "Random weights, for a test.")
    return folder


def test_transformers_own_entry_points_take_our_checkpoints(exported: Path) -> None:
    from PIL import Image
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, pipeline

    assert type(AutoConfig.from_pretrained(exported)).__name__ == "HybridVLConfig"
    assert type(AutoProcessor.from_pretrained(exported)).__name__ == "Qwen2_5_VLProcessor"
    model = AutoModelForImageTextToText.from_pretrained(exported)
    assert isinstance(model, HybridVLForConditionalGeneration)
    ask = pipeline("image-text-to-text", model=str(exported), device="cpu")
    content = [{"type": "image", "image": Image.new("RGB", (56, 56))}, {"type": "text", "text": "what is it?"}]
    said = ask(text=[{"role": "user", "content": content}], max_new_tokens=4, return_full_text=False)
    assert isinstance(said[0]["generated_text"], str)


def test_peft_tunes_and_loads_our_checkpoints(exported: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    base = HybridVLForConditionalGeneration.from_pretrained(exported)
    tuned = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "g_proj"], init_lora_weights=False))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = tuned.eval()(input_ids=ids).logits
    tuned.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(
        HybridVLForConditionalGeneration.from_pretrained(exported), tmp_path / "adapter"
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, expected)
        merged = again.merge_and_unload()
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)


def test_an_export_is_whole_has_a_card_and_never_replaces(
    exported: Path, tmp_path: Path, make_model: Callable[..., Any]
) -> None:
    card = (exported / "README.md").read_text()
    for words in ("Random weights, for a test.", "`SLLL`", "gated_deltanet", "library_name: transformers"):
        assert words in card
    folder = tmp_path / "taken"
    shutil.copytree(exported, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for save in (save_model, save_infinite_vl):
        with pytest.raises(UserError, match="exists already"):
            save(make_model("SLLL"), None, folder, "")
    with pytest.raises(UserError, match="the released code knows Gated DeltaNet only"):
        save_infinite_vl(make_model("SLLL", mixer="gla"), None, tmp_path / "new", "")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_what_a_killed_writer_left_goes_with_the_next_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    target, other = tmp_path / "model[1]", tmp_path / "model"
    earlier = tmp_path / ".model[1].12345678"
    earlier.mkdir()  # without a lock, nobody can say whose it is
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for folder in (target, target, other)
    ]
    try:
        killed, living, of_another = [
            Path(writer.stdout.readline().strip()) for writer in writers if writer.stdout is not None
        ]
        for writer in (writers[0], writers[2]):
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        assert killed.is_dir()
        with new_folder(target) as folder:
            (folder / "config.json").write_text("{}")
            assert not killed.parent.exists()
            assert (living / "model.safetensors").read_bytes() == b"half"
            assert of_another.is_dir()
        assert [path.name for path in target.iterdir()] == ["config.json"]
        assert target.stat().st_mode & 0o777 == mode(0o777)
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    with new_folder(other):
        pass
    assert sorted(path.name for path in tmp_path.iterdir() if path != living.parent) == [
        ".model[1].12345678", "model", "model[1]",
    ]  # fmt: skip


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
