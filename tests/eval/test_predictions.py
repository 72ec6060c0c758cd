"""Predictions that several processes share, a cache that several runs share, and statistics on what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from infinitevl_bench.errors import UserError
from infinitevl_bench.eval.compare import compare_command
from infinitevl_bench.eval.generation import Answer
from infinitevl_bench.eval.predictions import PredictionCache, Predictions, prompt_key
from infinitevl_bench.eval.runner import Asking, evaluate
from infinitevl_bench.eval.statistics import interval, paired_difference, stratified_interval
from infinitevl_bench.eval.team import ALONE, Team
from infinitevl_bench.records import RunFolder, RunSpec
from PIL import Image

pytestmark = pytest.mark.usefixtures("first_import", "no_official_files")

ROWS = [{"index": number, "question": f"q{number}", "answer": "a"} for number in range(6)]
NAME = "predictions-DocVQA-synthetic.jsonl"

# One of two processes that share an evaluation.
MEMBER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import random_model
from infinitevl_bench.eval.runner import evaluate
from infinitevl_bench.eval.team import join_team
from infinitevl_bench.records import RunFolder, RunSpec

team, _ = join_team("cpu")
folder = RunFolder(Path(sys.argv[2]), RunSpec(kind="eval", arguments={}))
folder.path.mkdir(parents=True, exist_ok=True)
result = evaluate(
    *random_model(), "DocVQA", limit=24, folder=folder, data_root=Path(sys.argv[3]), batch_size=4, team=team,
)
assert bool(result.records) == team.leads
"""


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    with RunFolder(tmp_path / "runs", RunSpec(kind="eval", arguments={})) as opened:
        yield opened


def timeless(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "latency_ms"} for row in rows]


def test_two_processes_share_the_questions_that_a_killed_team_left(
    model_and_processor: tuple[Any, Any], data_root: Path, folder: RunFolder, tmp_path: Path
) -> None:
    evaluate(*model_and_processor, "DocVQA", limit=24, folder=folder, data_root=data_root, batch_size=4)
    left = RunFolder(tmp_path / "team", RunSpec(kind="eval", arguments={}))
    left.path.mkdir(parents=True)
    whole = [json.loads(line) for line in (folder.path / NAME).read_text().splitlines()]
    for rank, rows in enumerate((whole[:4], whole[8:11])):
        part = NAME.replace(".jsonl", f".part{rank}.jsonl")
        for row in rows:
            left.append(part, {key: value for key, value in row.items() if key != "score"} | {"latency_ms": 0.5})
        with open(left.path / part, "a") as file:
            file.write('{"index": 23, "questio')
    (tmp_path / "member.py").write_text(MEMBER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [str(tmp_path / "member.py"), str(Path(__file__).parent), str(tmp_path / "team"), str(data_root)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list(left.path.glob("*.part*"))
    for name in (NAME, NAME.replace(".jsonl", "-blind.jsonl")):
        assert timeless(left.path / name) == timeless(folder.path / name)
    # What was answered before was not asked again.
    kept = [json.loads(line)["latency_ms"] for line in (left.path / NAME).read_text().splitlines()]
    assert [number for number, latency in enumerate(kept) if latency == 0.5] == [0, 1, 2, 3, 8, 9, 10]


def test_what_a_killed_team_left_is_joined_once_each(folder: RunFolder) -> None:
    members = [Predictions(folder, NAME, ROWS, Team(rank, 2)) for rank in range(2)]
    for number in (0, 2, 3):
        members[0].add(ROWS[number], Answer(f"first {number}", 1, 1.0))
    for number in (1, 3):
        members[1].add(ROWS[number], Answer(f"second {number}", 1, 1.0))
    with open(folder.path / NAME.replace(".jsonl", ".part1.jsonl"), "a") as file:
        file.write('{"index": 5, "quest')
    joined = Predictions(folder, NAME, ROWS, ALONE)
    assert sorted(joined.known) == ["0", "1", "2", "3"]
    assert joined.known["3"]["prediction"] == "second 3"
    assert [path.name for path in folder.path.glob("predictions*")] == [NAME]
    for number in (4, 5):
        joined.add(ROWS[number], Answer("x", 1, 1.0))
    everything = joined.all()
    assert everything is not None
    assert [row["index"] for row in everything] == list(range(6))


def test_a_batch_belongs_to_one_process() -> None:
    for size in (1, 2, 3):
        owners = [[rank for rank in range(size) if Team(rank, size).takes(number)] for number in range(7)]
        assert all(len(one) == 1 for one in owners)


def test_the_cache_keeps_answers_and_refuses_empty_ones(tmp_path: Path) -> None:
    cache = PredictionCache(tmp_path, "weights", "data")
    cache.put("a", Answer("yes", 2, 3.5))
    cache.put("b", Answer("", 1, 3.5))
    assert cache.get("a") == Answer("yes", 2, 3.5)
    assert cache.get("b") is None
    cache.path.write_text(
        cache.path.read_text() + '{"key": "c", "text": "", "tokens": 1, "latency_ms": 1}\n{"key": "d"'
    )
    again = PredictionCache(tmp_path, "weights", "data")
    assert again.get("a") == Answer("yes", 2, 3.5)
    assert again.get("c") is again.get("d") is None
    for model, data in (("others", "data"), ("weights", "other")):
        assert PredictionCache(tmp_path, model, data).get("a") is None


def test_another_picture_word_or_setting_is_another_prompt() -> None:
    picture = Image.new("RGB", (56, 56))
    message = [{"type": "image", "value": picture}, {"type": "text", "value": "what?"}]
    key = prompt_key(message, max_new_tokens=8)
    assert key == prompt_key([dict(part) for part in message], max_new_tokens=8)
    dotted = picture.copy()
    dotted.putpixel((3, 3), (1, 0, 0))
    others = [
        prompt_key([{"type": "image", "value": dotted}, message[1]], max_new_tokens=8),
        prompt_key([{"type": "image", "value": picture.resize((28, 112))}, message[1]], max_new_tokens=8),
        prompt_key([message[0], {"type": "text", "value": "what"}], max_new_tokens=8),
        prompt_key(message[::-1], max_new_tokens=8),
        prompt_key(message, max_new_tokens=9),
    ]
    assert len({key, *others}) == 6


def test_a_second_run_takes_answers_from_the_cache(
    model_and_processor: tuple[Any, Any], data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infinitevl_bench.eval import runner

    asked = {"limit": 8, "data_root": data_root, "asking": Asking(batch_size=4, blind=False)}
    cache = PredictionCache(tmp_path, "w", "d")
    first = evaluate(*model_and_processor, "DocVQA", **asked, cache=cache)
    full = [row for row in first.predictions if row["prediction"]]
    assert full
    sizes: list[int] = []
    original = runner.answer
    monkeypatch.setattr(runner, "answer", lambda *a, **k: sizes.append(len(a[2])) or original(*a, **k))
    again = evaluate(*model_and_processor, "DocVQA", **asked, cache=PredictionCache(tmp_path, "w", "d"))
    assert again.predictions == first.predictions or len(full) < 8
    assert sum(sizes) <= 8 - (len(full) if len(full) == 8 else 0)


def test_stratified_intervals_add_up() -> None:
    generator = np.random.default_rng(1)
    strata = [generator.random(40).tolist() for _ in range(3)]
    low, high = stratified_interval(strata, 2.0) or (0.0, 0.0)
    middle = 2.0 * sum(np.mean(one) for one in strata)
    # The standard error of a sum of means, independent of one another.
    error = 2.0 * np.sqrt(sum(np.var(one) / len(one) for one in strata))
    assert low == pytest.approx(middle - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(middle + 1.96 * error, abs=0.2 * error)
    assert stratified_interval([[0.5], [1.0]], 1.0) is None
    alone = stratified_interval([strata[0], [0.25]], 1.0)
    assert alone is not None
    shifted = interval(strata[0])
    assert shifted is not None
    assert alone == pytest.approx((shifted[0] + 0.25, shifted[1] + 0.25))


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    generator = np.random.default_rng(0)
    first = (generator.random(400) < 0.5).astype(float)
    second = np.where(generator.random(400) < 0.1, 1.0, first)
    found = paired_difference(first.tolist(), second.tolist())
    assert found.difference == pytest.approx(second.mean() - first.mean())
    assert found.low > 0
    assert (found.better, found.worse) == (int(((second - first) > 0).sum()), 0)
    assert found.p_value < 0.001
    bounds = [interval(one.tolist()) for one in (first, second)]
    assert all(bounds)
    assert found.high - found.low < min(high - low for low, high in bounds if low is not None)
    same = paired_difference(first.tolist(), first.tolist())
    assert (same.difference, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="cannot be compared"):
        paired_difference([1.0], [1.0])


def finished(runs: Path, seed: int, scores: list[float | None], question: str = "q") -> str:
    with RunFolder(runs, RunSpec(kind="eval", arguments={"seed": seed})) as folder:
        for number, score in enumerate(scores):
            row = {"index": number, "question": question, "answer": "a", "prediction": "p", "score": score}
            folder.append(NAME, row)
        folder.finish([])
        return folder.path.name


def test_two_runs_are_compared_on_the_samples_that_both_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = finished(tmp_path, 0, [0.0, 1.0, 0.0, None, 0.5])
    second = finished(tmp_path, 1, [1.0, 1.0, 0.0, 1.0])
    found = compare_command(first, str(tmp_path / second), tmp_path)["DocVQA-synthetic"]
    assert (found.n, found.better, found.worse) == (3, 1, 0)
    assert found.difference == pytest.approx(1 / 3)
    assert f"{second} against {first}" in capsys.readouterr().out.replace("\n", " ")
    # Whoever wrote them may still be at it: nothing of a run that is only read is mended.
    with open(tmp_path / first / NAME, "a") as file:
        file.write('{"index": 5, "quest')
    before = (tmp_path / first / NAME).read_bytes()
    assert compare_command(first, second, tmp_path)["DocVQA-synthetic"] == found
    assert (tmp_path / first / NAME).read_bytes() == before
    other = finished(tmp_path, 2, [1.0, 1.0], question="another")
    with pytest.raises(UserError, match="no scored samples in common"):
        compare_command(first, other, tmp_path)
    with pytest.raises(UserError, match="no finished run eval-none"):
        compare_command(first, "eval-none", tmp_path)
    for damage in ({"index": 1}, {"index": 1, "question": "q", "answer": "a", "score": "much"}):
        (tmp_path / other / NAME).write_text(json.dumps(damage) + "\n")
        with pytest.raises(UserError, match=f"{other}/{NAME}, row 1: no prediction"):
            compare_command(first, other, tmp_path)
