"""VLMEvalKit through our one door: real classes, real scorers, and a process left as it was."""

import base64
import io
import logging
import os
import random
import ssl
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from infinitevl_bench.data.families import generate_page
from infinitevl_bench.data.tsv import encode_image, write_tsv
from infinitevl_bench.errors import UserError
from infinitevl_bench.eval.benchmarks import Benchmark, find_benchmark
from infinitevl_bench.eval.isolation import process_unchanged
from infinitevl_bench.eval.scoring import score
from infinitevl_bench.eval.synthetic import page_values, synthetic_tsv
from infinitevl_bench.eval.vlmevalkit import OpenDataset, build_prompt, open_dataset
from PIL import Image

PICTURE = encode_image(Image.effect_noise((56, 28), 40).convert("RGB"))


def opened_twin(benchmark: Benchmark, root: Path, questions: int = 12) -> tuple[OpenDataset, list[dict[str, Any]]]:
    path, _ = synthetic_tsv(benchmark, root, questions=questions, seed=0, level=1)
    opened = open_dataset(benchmark, path, official=False)
    return opened, opened.rows()


def test_importing_and_scoring_leave_the_process_as_it_was(first_import: dict[str, Any]) -> None:
    if not first_import:
        # Only a process that has not imported it yet can watch.
        name = f"{__file__}::test_importing_and_scoring_leave_the_process_as_it_was"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", name]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]
        return
    assert first_import["after"] == first_import["before"]
    assert first_import["printed"] == ""
    assert "vlmeval" in sys.modules


def test_it_says_nothing_on_the_terminal(data_root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    opened, rows = opened_twin(find_benchmark("OCRBench"), data_root)
    build_prompt(opened, rows[0])
    score(opened, [row | {"prediction": "x"} for row in rows])
    assert capfd.readouterr() == ("", "")


def test_whatever_a_block_changes_is_put_back(tmp_path: Path, process_state: Callable[[], dict[str, Any]]) -> None:
    before = process_state()
    with process_unchanged():
        ssl._create_default_https_context = ssl._create_unverified_context
        os.environ["SET_INSIDE"] = "1"
        os.environ.pop("PATH")
        logging.getLogger().addHandler(logging.NullHandler())
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")
        sys.path.insert(0, "x")
        os.chdir(tmp_path)
        Image.MAX_IMAGE_PIXELS = 1
        torch.set_grad_enabled(False)
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
    assert process_state() == before


@pytest.mark.parametrize(
    ("name", "answer", "prediction", "expected"),
    [
        ("DocVQA", "ABCDE", "abcd", 0.8),  # ANLS: one edit in five characters
        ("DocVQA", "ABCDE", "abxyz", 0.0),  # below the threshold of one half
        ("ChartQA", "100", "104.9", 1.0),  # five per cent of tolerance
        ("ChartQA", "100", "105.1", 0.0),
        ("TextVQA", "the one", "1", 1.0),  # articles and number words do not count
        ("OCRBench", "W7", "the line says w7.", 1.0),  # contained in the answer
        ("DocVQA", "=1+1", "=1+1", 1.0),  # no spreadsheet has made a formula of it
        ("DocVQA", "NA", "NA", 1.0),
        ("DocVQA", "007", "7", 0.0),
        ("DocVQA", "A", "", 0.0),
    ],
)
def test_each_twin_gets_the_rule_of_its_benchmark(
    tmp_path: Path, name: str, answer: str, prediction: str, expected: float
) -> None:
    benchmark = find_benchmark(name)
    answers = [answer] * (10 if name == "TextVQA" else 1)
    row: dict[str, object] = {"index": 0, "image": PICTURE, "question": "q", "answer": answers}
    if benchmark.category:
        row["category"] = benchmark.category
    write_tsv(tmp_path / "twin.tsv", [row])
    opened = open_dataset(benchmark, tmp_path / "twin.tsv", official=False)
    value, samples, _ = score(opened, [opened.rows()[0] | {"prediction": prediction}])
    assert samples == [pytest.approx(expected)]
    assert value == pytest.approx(100 * expected)


def test_prompts_are_the_datasets_own_with_the_page_itself(data_root: Path) -> None:
    opened, rows = opened_twin(find_benchmark("DocVQA"), data_root)
    for index in (0, 5):
        page = generate_page("documents", seed=0, index=index, split="test", level=1)
        picture, text = build_prompt(opened, rows[index])
        assert picture["value"].tobytes() == page.image.tobytes()
        question = page.questions[index % len(page.questions)].text
        assert text == {"type": "text", "value": f"{question}\nAnswer the question using a single word or phrase."}


def test_multiple_choice_lists_only_the_options_there_are(data_root: Path) -> None:
    opened, rows = opened_twin(find_benchmark("RealWorldQA"), data_root)
    counts = set()
    for row in rows:
        _, text = build_prompt(opened, row)
        options = [line for line in text["value"].split("\n") if line[1:3] == ". "]
        counts.add(len(options))
        assert all(line[3:] for line in options)
    assert counts == {2, 4}


def test_a_twin_is_drawn_once_and_its_values_are_beside_it(tmp_path: Path) -> None:
    benchmark = find_benchmark("DocVQA")
    path, sidecar = synthetic_tsv(benchmark, tmp_path, questions=3, seed=0, level=1)
    written = path.stat().st_mtime_ns
    assert synthetic_tsv(benchmark, tmp_path, questions=3, seed=0, level=1) == (path, sidecar)
    assert path.stat().st_mtime_ns == written
    others = [{"questions": 4}, {"seed": 1}, {"level": 2}]
    asked = {"questions": 3, "seed": 0, "level": 1}
    names = {synthetic_tsv(benchmark, tmp_path, **(asked | other))[0] for other in others}
    assert len(names | {path}) == 4
    pages = [generate_page("documents", seed=0, index=index, split="test", level=1) for index in range(3)]
    assert page_values(sidecar) == {str(index): page.values for index, page in enumerate(pages)}


def test_a_missing_official_file_says_where_it_belongs(no_official_files: Path) -> None:
    for name in ("DocVQA", "MMMU"):
        benchmark = find_benchmark(name)
        path = no_official_files / f"{benchmark.dataset}.tsv"
        with pytest.raises(UserError, match=f"no official {benchmark.dataset} at {path}"):
            open_dataset(benchmark, path, official=True)


def test_a_file_with_another_checksum_is_no_official_file(no_official_files: Path) -> None:
    path = no_official_files / "DocVQA_VAL.tsv"
    write_tsv(path, [{"index": 0, "image": PICTURE, "question": "q", "answer": ["a"]}])
    content = path.read_bytes()
    with pytest.raises(UserError, match=r"is not the official file: its MD5 is .*, VLMEvalKit expects d5ee77e1"):
        open_dataset(find_benchmark("DocVQA"), path, official=True)
    assert path.read_bytes() == content


@pytest.fixture
def official(no_official_files: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """Opens rows as if they were an official file: only the checksum is told to be theirs."""
    import hashlib
    from importlib import import_module

    def opened(name: str, rows: list[dict[str, object]], **options: Any) -> OpenDataset:
        benchmark = find_benchmark(name)
        path = no_official_files / f"{benchmark.dataset}.tsv"
        write_tsv(path, rows)
        module, class_name = benchmark.dataset_class.split(":")
        with process_unchanged():
            dataset_class = getattr(import_module(module), class_name)
        checksum = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        monkeypatch.setitem(dataset_class.DATASET_MD5, benchmark.dataset, checksum)
        return open_dataset(replace(benchmark, md5=checksum), path, official=True, **options)

    return opened


def mme_rows() -> list[dict[str, object]]:
    return [
        {
            "index": 2 * number + turn,
            "image": PICTURE,
            "question": f"{category}?",
            "answer": ("Yes", "No")[turn],
            "category": category,
            "image_path": f"{number}.jpg",
        }
        for number, category in enumerate(["existence", "count", "position", "code_reasoning"])
        for turn in range(2)
    ]


def test_mme_counts_points_and_keeps_pairs_together(official: Any) -> None:
    opened = official("MME", mme_rows())
    assert [row["index"] for row in opened.rows(limit=3)] == [0, 1, 4, 5]
    rows = opened.rows()
    value, samples, strata = score(opened, [row | {"prediction": row["answer"]} for row in rows])
    # Four of fourteen tasks are there, each worth 200 of 2800 points.
    assert value == pytest.approx(100 * 4 * 200 / 2800)
    assert samples == [1.0] * 8
    assert strata == [[1.0]] * 4
    value, samples, strata = score(opened, [row | {"prediction": "yes, indeed"} for row in rows])
    # Half of the answers are right and no pair is: 50 of 200 points a task.
    assert value == pytest.approx(100 * 4 * 50 / 2800)
    assert samples == [1.0, 0.0] * 4
    assert strata == [[0.25]] * 4


def test_mmbench_counts_a_question_only_if_all_rotations_are_right(official: Any) -> None:
    rows: list[dict[str, object]] = [
        {
            "index": question + 1_000_000 * turn,
            "image": PICTURE,
            "question": "q",
            "answer": "AB"[turn],
            "A": ("yes", "no")[turn],
            "B": ("no", "yes")[turn],
            "category": "x",
            "split": "dev",
        }
        for question in (1, 2)
        for turn in range(2)
    ]
    opened = official("MMBench", rows)
    assert [row["index"] for row in opened.rows(limit=1)] == [1, 1_000_001]
    predictions = [
        row | {"prediction": "A" if row["index"] % 1_000_000 == 1 else row["answer"]} for row in opened.rows()
    ]
    assert score(opened, predictions)[:2] == (50.0, [0.0, None, 1.0, None])


def test_mmmu_takes_the_validation_split_and_places_its_pictures(official: Any) -> None:
    rows: list[dict[str, object]] = [
        {
            "index": f"{split}_{number}",
            "image": PICTURE,
            "question": "what is in <image 1>?",
            "answer": "A",
            "A": "cat",
            "B": "dog",
            "split": split,
        }
        for number in range(2)
        for split in ("dev", "validation")
    ]
    opened = official("MMMU", rows)
    kept = opened.rows()
    assert [row["index"] for row in kept] == ["validation_0", "validation_1"]
    assert [part["type"] for part in build_prompt(opened, kept[0])] == ["text", "image", "text"]
    predictions = [row | {"prediction": said} for row, said in zip(kept, ("a cat", "a dog"), strict=True)]
    assert score(opened, predictions)[:2] == (50.0, [1.0, 0.0])


def test_mathvista_is_scored_without_a_judge(official: Any) -> None:
    shared = {"image": PICTURE, "question": "q", "query": "q", "task": "t", "skills": "['arithmetic']", "precision": 1}
    choice = {"question_type": "multi_choice", "answer_type": "text", "choices": "['2', '3']", "answer_option": "B"}
    number = {"question_type": "free_form", "answer_type": "integer", "choices": "x", "answer_option": "x"}
    opened = official(
        "MathVista",
        [
            {"index": 1, "answer": "3"} | shared | choice,
            {"index": 2, "answer": "7"} | shared | number,
            {"index": 3, "answer": "7"} | shared | number,
        ],
    )
    rows = [row | {"prediction": said} for row, said in zip(opened.rows(), ("B", "7", "I cannot tell"), strict=True)]
    value, samples, _ = score(opened, rows)
    assert samples == [1.0, 1.0, 0.0]
    assert value == pytest.approx(200 / 3)


def test_a_limit_is_spread_over_an_official_file(official: Any) -> None:
    rows: list[dict[str, object]] = [
        {"index": number, "image": PICTURE, "question": "q", "answer": "a", "split": "test_human"}
        for number in range(10)
    ]
    opened = official("ChartQA", rows)
    assert [row["index"] for row in opened.rows(limit=5)] == [0, 2, 4, 6, 8]
    assert len(opened.rows(limit=99)) == len(opened.rows()) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": 0}, "index 0 is used in row 1 too"),
        ({"image": base64.b64encode(b"no picture at all" * 9).decode()}, "row 2: the image is in no known format"),
        ({"question": ""}, "row 2: column question is empty"),
    ],
)
def test_a_damaged_twin_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    rows = [{"index": number, "image": PICTURE, "question": "q", "answer": ["a"]} for number in range(2)]
    rows[1] |= change
    write_tsv(tmp_path / "twin.tsv", rows)
    with pytest.raises(UserError, match=message):
        open_dataset(find_benchmark("DocVQA"), tmp_path / "twin.tsv", official=False)


def test_a_picture_that_breaks_off_names_its_row(official: Any) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 60).save(buffer, format="JPEG")
    broken = base64.b64encode(buffer.getvalue()[:-900]).decode()
    rows: list[dict[str, object]] = [
        {"index": number, "image": image, "question": "q", "answer": "a"}
        for number, image in enumerate((PICTURE, broken, PICTURE))
    ]
    with pytest.raises(UserError, match=r"row 2: the image is damaged .*; mend it, or allow --max-bad 1"):
        official("ChartQA", rows)
    opened = official("ChartQA", rows, max_bad=1)
    assert [row["index"] for row in opened.rows()] == [0, 2]
    assert [(one.number, one.reason.split(" (")[0]) for one in opened.bad] == [(2, "the image is damaged")]
