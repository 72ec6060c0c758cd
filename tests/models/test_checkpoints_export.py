"""What is written: taken by transformers and PEFT, whole, never in the place of something else, nothing left over."""

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
from infinitevl_bench.models.checkpoints import load_model, new_folder, save_model
from infinitevl_bench.models.convert import save_infinite_vl
from infinitevl_bench.models.hybrid import HybridVLForConditionalGeneration

WRITER = """
import sys
from pathlib import Path
from infinitevl_bench.scratch import ScratchFolder
folder = ScratchFolder(beside=Path(sys.argv[1]))
(folder.path / "model.safetensors").write_bytes(b"half")
print(folder.path, flush=True)
sys.stdin.read()
"""
# What `new_folder` writes into, without the ten seconds that importing models takes each of three processes.


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
