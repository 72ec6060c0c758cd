"""The `eval` command: which model and whose data, kept as a run, said on the screen; mistakes are one line."""

import contextlib
import io
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from infinitevl_bench.errors import UserError
from infinitevl_bench.eval import command
from infinitevl_bench.eval.command import Request, eval_command
from infinitevl_bench.models.checkpoints import load_model
from infinitevl_bench.records import Record, RunFolder, RunHeldError, RunSpec

pytestmark = pytest.mark.usefixtures("first_import", "no_official_files")

ASKED: dict[str, Any] = {
    "model": "best", "data": "auto", "limit": 2, "batch_size": 2, "level": 1, "seed": 0, "device": "cpu",
}  # fmt: skip


class ModelWasLoadedError(Exception):
    pass


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with its processor."""
    loaded, folder = load_model("tiny"), tmp_path_factory.mktemp("weights") / "model"
    loaded.model.save_pretrained(folder, safe_serialization=True)
    loaded.processor.save_pretrained(folder)
    return folder


@pytest.fixture
def no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(reference: str, *_: Any) -> None:
        raise ModelWasLoadedError(reference)

    monkeypatch.setattr(command, "load", refused)


def run_eval(benchmark: str, **asked: Any) -> Any:
    return eval_command([benchmark], None, Request(**asked))[0]


def trained_run(runs: Path, weights: Path, seed: int, **scores: float) -> Path:
    """A finished training run whose records have these scores, in %, by benchmark."""
    spec = RunSpec(kind="ablate", arguments={"seed": seed})
    with RunFolder(runs, spec) as folder:
        shutil.copytree(weights, folder.path / "model")
        folder.finish(
            Record(
                artifact="ablation", metric=metric, value=value / (1 if metric == "score" else 100), unit="%",
                model="tiny", source="measured", benchmark=benchmark, split="synthetic",
            )
            for benchmark, value in scores.items()
            for metric in ("score", "blind")
        )  # fmt: skip
    return folder.path


@pytest.fixture(scope="module")
def evaluated_once(tmp_path_factory: pytest.TempPathFactory, weights: Path, first_import: Any) -> tuple[Path, Any, str]:
    runs, shown = tmp_path_factory.mktemp("evaluated") / "runs", io.StringIO()
    best = trained_run(runs, weights, 0, DocVQA=40.0)
    with contextlib.redirect_stdout(shown):
        result = run_eval("DocVQA", **ASKED | {"data": "synthetic"}, runs=runs)
    return best, result, shown.getvalue()


@pytest.fixture
def evaluated(tmp_path: Path, evaluated_once: tuple[Path, Any, str]) -> tuple[Path, Any, str]:
    """The best run in a folder of runs where it was evaluated, what that found, and what it printed."""
    best, result, shown = evaluated_once
    shutil.copytree(best.parent, tmp_path / "runs")
    return tmp_path / "runs" / best.name, result, shown


def test_the_best_run_is_evaluated_and_named(evaluated: tuple[Path, Any, str]) -> None:
    best, result, shown = evaluated
    assert f"{best.name}, the best finished run (40.0 % on DocVQA)" in shown
    assert [record.metric for record in result.records] == ["score", "blind", "page_value"]
    assert {record.model for record in result.records} == {best.name}
    assert {record.extra["weights"] for record in result.records} == {"trained"}
    assert "RANDOM" not in shown
    assert "data: SYNTHETIC DocVQA_VAL_SYNTH" in shown
    for words in ("grey picture", "naming any value on the page"):
        assert words in shown


@pytest.mark.parametrize(
    ("benchmark", "best", "words"),
    [("DocVQA", 0, "(40.0 % on DocVQA)"), ("TextVQA", 1, "(65.0 % on average)")],
    ids=["scored on it", "scored on others"],
)
def test_the_best_run_is_the_best_on_the_benchmark_or_on_average(
    benchmark: str, best: int, words: str, tmp_path: Path, weights: Path, capsys: Any, no_loading: None
) -> None:
    runs = [
        trained_run(tmp_path, weights, 0, DocVQA=40.0, OCRBench=10.0),
        trained_run(tmp_path, weights, 1, DocVQA=31.0, OCRBench=99.0),
    ]
    # Better still, but an evaluation's and without weights.
    with RunFolder(tmp_path, RunSpec(kind="eval", arguments={})) as other:
        shutil.copy(runs[1] / "result.json", other.path)
    with RunFolder(tmp_path, RunSpec(kind="ablate", arguments={"seed": 2})) as unfinished:
        shutil.copytree(weights, unfinished.path / "model")
    with pytest.raises(ModelWasLoadedError, match=re.escape(str(runs[best]))):
        run_eval(benchmark, **ASKED, runs=tmp_path)
    assert f"model: {runs[best]}, the best finished run {words}" in capsys.readouterr().out


def test_a_finished_evaluation_is_shown_again_without_the_model(
    evaluated: tuple[Path, Any, str], capsys: pytest.CaptureFixture[str], no_loading: None
) -> None:
    best, result, shown = evaluated
    again = run_eval("DocVQA", **ASKED, runs=best.parent)
    assert again.records == result.records
    assert again.predictions == result.predictions
    printed = capsys.readouterr().out
    assert "already evaluated in" in printed
    table = [line for line in shown.splitlines() if "baseline" in line]
    assert len(table) == 2
    assert all(line in printed for line in table)


@pytest.mark.parametrize(
    "change", [{"limit": 3}, {"seed": 1}, {"level": 2}, {"batch_size": 1}], ids=lambda change: next(iter(change))
)
def test_another_request_is_another_run(
    change: dict[str, int], evaluated: tuple[Path, Any, str], no_loading: None
) -> None:
    with pytest.raises(ModelWasLoadedError):
        run_eval("DocVQA", **ASKED | change, runs=evaluated[0].parent)


def test_other_weights_under_the_same_name_are_another_run(evaluated: tuple[Path, Any, str], no_loading: None) -> None:
    best, _, _ = evaluated
    config = best / "model" / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(ModelWasLoadedError):
        run_eval("DocVQA", **ASKED, runs=best.parent)


def test_damaged_pages_are_drawn_again(evaluated: tuple[Path, Any, str], no_loading: None) -> None:
    best, result, _ = evaluated
    (table,) = (best.parent / "data").glob("*.tsv")
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    assert run_eval("DocVQA", **ASKED, runs=best.parent).records == result.records
    assert table.read_bytes() == whole


def test_a_preset_is_labelled_as_random_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_eval("DocVQA", **ASKED | {"model": "tiny"}, runs=tmp_path)
    assert {record.extra["weights"] for record in result.records} == {"random"}
    assert "weights: RANDOM" in capsys.readouterr().out
    result = run_eval("DocVQA", **ASKED | {"model": "tiny"}, runs=tmp_path)
    assert {record.extra["weights"] for record in result.records} == {"random"}
    assert "weights: RANDOM" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "no finished run in .*; train one with"),
        ({"data": "official", "model": "tiny"}, r"no official DocVQA_VAL at .*\.tsv; put VLMEvalKit's file there"),
        ({"limit": 10_001, "model": "tiny"}, "at most 10,000 questions"),
        ({"frames": (8, 3)}, "^3 frames of a video cannot be fed, as the vision tower joins 2 into one; .* 2 or 4$"),
        ({"frames": (0,)}, "^0 frames of a video cannot be fed, .* --frames 2$"),
        ({"max_pixels": 10**23}, f"^--max-pixels takes 784 to 1,000,000,000 pixels of area, not {10**23}$"),
        ({"min_pixels": 783}, "^--min-pixels takes 784 to 1,000,000,000 pixels of area, not 783$"),
    ],
    ids=["no run", "no official file", "too many questions", "odd frames", "no frames", "huge area", "no token"],
)
def test_what_cannot_be_asked_is_one_line(change: dict[str, Any], words: str, tmp_path: Path, no_loading: None) -> None:
    with pytest.raises(UserError, match=words) as caught:
        run_eval("DocVQA", **ASKED | change, runs=tmp_path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_judge_that_does_not_answer_is_said_before_the_first_question(
    tmp_path: Path, no_loading: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infinitevl_bench.eval.vlmevalkit import kit

    asked = []

    class Mute:
        def working(self) -> bool:
            asked.append(self)
            return False

    monkeypatch.setattr(kit("vlmeval.dataset.utils"), "build_judge", lambda **_: Mute())
    change: dict[str, Any] = {"model": "tiny", "judge": "gpt-5-foo", "runs": tmp_path}
    with pytest.raises(UserError, match="judge 'gpt-5-foo' does not answer; set its key"):
        run_eval("ChartQA", **ASKED | change)
    assert len(asked) == 1
    # Nobody needs it where nothing is scored.
    with pytest.raises(ModelWasLoadedError):
        run_eval("DocVQA_TEST", **ASKED | change)
    assert len(asked) == 1


def test_an_official_file_that_is_not_vlmevalkits_is_refused(tmp_path: Path, no_official_files: Path) -> None:
    (no_official_files / "DocVQA_VAL.tsv").write_text("index\timage\n0\tx\n")
    words = r"is not the official file: its MD5 is .*; replace it, or use --data synthetic"
    with pytest.raises(UserError, match=words):
        run_eval("DocVQA", **ASKED | {"model": "tiny"}, runs=tmp_path)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100_000])


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("model.safetensors", cut_short, "is cut off after 100,000 bytes, which loses model"),
        ("model.safetensors", Path.unlink, r"no model\.safetensors in"),
        ("config.json", lambda path: path.write_text("{"), r"config\.json cannot be read"),
        ("config.json", lambda path: path.write_text('{"model_type": "hybrid_vl"}'), "describes no model"),
        ("config.json", Path.unlink, r"config\.json"),
    ],
    ids=["truncated weights", "no weights", "broken config", "empty config", "no config"],
)
def test_a_damaged_model_is_one_line(name: str, damage: Any, words: str, tmp_path: Path, weights: Path) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    damage(folder / name)
    with pytest.raises(UserError, match=words) as caught:
        run_eval("DocVQA", **ASKED | {"model": str(folder)}, runs=tmp_path / "runs")
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert not list((tmp_path / "runs").glob("*/result.json"))


def test_a_run_held_by_another_process_is_named(evaluated: tuple[Path, Any, str], no_loading: None) -> None:
    best, result, _ = evaluated
    folder = best.parent / str(result.records[0].run_id)
    with FileLock(str(folder / ".lock")), pytest.raises(RunHeldError, match=f"{folder.name} is held by another"):
        run_eval("DocVQA", **ASKED, runs=best.parent)


def test_a_damaged_prediction_is_named_and_the_others_stay(evaluated: tuple[Path, Any, str]) -> None:
    best, result, _ = evaluated
    folder = best.parent / str(result.records[0].run_id)
    (folder / "result.json").unlink()
    path = folder / "predictions-DocVQA-synthetic.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace("{", "", 1))
    with pytest.raises(UserError, match=r"predictions-DocVQA-synthetic\.jsonl, line 1: damaged; remove the line"):
        run_eval("DocVQA", **ASKED, runs=best.parent)
    path.write_text("".join(whole.splitlines(keepends=True)[1:]))
    assert run_eval("DocVQA", **ASKED, runs=best.parent).records == result.records


@pytest.mark.parametrize("model", ["shipped", "hybrid"])
def test_captured_steps_write_the_same_answers(model: str, weights: Path, tmp_path: Path) -> None:
    """Full attention, whose decoder grows with the prompts, and a hybrid; one prompt at a time in both runs."""
    asked = ASKED | {"model": None if model == "shipped" else str(weights), "limit": 3, "data": "synthetic"}
    plain = run_eval("DocVQA", **asked | {"batch_size": 1}, runs=tmp_path)
    captured = run_eval("DocVQA", **asked | {"batch_size": None, "graph": True}, runs=tmp_path)
    said = [[row["prediction"] for row in result.predictions] for result in (plain, captured)]
    assert said[0] == said[1]
    assert all(said[0])
    assert [record.extra.get("graph") for record in captured.records[:2]] == [True, True]
    assert "graph" not in plain.records[0].extra
    assert captured.records[0].run_id != plain.records[0].run_id


def test_captured_steps_write_one_answer_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave --batch-size out, or --graph"):
        run_eval("DocVQA", **ASKED | {"graph": True}, runs=tmp_path)
