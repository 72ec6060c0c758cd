"""Evaluation runs: every question once, through kills too; records with intervals beside their baselines."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from infinitevl_bench.data.families import generate_page
from infinitevl_bench.eval.benchmarks import find_benchmark
from infinitevl_bench.eval.generation import answer, batches, blinded, encode
from infinitevl_bench.eval.runner import evaluate
from infinitevl_bench.eval.statistics import interval
from infinitevl_bench.models.processor import load_processor
from infinitevl_bench.records import RunFolder, RunSpec
from PIL import Image

pytestmark = pytest.mark.usefixtures("first_import", "no_official_files")

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import random_model
from infinitevl_bench.eval.runner import evaluate
from infinitevl_bench.records import RunFolder, RunSpec

written = 0
append = RunFolder.append

def dying(self, name, row):
    global written
    written += 1
    if written == 12:
        with open(self.path / name, "a") as file:
            file.write('{"index": 3, "predic')
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, name, row)

RunFolder.append = dying
runs, data_root = Path(sys.argv[2]), Path(sys.argv[3])
with RunFolder(runs, RunSpec(kind="eval", arguments={})) as folder:
    evaluate(*random_model(), "DocVQA", limit=20, folder=folder, data_root=data_root, batch_size=8)
"""


class Reader:
    """Stands in for a perfect model: knows the pages by their pixels, and says nothing of other pictures."""

    config = SimpleNamespace()
    device = torch.device("cpu")

    def __init__(self, processor: Any, family: str, questions: int) -> None:
        self.processor, self.answers, self.asked = processor, {}, 0
        for index in range(questions):
            page = generate_page(family, seed=0, index=index, split="test", level=1)
            pixels = processor.image_processor(images=[page.image], return_tensors="pt")["pixel_values"]
            self.answers[float(pixels.double().sum())] = page.questions[index % len(page.questions)].answers[0]

    def parameters(self) -> list[torch.Tensor]:
        return []

    def generate(self, input_ids: torch.Tensor, pixel_values: torch.Tensor, **_: Any) -> torch.Tensor:
        self.asked += len(input_ids)
        said = [self.answers.get(float(part.double().sum()), "?") for part in pixel_values.chunk(len(input_ids))]
        tokenizer = self.processor.tokenizer
        rows = [tokenizer(text + tokenizer.eos_token)["input_ids"] for text in said]
        longest = max(map(len, rows))
        padded = [row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows]
        return torch.cat([input_ids, torch.tensor(padded)], dim=1)


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    with RunFolder(tmp_path / "runs", RunSpec(kind="eval", arguments={})) as opened:
        yield opened


def rows_of(folder: RunFolder, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder.path / name).read_text().splitlines()]


@pytest.mark.parametrize("name", ["DocVQA", "OCRBench", "RealWorldQA"])
def test_a_perfect_reader_is_far_above_both_baselines(name: str, data_root: Path) -> None:
    benchmark = find_benchmark(name)
    processor = load_processor()
    reader = Reader(processor, str(benchmark.family), 20)
    result = evaluate(reader, processor, name, limit=20, data_root=data_root, batch_size=8)
    found = {record.metric: record for record in result.records}
    assert found["score"].value == 100.0
    assert found["blind"].value == 0.0
    assert 0.0 < found["page_value"].value < 60.0
    assert found["page_value"].ci_low <= found["page_value"].value <= found["page_value"].ci_high
    assert reader.asked == 40
    assert result.split == "synthetic"


def test_records_say_what_was_measured(model_and_processor: tuple[Any, Any], data_root: Path) -> None:
    model, processor = model_and_processor
    seen: list[tuple[str, int, int]] = []
    result = evaluate(
        model,
        processor,
        "docvqa_val",
        limit=12,
        level=2,
        seed=3,
        data_root=data_root,
        batch_size=8,
        model_name="random",
        progress=lambda *step: seen.append(step),
    )
    assert [record.metric for record in result.records] == ["score", "blind", "page_value"]
    for record in result.records:
        assert (record.artifact, record.benchmark, record.model) == ("table2", "DocVQA", "random")
        assert (record.split, record.source, record.unit, record.n, record.seed) == (
            "synthetic",
            "measured",
            "%",
            12,
            3,
        )
        assert record.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert record.device == "cpu"
        assert record.extra["dataset"] == "DocVQA_VAL_SYNTH"
        assert record.extra["level"] == 2
        assert record.ci_low is not None
        assert record.ci_low <= record.value <= record.ci_high
    assert seen[0] == ("sighted", 0, 12)
    assert seen[-1] == ("blind", 12, 12)


def test_the_page_value_baseline_is_the_mean_over_the_pages_values(data_root: Path) -> None:
    processor = load_processor()
    result = evaluate(Reader(processor, "transcription", 8), processor, "OCRBench", limit=8, data_root=data_root)
    expected = []
    for index in range(8):
        page = generate_page("transcription", seed=0, index=index, split="test", level=1)
        right = page.questions[index % len(page.questions)].answers[0].lower()
        expected.append(np.mean([right in value.lower() for value in page.values]))
    assert result.records[-1].value == pytest.approx(100 * np.mean(expected))


def test_predictions_are_kept_with_their_scores(
    model_and_processor: tuple[Any, Any], data_root: Path, folder: RunFolder
) -> None:
    result = evaluate(*model_and_processor, "RealWorldQA", limit=20, folder=folder, data_root=data_root, batch_size=8)
    rows = rows_of(folder, "predictions-RealWorldQA-synthetic.jsonl")
    assert rows == result.predictions
    assert [row["index"] for row in rows] == list(range(20))
    assert set(rows[0]) == {"index", "question", "answer", "prediction", "latency_ms", "tokens", "score"}
    assert 100 * np.mean([row["score"] for row in rows]) == pytest.approx(result.records[0].value)
    assert all(0 < row["tokens"] <= 16 and row["latency_ms"] > 0 for row in rows)
    blind = rows_of(folder, "predictions-RealWorldQA-synthetic-blind.jsonl")
    assert [row["prediction"] for row in blind] != [row["prediction"] for row in rows]


def test_answered_questions_are_not_asked_again(data_root: Path, folder: RunFolder) -> None:
    processor = load_processor()
    reader = Reader(processor, "documents", 20)
    first = evaluate(reader, processor, "DocVQA", limit=20, folder=folder, data_root=data_root, batch_size=8)
    assert reader.asked == 40
    again = evaluate(reader, processor, "DocVQA", limit=20, folder=folder, data_root=data_root, batch_size=8)
    assert reader.asked == 40
    assert again.records == first.records
    assert again.predictions == first.predictions


def test_predictions_of_other_questions_are_left_out(data_root: Path, folder: RunFolder) -> None:
    processor = load_processor()
    reader = Reader(processor, "documents", 20)
    name = "predictions-DocVQA-synthetic.jsonl"
    folder.append(name, {"index": 0, "question": "of another page?", "prediction": "wrong"})
    result = evaluate(reader, processor, "DocVQA", limit=20, folder=folder, data_root=data_root)
    assert result.records[0].value == 100.0
    assert len(rows_of(folder, name)) == 20


def test_a_killed_run_goes_on_where_it_was(
    model_and_processor: tuple[Any, Any], data_root: Path, folder: RunFolder, tmp_path: Path
) -> None:
    name = "predictions-DocVQA-synthetic.jsonl"
    whole = evaluate(*model_and_processor, "DocVQA", limit=20, folder=folder, data_root=data_root, batch_size=8)
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    arguments = [str(Path(__file__).parent), str(tmp_path / "killed"), str(data_root)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    with RunFolder(tmp_path / "killed", RunSpec(kind="eval", arguments={})) as resumed:
        assert len((resumed.path / name).read_text().splitlines()) == 12  # eleven rows and a torn one
        result = evaluate(*model_and_processor, "DocVQA", limit=20, folder=resumed, data_root=data_root, batch_size=8)
        timeless = [
            [{key: value for key, value in row.items() if key != "latency_ms"} for row in rows_of(one, name)]
            for one in (folder, resumed)
        ]
    assert timeless[0] == timeless[1]
    assert len({row["index"] for row in timeless[1]}) == len(timeless[1]) == 20
    assert result.records == whole.records


def test_answers_do_not_depend_on_the_batch(model_and_processor: tuple[Any, Any]) -> None:
    model, processor = model_and_processor
    messages = []
    for index, family in enumerate(["documents", "transcription", "shapes", "documents"]):
        page = generate_page(family, seed=0, index=index, split="test", level=1)
        text = {"type": "text", "value": page.questions[0].text + " please" * index}
        messages.append([{"type": "image", "value": page.image}, text])
    together = [said.text for said in answer(model, processor, messages, 8)]
    alone = [answer(model, processor, [message], 8)[0].text for message in messages]
    assert together == alone
    assert len(set(alone)) > 1


def test_a_benchmarks_own_picture_size_takes_the_place_of_a_larger_one() -> None:
    processor = load_processor(min_pixels=128 * 28 * 28, max_pixels=2304 * 28 * 28)
    message = [{"type": "image", "value": Image.new("RGB", (56, 56))}, {"type": "text", "value": "q"}]

    def tokens(min_pixels: int | None, pictures: Any = processor) -> int:
        return int((encode(pictures, [message], min_pixels)["input_ids"] == pictures.image_token_id).sum())

    assert 128 <= tokens(None) <= 144
    assert tokens(100 * 28 * 28) == 100
    assert tokens(200 * 28 * 28) == tokens(None)
    # A model of ours sees a small picture as it is, whatever the benchmark says.
    assert tokens(100 * 28 * 28, load_processor()) == 4


def test_batches_hold_every_message_once_by_length() -> None:
    picture = {"type": "image", "value": Image.new("RGB", (56, 56))}
    messages = [[picture, {"type": "text", "value": "row " * (number % 3)}] for number in range(10)]
    found = list(batches(load_processor(), messages, 4))
    assert [len(batch) for batch in found] == [4, 4, 2]
    assert sorted(position for batch in found for position in batch) == list(range(10))
    assert [position % 3 for batch in found for position in batch] == [0] * 4 + [1] * 3 + [2] * 3


def test_a_blind_model_sees_grey_of_the_same_size() -> None:
    message = [
        {"type": "image", "value": Image.effect_noise((56, 28), 9).convert("RGB")},
        {"type": "text", "value": "q"},
    ]
    picture, text = blinded(message)
    assert picture["value"].size == (56, 28)
    assert picture["value"].getcolors() == [(56 * 28, (128, 128, 128))]
    assert text == message[1]


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = interval((generator.random(100) < 0.3).tolist()) or (0.0, 0.0)
        covered += low <= 0.3 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_intervals_are_repeatable_and_need_two_samples() -> None:
    samples = [0.0, 1.0, 1.0, 0.5]
    assert interval(samples) == interval(samples)
    assert interval([1.0]) is None
    assert interval([1.0, 1.0]) == (1.0, 1.0)
