"""Weights are known by their bytes, wherever they lie; names stand for what is not here."""

from pathlib import Path

import pytest
from infinitevl_bench.errors import UserError
from infinitevl_bench.models.fingerprint import hash_of, weights_hash
from infinitevl_bench.models.shipped import SHIPPED


def test_a_run_and_its_model_folder_are_the_same_weights(tmp_path: Path) -> None:
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    before = weights_hash(str(model))
    assert before == weights_hash(str(tmp_path / "run"))
    (model / "model.safetensors").write_bytes(b"other weights")
    assert weights_hash(str(model)) != before


def test_names_stand_for_what_is_not_here() -> None:
    assert weights_hash("tiny") == "preset:tiny"
    assert weights_hash("Qwen/Some-Model") is None
    hashes = {weights_hash(name) for name in SHIPPED}
    assert len(hashes) == len(SHIPPED)
    assert all(one and "/" not in one for one in hashes)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*gone"):
        hash_of(tmp_path / "gone")
