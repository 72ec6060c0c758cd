"""The control task: arms that carry nothing far learn it in a few steps, and no arm without the picture does."""

from pathlib import Path

import pytest
import torch
from infinitevl_bench.models.checkpoints import new_model
from infinitevl_bench.models.presets import get_preset
from infinitevl_bench.models.processor import load_processor
from infinitevl_bench.records import RunFolder, RunSpec
from infinitevl_bench.training.features import PageSetSpec, load_page_set
from infinitevl_bench.training.fixed import FixedPages, FixedTraining, exact_answers, side_by_side
from infinitevl_bench.training.loop import TrainArguments

GUESS = 100 / 8


def pages(folder: Path, **changes: object) -> FixedPages:
    processor = load_processor()
    spec = PageSetSpec.model_validate({"weights": {"backgrounds": 1}} | changes)
    found = load_page_set(spec, new_model(get_preset("tiny"), 0), processor, folder)
    return FixedPages(found, processor.tokenizer.eos_token_id)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize(("mixer", "pattern"), [("identity", "SLLL"), ("gated_deltanet", "S")])
def test_arms_without_reach_learn_the_control_and_blind_ones_do_not(
    mixer: str, pattern: str, cache: Path, tmp_path: Path
) -> None:
    model = new_model(get_preset("tiny", mixer=mixer, pattern=pattern), 0)
    train = pages(cache, pages=512)
    arguments = TrainArguments(steps=40, batch_size=16, learning_rate=2e-3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with RunFolder(tmp_path, RunSpec(kind="ablate", arguments={"control": mixer})) as folder:
            (result,) = side_by_side([FixedTraining(model, train, arguments, folder, "control").run()])
    finally:
        torch.set_num_threads(threads)
    assert result.status == "ok"
    seen, unseen = (
        100 * exact_answers(model, pages(cache, pages=128, split="validation", blind=blind)).double().mean().item()
        for blind in (False, True)
    )
    assert seen > 60
    # Three standard deviations above a guess among eight.
    assert unseen < GUESS + 9
