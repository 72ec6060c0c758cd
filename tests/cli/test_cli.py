"""The command line: its options are frozen here, its help has examples, and mistakes are one line.

Most calls are made in this process, through the entry point itself: a process each would import torch each time.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from infinitevl_bench import __version__, cli

TRAIN = {
    "--data", "--steps", "--context", "--learning-rate", "--batch-size", "--seed", "--set", "--device", "--runs",
}  # fmt: skip
STUDENT = {"--mixer", "--swa-ratio", "--pattern", "--window"}
PROFILE = ("--dtype", "--quick", "--budget", "--again", "--device", "--runs", "--out")
COMMANDS = {
    ("ablate",): {
        "--study", "--arm", "--frames", "--mixer", "--swa-ratio", "--pattern", "--scale", "--seeds", "--recipe",
        "--match", "--teacher", "--steps", "--learning-rate", "--questions", "--pages", "--jobs", "--ray",
        "--gpus-per-cell", "--device", "--runs",
    },
    ("train", "distill-layers"): TRAIN | STUDENT | {"--teacher"},
    ("train", "distill-logits"): TRAIN | STUDENT | {"--teacher", "--model"},
    ("train", "sft"): TRAIN | {"--model"},
    ("train", "long-sft"): TRAIN | {"--model"},
    ("eval",): {
        "--suite", "--model", "--data", "--limit", "--batch-size", "--level", "--seed", "--prompts", "--min-pixels",
        "--max-pixels", "--frames", "--judge", "--blind", "--max-bad", "--graph", "--device", "--runs",
    },
    ("compare",): {"--runs"},
    ("data", "status"): set(),
    ("data", "make-synthetic"): {"--out", "--questions", "--level", "--seed"},
    ("stream",): {"--ask", "--model", "--fps", "--max-frames", "--max-new-tokens", "--device"},
    ("report",): {"--out", "--format", "--check", "--runs"},
    ("verify",): {"--runs"},
    ("runs", "list"): {"--runs"},
    ("runs", "show"): {"--runs"},
    ("runs", "diff"): {"--runs"},
    ("runs", "export"): {"--runs"},
    ("runs", "prune"): {"--yes", "--runs"},
    ("convert",): {"--pattern", "--mixer", "--window", "--to", "--seed"},
    ("list",): {"--runs"},
    ("doctor",): set(),
    ("profile", "all"): {"--model", *PROFILE},
    ("profile", "decode"): {"--model", "--context", "--batch", "--graph", "--protocol", *PROFILE},
    ("profile", "prefill"): {"--model", "--context", "--chunk", "--batch", "--graph", "--protocol", *PROFILE},
    ("profile", "stream"): {"--model", "--frames", "--frame-size", "--graph", "--protocol", *PROFILE},
    ("profile", "memory"): {"--model", "--context", "--batch", *PROFILE},
    ("profile", "training"): {"--model", "--context", "--batch", *PROFILE},
    ("bench", "ops"): {"--mixer", "--length", "--geometry", "--backend", "--scope", "--device", "--out"},
}  # fmt: skip


# All that commands import when they are called.
HEAVY = (
    "ablations.command", "eval.command", "eval.stream_command", "eval.vlmevalkit", "models.convert",
    "profiling.command", "profiling.ops.command", "reports.build", "training.command",
)  # fmt: skip


class Done(NamedTuple):
    """How a call ended, and what it wrote."""

    code: object
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Calls the entry point with some arguments, in an empty folder; what it does not turn into a line is raised."""

    def call(*arguments: str) -> Done:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["infinitevl-bench", *arguments])
        # Empty as if it were not there, and so again afterwards.
        monkeypatch.setenv("INFINITEVL_BENCH_DEBUG", "")
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Done(ended.value.code, *capfd.readouterr())

    return call


def run_process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infinitevl_bench.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_options_are_frozen_and_help_has_an_example(command: tuple[str, ...]) -> None:
    click_command = typer.main.get_command(cli.app)
    for name in command:
        click_command = click_command.commands[name]  # type: ignore[attr-defined]
    options = {option for parameter in click_command.params for option in parameter.opts if option.startswith("--")}
    assert options == COMMANDS[command]
    if COMMANDS[command]:
        assert "infinitevl-bench " + " ".join(command) in (click_command.help or "")


def test_no_command_is_missing_above() -> None:
    found = set()
    for name, command in typer.main.get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", {})
        found |= {(name, sub) for sub in below} or {(name,)}
    assert found == set(COMMANDS)


def test_version(tmp_path: Path) -> None:
    done = run_process("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"infinitevl-bench {__version__}\n", "")


MISTAKES = [
    (("ablate", "--mixer", "glaa"), "did you mean gla?"),
    (("ablate", "--swa-ratio", "2/3"), "nearest is"),
    (("ablate", "--swa-ratio", "1/3"), "does not tile 8 layers"),
    (("ablate", "--scale", "smal"), "did you mean small?"),
    (("ablate", "--swa-ratio", "1/4", "--pattern", "SL"), "not both"),
    (("ablate", "--device", "gpu"), "use auto, cpu or cuda"),
    (("ablate", "--match", "parms"), "did you mean params?"),
    (("ablate", "--teacher", "traind"), "did you mean trained?"),
    (("ablate", "--teacher", "trained", "--recipe", "scratch"), "has no teacher"),
    (("ablate", "--match", "params"), "use --match widen, or --recipe scratch"),
    (("ablate", "--study", "mixer_choise"), "did you mean mixer_choice?"),
    (("ablate", "--study", "swa_ratio", "--arm", "gla_1_3"), "did you mean gla_1_"),
    (("ablate", "--study", "swa_ratio", "--scale", "large"), "unknown scale of a study"),
    (("ablate", "--study", "swa_ratio", "--mixer", "gla"), "--mixer is part of what the study"),
    (("ablate", "--arm", "gla"), "give --study with it"),
    (("eval", "DocVKA"), "did you mean"),
    (("eval", "DocVQA", "--data", "real"), "auto, official or synthetic"),
    (("eval", "DocVQA", "--model", "no/such/folder"), "no model at"),
    (("eval", "DocVQA", "--model", "tinny"), "did you mean tiny?"),
    (("eval", "DocVQA", "--model", "best"), "no finished run"),
    (("eval",), "name benchmarks, or a --suite"),
    (("eval", "--suite", "papre"), "did you mean paper?"),
    (("eval", "DocVQA", "--prompts", "qwn"), "did you mean qwen?"),
    (("compare", "eval-a", "eval-b"), "no finished run eval-a"),
    (("data", "make-synthetic", "DocVKA"), "did you mean DocVQA"),
    (("report", "table33"), "did you mean table3"),
    (("verify", "C11"), "did you mean C1?"),
    (("runs", "show", "ablate-0"), "holds no runs"),
    (("runs", "export", "records.xlsx"), ".parquet, .csv"),
    (("ablate", "--seeds", "many"), "--seeds"),
    (("ablate", "--sedes", "3"), "--seeds"),
    (("eval", "DocVQA", "--batch-size", "0"), "--batch-size"),
    (("convert",), "missing argument"),
    (("reprot",), "report"),
    (("train", "sft", "--bogus"), "infinitevl-bench train sft --help"),
    (("list", "mixer"), "mixers"),
    (("ablate", "--seeds", "99999999999999999999"), "less than or equal to 1000"),
    (("ablate", "--learning-rate", "inf"), "--learning-rate"),
    (("ablate", "--learning-rate", "nan"), "--learning-rate"),
    (("ablate", "--steps", "1e9"), "--steps"),
    (("ablate", "--jobs", "0"), "--jobs"),
    (("ablate", "--ray", "local", "--gpus-per-cell", "inf"), "give a finite one"),
    (("ablate", "--ray", "local", "--gpus-per-cell", "nan"), "--gpus-per-cell"),
    (("ablate", "--questions", "1000000000000"), "at most 10,000 questions"),
    (("train", "sft", "--set", "learning_rate=.inf"), "takes a finite number above 0 and at most 10, not inf"),
    (("train", "sft", "--set", "steps=true"), "takes a whole number above 0 and at most 1,000,000,000, not true"),
    (("train", "sft", "--learning-rate", "nan"), "--learning-rate"),
    (("train", "sft", "--seed", "-1"), "greater than or equal to 0"),
    (("train", "sft", "--context", "0"), "--context"),
    (("train", "sft", "--data", "pages:charts=nan"), "weights are positive numbers, not nan"),
    (("train", "sft", "--data", "pages:charts:99999999999999999999"), "no number of pages of up to 9 digits"),
    (("train", "sft", "--data", "pages:charts:²"), "'²' is no number of pages"),
    (("train", "distill-layers", "--window", "99999999999999999999"), "--window"),
    (("eval", "DocVQA", "--limit", "-1"), "--limit"),
    (("eval", "DocVQA", "--seed", "-1"), "greater than or equal to 0"),
    (("eval", "DocVQA", "--seed", "99999999999999999999"), "less than or equal to 4294967295"),
    (("eval", "Video-MME", "--frames", "0"), "--frames"),
    (("profile", "decode", "--budget", "inf"), "give a finite one"),
    (("profile", "decode", "--context", "0"), "use 1 or more"),
    (("profile", "decode", "--batch", "99999999999999"), "--batch"),
    (("profile", "stream", "--frame-size", "0"), "greater than or equal to 28"),
    (("profile", "stream", "--frame-size", "2800000000"), "less than or equal to 8192"),
    (("profile", "prefill", "--chunk", "99999999999999999999"), "--chunk"),
    (("profile", "prefill", "--chunk", "0"), "use --chunk 2 or more"),
    (("data", "make-synthetic", "DocVQA", "--seed", "-1"), "greater than or equal to 0"),
    (("convert", "teacher", "new", "--pattern", "SLLL", "--seed", "-1"), "greater than or equal to 0"),
    (("convert", "teacher", "new", "--pattern", "SLLL", "--window", "99999999999999999999"), "--window"),
    (("stream", "nothing.mp4", "--fps", "inf"), "give a finite one"),
    (("ablate", "--pattern", ""), "must be made of S"),
    (("ablate", "--swa-ratio", "-1/4"), "nearest is 0"),
    (("eval", "DocVQA", "--model", ""), "--model is empty"),
    (("eval", "Video-MME", "--frames", "999999999999"), "less than or equal to 65536"),
    (("stream", "nothing.mp4"), "is not there"),
    (("profile", "decode", "--context", "99999999999999999999"), "more than can be measured"),
    (("bench", "ops", "--length", "99999999999999999999"), "more than can be measured"),
    (("train", "sft", "--model", ""), "--model is empty"),
    (("report", "--out", ""), "the name of a file or folder is empty"),
    (("train", "sft", "--runs", ""), "the name of a file or folder is empty"),
    (("runs", "list", "--runs", " "), "the name of a file or folder is empty"),
    (("convert", "x", ""), "the name of a file or folder is empty"),
    (("convert", "", "new"), "the name of a model is empty"),
    (("convert", "~nobody-of-this-name/x", "new"), "nobody of that name has a home"),
    (("convert", "nowhere", "new"), "no model at nowhere"),
    (("convert", "nowhere", "new", "--to", "infinitvl"), "did you mean infinitevl?"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistake_is_one_line_with_a_way_out(run: Run, arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux has a /proc, which takes no folder")
LONG = "x" * 300
PLACES = [
    pytest.param(("eval", "DocVQA", "--runs", "/proc/x"), "choose another folder with --runs", marks=NEEDS_PROC),
    pytest.param(("report", "--check", "--out", "/proc/x"), "name the folder of one with --out", marks=NEEDS_PROC),
    (("eval", "DocVQA", "--runs", LONG), "choose another folder with --runs"),
    (("report", "--check", "--out", LONG), "name another file or folder"),
    (("runs", "list", "--runs", LONG), "name another"),
]


@pytest.mark.parametrize(("arguments", "words"), PLACES)
def test_an_impossible_place_is_refused_before_anything_else_is_said(
    run: Run, arguments: tuple[str, ...], words: str
) -> None:
    done = run(*arguments)
    assert (done.code, done.stdout) == (1, "")
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("arguments", [("reprot",), ("ablate", "--mixer", "glaa")], ids=" ".join)
def test_a_mistake_is_one_line_of_a_process_too(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run_process(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_what_commands_import_says_nothing() -> None:
    """Warnings of an import would stand above that line; in this process pytest would keep them."""
    script = "".join(f"import infinitevl_bench.{name}\n" for name in HEAVY)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


MISTYPED = [
    ["ablate", "--mixer", "gla", "--mixer", "glaa"],
    ["ablate", "--study", "mixer_choise"],
    ["ablate", "--study", ""],
    ["bench", "ops", "--mixer", "glaa"],
    ["convert", "teacher", "student", "--mixer", "glaa"],
    ["train", "distill-layers", "--data", "pages:charts", "--mixer", "glaa"],
    ["eval", "DocVQAA"],
    ["verify", "C99"],
    ["report", "tabel3"],
]


def test_a_mistyped_name_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    script = f"""
import sys
from infinitevl_bench.cli import main
for arguments in {MISTYPED}:
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as ended:
        print(ended.code, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.splitlines() == ["2 False"] * len(MISTYPED), done.stderr
    assert done.stderr.count("unknown") == len(MISTYPED)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run_process("--debug", "runs", "show", "ablate-0", cwd=tmp_path)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("what", ["mixers", "benchmarks", "presets", "artifacts", "runs"])
def test_everything_can_be_listed(run: Run, what: str) -> None:
    done = run("list", what)
    assert done.code == 0, done.stderr
    expected = {
        "mixers": "gated_deltanet", "benchmarks": "DocVQA", "presets": "4,408,381,536", "artifacts": "table3",
        "runs": "no runs yet",
    }[what]  # fmt: skip
    assert expected in done.stdout


def test_doctor_says_what_is_usable(run: Run) -> None:
    done = run("doctor")
    assert done.code == 0, done.stderr
    for word in ("torch", "transformers", "fla", "mamba", "flash"):
        assert word in done.stdout
