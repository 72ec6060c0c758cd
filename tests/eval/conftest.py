"""A small Qwen2.5-VL with random weights that answers in text, and pages drawn once."""

import contextlib
import io
import logging
import os
import random
import ssl
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def random_model() -> tuple[Any, Any]:
    """A model whose answers differ from page to page, and its processor."""
    import torch
    from infinitevl_bench.models.processor import load_processor
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    processor = load_processor()
    tokenizer = processor.tokenizer
    special = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "initializer_range": 0.5,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "window_size": 56,
            "fullatt_block_indexes": [0],
            "initializer_range": 0.5,
        },
        image_token_id=processor.image_token_id,
        video_token_id=processor.video_token_id,
        vision_start_token_id=special["vision_start"],
        vision_end_token_id=special["vision_end"],
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration(config).eval()
    # Without special tokens the answers are text; the first one after "user" is enough to tell pages apart.
    keep = tokenizer.eos_token_id
    model.generation_config.suppress_tokens = [token for token in tokenizer.all_special_ids if token != keep]
    return model, processor


def _process_state() -> dict[str, Any]:
    import numpy as np
    import torch
    from PIL import Image

    return {
        "tls": ssl._create_default_https_context,
        "environment": dict(os.environ),
        "handlers": list(logging.getLogger().handlers),
        "disabled": logging.root.manager.disable,
        "filters": list(warnings.filters),
        "path": list(sys.path),
        "folder": os.getcwd(),
        "pixels": Image.MAX_IMAGE_PIXELS,
        "gradients": torch.is_grad_enabled(),
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "scratch": sorted(Path(tempfile.gettempdir()).glob("infinitevl-bench-*")),
    }


@pytest.fixture(scope="session")
def process_state() -> Callable[[], dict[str, Any]]:
    """Reads what one import must not change for the whole process."""
    return _process_state


@pytest.fixture(scope="session")
def first_import(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Imports VLMEvalKit, which takes ten seconds, by opening and scoring a twin; the process before and after.

    Empty where a test of another folder has imported it before in this process.
    """
    from infinitevl_bench.eval.benchmarks import find_benchmark
    from infinitevl_bench.eval.scoring import score
    from infinitevl_bench.eval.synthetic import synthetic_tsv
    from infinitevl_bench.eval.vlmevalkit import build_prompt, open_dataset

    if "vlmeval" in sys.modules:
        return {}
    benchmark = find_benchmark("DocVQA")
    path, _ = synthetic_tsv(benchmark, data_root, questions=12, seed=0, level=1)
    # These change something when they are first used, whoever uses them.
    import scipy.stats  # noqa: F401
    import torchvision  # noqa: F401
    import transformers  # noqa: F401

    # In a folder of its own, because other processes come and go in the common one.
    common, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("scratch"))
    before, printed = _process_state(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        opened = open_dataset(benchmark, path, official=False)
        build_prompt(opened, opened.rows()[0])
        score(opened, [row | {"prediction": "x"} for row in opened.rows()])
    del opened
    after = _process_state()
    tempfile.tempdir = common
    return {"before": before, "after": after, "printed": printed.getvalue()}


@pytest.fixture(scope="session")
def model_and_processor() -> tuple[Any, Any]:
    return random_model()


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def no_official_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty LMUData folder."""
    folder = tmp_path / "LMUData"
    folder.mkdir()
    monkeypatch.setenv("LMUData", str(folder))
    return folder
