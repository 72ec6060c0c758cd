"""The command line: its options are frozen here, its help has examples, and mistakes are one line."""

import subprocess
import sys
from pathlib import Path

import pytest

TRAIN = {
    "--data", "--steps", "--context", "--learning-rate", "--batch-size", "--seed", "--set", "--device", "--runs",
}  # fmt: skip
STUDENT = {"--mixer", "--swa-ratio", "--pattern", "--window"}
PROFILE = ("--dtype", "--quick", "--budget", "--again", "--device", "--runs", "--out")
COMMANDS = {
    ("ablate",): {
        "--study", "--arm", "--frames", "--mixer", "--swa-ratio", "--pattern", "--scale", "--seeds", "--recipe",
        "--match", "--steps", "--learning-rate", "--questions", "--pages", "--jobs", "--ray", "--gpus-per-cell",
        "--device", "--runs",
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


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infinitevl_bench.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=240, check=False)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_options_are_frozen_and_help_has_an_example(command: tuple[str, ...]) -> None:
    import typer
    from infinitevl_bench.cli import app

    click_command = typer.main.get_command(app)
    for name in command:
        click_command = click_command.commands[name]  # type: ignore[attr-defined]
    options = {option for parameter in click_command.params for option in parameter.opts if option.startswith("--")}
    assert options == COMMANDS[command]
    if COMMANDS[command]:
        assert "infinitevl-bench " + " ".join(command) in (click_command.help or "")


def test_no_command_is_missing_above() -> None:
    import typer
    from infinitevl_bench.cli import app

    found = set()
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", {})
        found |= {(name, sub) for sub in below} or {(name,)}
    assert found == set(COMMANDS)


def test_version() -> None:
    from infinitevl_bench import __version__

    assert run("--version").stdout == f"infinitevl-bench {__version__}\n"


MISTAKES = [
    (("ablate", "--mixer", "glaa"), "did you mean gla?"),
    (("ablate", "--swa-ratio", "2/3"), "nearest is"),
    (("ablate", "--swa-ratio", "1/3"), "does not tile 8 layers"),
    (("ablate", "--scale", "smal"), "did you mean small?"),
    (("ablate", "--swa-ratio", "1/4", "--pattern", "SL"), "not both"),
    (("ablate", "--device", "gpu"), "use auto, cpu or cuda"),
    (("ablate", "--match", "parms"), "did you mean params?"),
    (("ablate", "--match", "params"), "use --match state or none, or --recipe scratch"),
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
    (("ablate", "--pattern", ""), "must be made of S"),
    (("ablate", "--swa-ratio", "-1/4"), "nearest is 0"),
    (("eval", "DocVQA", "--model", ""), "--model is empty"),
    (("eval", "Video-MME", "--frames", "999999999999"), "less than or equal to 65536"),
    (("stream", "nothing.mp4"), "is not there"),
    (("profile", "decode", "--context", "99999999999999999999"), "more than can be measured"),
    (("bench", "ops", "--length", "99999999999999999999"), "more than can be measured"),
    (("train", "sft", "--model", ""), "--model is empty"),
    (("convert", "", "new"), "the name of a model is empty"),
    (("convert", "~nobody-of-this-name/x", "new"), "nobody of that name has a home"),
    (("convert", "nowhere", "new"), "no model at nowhere"),
    (("convert", "nowhere", "new", "--to", "infinitvl"), "did you mean infinitevl?"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistake_is_one_line_with_a_way_out(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_debug_shows_the_traceback() -> None:
    done = run("--debug", "ablate", "--mixer", "glaa")
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("what", ["mixers", "benchmarks", "presets", "artifacts", "runs"])
def test_everything_can_be_listed(tmp_path: Path, what: str) -> None:
    done = run("list", what, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = {
        "mixers": "gated_deltanet", "benchmarks": "DocVQA", "presets": "4,408,381,536", "artifacts": "table3",
        "runs": "no runs yet",
    }[what]  # fmt: skip
    assert expected in done.stdout


def test_doctor_says_what_is_usable() -> None:
    done = run("doctor")
    assert done.returncode == 0, done.stderr
    for word in ("torch", "transformers", "fla", "mamba", "flash"):
        assert word in done.stdout
