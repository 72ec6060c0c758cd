"""Twins of every benchmark: the official columns, the official classes and scorers, and prompts as snapshots."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from infinitevl_bench.data.tsv import encode_image, read_tsv, write_tsv
from infinitevl_bench.errors import UserError
from infinitevl_bench.eval.benchmarks import ALL, BENCHMARKS, Benchmark, find_benchmark
from infinitevl_bench.eval.scoring import score
from infinitevl_bench.eval.synthetic import synthetic_tsv
from infinitevl_bench.eval.twin_rows import MME_TASKS, ROTATION
from infinitevl_bench.eval.vlmevalkit import STYLES, OpenDataset, build_prompt, open_dataset
from PIL import Image

pytestmark = pytest.mark.usefixtures("first_import")

PICTURE = encode_image(Image.effect_noise((56, 28), 40).convert("RGB"))
SNAPSHOT = Path(__file__).parent / "prompts.json"
SCORED = [benchmark for benchmark in ALL.values() if benchmark.answers]

COLUMNS = {
    "MME": {"index", "category", "question", "answer", "image", "image_path"},
    "MMBench": {"index", "question", "A", "B", "C", "D", "answer", "category", "image", "l2-category", "split"},
    "ScienceQA_VAL": {"index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"},
    "DocVQA": {"index", "image", "question", "answer"},
    "OCRBench": {"index", "image", "question", "answer", "category"},
    "MMMU": {"index", "question", "A", "B", "C", "D", "answer", "image", "split"},
    "MathVista": {
        "index", "image", "question", "answer", "question_type", "answer_type", "choices", "answer_option", "task",
        "skills", "precision",
    },
    "Video-MME": {
        "index", "video", "video_path", "duration", "domain", "candidates", "sub_category", "task_type",
        "subtitle_path", "question", "answer",
    },
    "LongVideoBench": {
        "index", "video", "video_path", "question", "candidates", "correct_choice", "duration", "duration_group",
        "question_category", "subtitle_path", "starting_timestamp_for_subtitles",
    },
}  # fmt: skip


def opened_twin(benchmark: Benchmark, root: Path, questions: int = 12) -> tuple[OpenDataset, list[dict[str, Any]]]:
    path, _ = synthetic_tsv(benchmark, root, questions=questions, seed=0, level=1)
    opened = open_dataset(benchmark, path, official=False)
    return opened, opened.rows()


def right_answer(benchmark: Benchmark, row: dict[str, Any]) -> str:
    if benchmark.reading in ("vqa", "ocrbench"):
        return str(ast.literal_eval(row["answer"])[0])
    if benchmark.reading == "mathvista":
        return str(row["answer_option"] or row["answer"])
    return "ABCD"[row["correct_choice"]] if "correct_choice" in row else str(row["answer"])


@pytest.mark.parametrize("benchmark", SCORED, ids=lambda benchmark: benchmark.name)
def test_every_twin_is_scored_by_the_official_scorer(benchmark: Benchmark, data_root: Path) -> None:
    opened, rows = opened_twin(benchmark, data_root)
    assert benchmark.dataset_class.split(":")[1] in [one.__name__ for one in type(opened.dataset).__mro__[1:]]
    right = [row | {"prediction": right_answer(benchmark, row)} for row in rows]
    wrong = [row | {"prediction": "@@@@"} for row in rows]
    best = score(opened, right)
    # Of MME's fourteen tasks, each worth as much, six are in six pairs of questions.
    assert best.value == pytest.approx(100 * 6 / 14 if benchmark.reading == "mme" else 100.0)
    assert {sample for sample in best.samples if sample is not None} == {1.0}
    assert score(opened, wrong).value == 0.0
    if benchmark.circular:
        # One wrong rotation spoils its question, and no other.
        spoiled = [wrong[number] if row["index"] == ROTATION else right[number] for number, row in enumerate(rows)]
        assert score(opened, spoiled).value == pytest.approx(100 * 11 / 12)
    elif benchmark.reading != "mme":
        mixed = [(right if number % 3 else wrong)[number] for number in range(len(rows))]
        value, samples, _ = score(opened, mixed)
        assert samples == [float(bool(number % 3)) for number in range(len(rows))]
        assert value == pytest.approx(100 * 8 / 12)


@pytest.mark.parametrize("name", COLUMNS)
def test_twins_have_the_official_columns(name: str, data_root: Path) -> None:
    path, _ = synthetic_tsv(find_benchmark(name), data_root, questions=12, seed=0, level=1)
    header = path.read_text(encoding="utf-8").partition("\n")[0].split("\t")
    assert set(header) >= COLUMNS[name]


def test_mme_asks_each_picture_twice_and_the_answers_differ(data_root: Path) -> None:
    _, rows = opened_twin(BENCHMARKS["MME"], data_root, questions=40)
    assert len(rows) == 40
    assert {row["category"] for row in rows} == set(MME_TASKS)
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first["image_path"] == second["image_path"]
        assert {first["answer"], second["answer"]} == {"Yes", "No"}


def test_mmbench_turns_the_options_round(data_root: Path) -> None:
    _, rows = opened_twin(BENCHMARKS["MMBench"], data_root)
    asked: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        asked.setdefault(row["index"] % ROTATION, []).append(row)
    assert len(asked) == 12
    for rotations in asked.values():
        options = [[row[letter] for letter in "ABCD" if isinstance(row[letter], str)] for row in rotations]
        assert len({tuple(one) for one in options}) == len(options) == len(options[0])
        assert len({row[row["answer"]] for row in rotations}) == 1


@pytest.mark.parametrize("name", ["DocVQA_TEST", "MMBench_TEST_EN"])
def test_a_split_without_answers_has_none_and_gets_no_score(name: str, data_root: Path) -> None:
    benchmark = find_benchmark(name)
    opened, rows = opened_twin(benchmark, data_root)
    assert all("answer" not in row for row in rows)
    with pytest.raises(ValueError, match="no public answers"):
        score(opened, [row | {"prediction": "x"} for row in rows])
    with_answers = [dict(row) | {"answer": "A"} for row in read_tsv(opened.path, ["index"]).to_dict("records")]
    path = data_root / f"{name}-with-answers.tsv"
    write_tsv(path, with_answers)
    with pytest.raises(UserError, match=r"row 1: it has an answer, and this split has none.*11 more|\d+ more bad rows"):
        open_dataset(benchmark, path, official=False)


def fixed_row(benchmark: Benchmark, root: Path) -> dict[str, object]:
    """One question by hand, so that a snapshot changes only when a prompt does."""
    row: dict[str, object] = {"index": 1, "image": PICTURE, "question": "What does the sign say?", "answer": "B"}
    options = {"A": "stop", "B": "go", "C": "", "D": ""}
    if benchmark.video:
        del row["image"]
        (root / "clip.mp4").write_bytes(b"")
        letters = ["A. stop", "B. go"] if benchmark.name == "Video-MME" else ["stop", "go"]
        video = {"video": "clip", "video_path": "./clip.mp4", "candidates": repr(letters), "correct_choice": 1}
        return row | video | {"duration": "short", "duration_group": 15, "subtitle_path": "clip.srt"}
    extra: dict[str, dict[str, object]] = {
        "mme": {"category": "OCR", "image_path": "1.png", "question": "Is it a sign? Please answer yes or no."},
        "mcq": options | {"category": "x", "hint": "Look closely.", "split": benchmark.split or "dev"},
        "ocrbench": {"answer": ["go"], "category": "Digit String Recognition"},
        "mathvista": {
            "question_type": "multi_choice", "answer_type": "text", "choices": "['stop', 'go']",
            "answer_option": "B", "task": "t", "skills": "['s']", "precision": "1",
        },
        "vqa": {"answer": ["go"]},
    }  # fmt: skip
    row |= extra[benchmark.reading]
    if benchmark.name == "MMMU":
        row["question"] = "What does <image 1> say?"
    if not benchmark.answers:
        del row["answer"]
    return row


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("benchmark", ALL.values(), ids=lambda benchmark: benchmark.name)
def test_prompts_are_those_of_the_snapshot(benchmark: Benchmark, style: Any, tmp_path: Path) -> None:
    path = tmp_path / "one.tsv"
    write_tsv(path, [fixed_row(benchmark, tmp_path)])
    opened = open_dataset(benchmark, path, official=False)
    shown = [
        f"<{part['type']}>" if part["type"] != "text" else part["value"]
        for part in build_prompt(opened, opened.rows()[0], style)
    ]
    assert shown == json.loads(SNAPSHOT.read_text(encoding="utf-8"))[benchmark.name][style]


@pytest.mark.parametrize("questions", [5])
def test_videos_are_read_at_equal_distances(questions: int, data_root: Path) -> None:
    from infinitevl_bench.eval.videos import frame_indices, load_clip

    assert frame_indices(16, 64) == list(range(16))
    assert frame_indices(100, 5) == [0, 33, 66, 99]
    assert frame_indices(1000, 8) == [0, 143, 285, 428, 571, 714, 856, 999]
    with pytest.raises(ValueError, match="1 frames"):
        frame_indices(1, 8)
    opened, rows = opened_twin(find_benchmark("Video-MME"), data_root, questions)
    video = opened.path.parent / rows[0]["video_path"]
    clip = load_clip(video, 8, 784, 784 * 9)
    assert len(clip.frames) == 8
    assert clip.fps == pytest.approx(1.0)
    assert {frame.size for frame in clip.frames} == {(84, 84)}
    video.write_bytes(video.read_bytes()[:500])
    with pytest.raises(UserError, match="cannot be read"):
        load_clip(video, 8, 784, 784 * 9)
    video.unlink()
    with pytest.raises(UserError, match=r"row 1: video_path '\./video/00000\.mp4' is not in"):
        open_dataset(find_benchmark("Video-MME"), opened.path, official=False)
    escaping = [dict(row) for row in read_tsv(opened.path, ["index"], root=None).to_dict("records")]
    escaping[1]["video_path"] = "../../elsewhere.mp4"
    write_tsv(opened.path, escaping)
    with pytest.raises(UserError, match=r"row 1: .* \(and 1 more bad rows\); mend it, or allow --max-bad 2"):
        open_dataset(find_benchmark("Video-MME"), opened.path, official=False)


class Judge:
    """Reads the answer out of any sentence that holds it."""

    def __init__(self, works: bool = True) -> None:
        self.works, self.asked = works, 0

    def working(self) -> bool:
        return self.works

    def generate(self, prompt: str, **_: Any) -> str:
        self.asked += 1
        return "7"


def mathvista(root: Path) -> tuple[OpenDataset, list[dict[str, Any]]]:
    row = fixed_row(find_benchmark("MathVista"), root) | {"answer": "7", "question_type": "free_form"}
    write_tsv(root / "one.tsv", [row | {"answer_type": "integer"}])
    opened = open_dataset(find_benchmark("MathVista"), root / "one.tsv", official=False)
    return opened, [one | {"prediction": "I think that it is seven"} for one in opened.rows()]


def test_no_judge_is_asked_unless_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from infinitevl_bench.eval.scoring import scorer_name
    from infinitevl_bench.eval.vlmevalkit import kit

    judge = Judge()
    for module in ("vlmeval.dataset.utils", "vlmeval.dataset.image_vqa"):
        monkeypatch.setattr(kit(module), "build_judge", lambda **_: judge)
    opened, rows = mathvista(tmp_path)
    assert score(opened, rows).value == 0.0
    assert judge.asked == 0
    assert scorer_name(None).endswith("exact matching")
    assert score(opened, rows, judge="gpt-4o-mini").value == 100.0
    assert judge.asked == 1
    assert scorer_name("gpt-4o-mini").endswith("judge gpt-4o-mini")


def test_a_judge_that_does_not_answer_is_no_exact_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from infinitevl_bench.eval.vlmevalkit import kit

    opened, rows = mathvista(tmp_path)
    monkeypatch.setattr(kit("vlmeval.dataset.utils"), "build_judge", lambda **_: Judge(works=False))
    with pytest.raises(UserError, match="judge 'gpt-4o-mini' does not answer; set its key"):
        score(opened, rows, judge="gpt-4o-mini")

    def broken(**_: Any) -> None:
        raise KeyError("no such judge")

    monkeypatch.setattr(kit("vlmeval.dataset.utils"), "build_judge", broken)
    with pytest.raises(UserError, match="cannot be reached"):
        score(opened, rows, judge="gpt-4o-mini")
