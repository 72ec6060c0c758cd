"""CONTRIBUTING's texts on how to add a mixer, a benchmark, a claim and a table, done as they say in a copy."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from infinitevl_bench.files import package_path

PAGE = package_path("CONTRIBUTING.md")
# Calls the commands of the texts one after the other in one process, as they would be called in a shell.
DRIVER = """
import sys
from infinitevl_bench.cli import app
for line in sys.argv[1:]:
    print("$", line, flush=True)
    print("exit", app(line.split()[1:], prog_name="infinitevl-bench", standalone_mode=False), flush=True)
"""


class Block(NamedTuple):
    """A fenced block and the paragraph that says what to do with it."""

    section: str
    text: str
    language: str
    code: str


def blocks() -> Iterator[Block]:
    """The fenced blocks of the part on how to add things."""
    part = PAGE.read_text(encoding="utf-8").partition("## How to add …")[2].partition("\n## ")[0]
    section, paragraph = "", ""
    for piece in re.split(r"(?ms)^(```\w+\n.*?^```)$", part):
        if found := re.fullmatch(r"(?s)```(\w+)\n(.*)```", piece):
            yield Block(section, paragraph, found[1], found[2])
            continue
        for heading in re.findall(r"(?m)^### … (.+)$", piece):
            section = heading
        paragraph = " ".join(piece.strip().rpartition("\n\n")[2].split())


def apply(block: Block, root: Path) -> None:
    """Do to the copy what the last sentence before the block says."""
    sentence = block.text
    if found := re.search(r"Write `([^`]+)`:$", sentence):
        assert not (root / found[1]).exists()
        (root / found[1]).write_text(block.code, encoding="utf-8")
        return
    found = re.search(r"(Add to|Put above) `([^`]+)` in `([^`]+)`:$", sentence)
    assert found, f"nobody can tell what to do with the block after {sentence!r}"
    how, name, path = found.groups()
    lines = (root / path).read_text(encoding="utf-8").splitlines(keepends=True)
    if how == "Put above":
        (at,) = [number for number, line in enumerate(lines) if re.match(rf"\s*{re.escape(name)}", line)]
    else:
        (start,) = [number for number, line in enumerate(lines) if re.match(rf"{name}\b[^=]*= \{{", line)]
        if lines[start].rstrip().endswith("{}"):
            lines[start : start + 1] = [lines[start].rstrip()[:-1] + "\n", "}\n"]
        at = next(number for number in range(start, len(lines)) if lines[number].startswith("}"))
    lines.insert(at, block.code)
    (root / path).write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the texts' commands printed: by command, and that of all their tests under ``pytest``."""
    folder = tmp_path_factory.mktemp("how-to")
    root = folder / "infinitevl_bench"
    leave = shutil.ignore_patterns(".*", "runs", "report", "__pycache__", "node_modules", "*.egg-info", "shared")
    shutil.copytree(package_path().resolve(), root, ignore=leave)
    for block in blocks():
        if block.language != "console":
            apply(block, root)
    lines = [line for block in blocks() if block.language == "console" for line in block.code.splitlines()]
    environment = os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    output = run(environment, folder, "-c", DRIVER, *(line for line in lines if line.startswith("infinitevl-bench ")))
    found = dict(re.findall(r"(?ms)^\$ (.+?)\n(.*?)(?=^\$ |\Z)", output))
    # Every `pytest FILE -k WORD` in one process, which imports torch and VLMEvalKit once.
    tests = [shlex.split(line) for line in lines if line.startswith("pytest ")]
    assert len(tests) + len(found) == len(lines)
    words = " or ".join(words[3] for words in tests)
    files = list(dict.fromkeys(words[1] for words in tests))
    return found | {"pytest": run(environment, root, "-m", "pytest", "-v", "-p", "no:xdist", *files, "-k", words)}


def run(environment: dict[str, str], folder: Path, *arguments: str) -> str:
    process = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=280,
        check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    return process.stdout


def passed(done: dict[str, str], file: str, word: str) -> int:
    return len(re.findall(rf"(?m)^\S*{file}::.*{word}.* PASSED", done["pytest"]))


def test_every_text_has_its_blocks() -> None:
    sections = [block.section for block in blocks()]
    assert list(dict.fromkeys(sections)) == ["a mixer", "a benchmark", "a claim", "a table or figure"]
    for section in set(sections):
        languages = [block.language for block in blocks() if block.section == section]
        assert languages[-1] == "console"
        assert len(languages) > 1


def test_the_mixer_is_listed_and_holds_the_contract(done: dict[str, str]) -> None:
    row = next(line for line in done["infinitevl-bench list mixers"].splitlines() if line.startswith("learned_decay"))
    assert "forgets at a rate which every head learns" in row
    # Equations, one pass against token by token, pieces through the cache, padding, packing; options and lengths.
    assert passed(done, r"test_mixer\w+\.py", "learned_decay") > 40
    assert passed(done, "test_mixers.py", r"equations\[T66-learned_decay") == 5


def test_the_benchmark_is_listed_and_its_twin_is_made_and_scored(done: dict[str, str]) -> None:
    listed = done["infinitevl-bench list benchmarks"].splitlines()
    assert "none: not in the paper" in next(line for line in listed if line.startswith("InfoVQA"))
    assert "InfoVQA: synthetic/InfoVQA_VAL_SYNTH" in done["infinitevl-bench data make-synthetic InfoVQA --questions 3"]
    assert passed(done, "test_twins.py", r"official_scorer\[InfoVQA") == 1
    assert passed(done, "test_benchmarks.py", "InfoVQA") == 1


def test_the_claim_is_judged(done: dict[str, str]) -> None:
    said = done["infinitevl-bench verify C10"]
    assert "C10  REPRODUCED" in said
    assert "NVIDIA H200: at most 1.4" in said
    assert passed(done, "test_claims.py", r"follows_its_rule\[C10") == 3


def test_the_table_is_made(done: dict[str, str]) -> None:
    assert "tokens_a_second" in done["infinitevl-bench list artifacts"]
    assert "2 files in report" in done["infinitevl-bench report tokens_a_second --format md"]
    assert passed(done, "test_artifacts.py", "tokens_a_second") >= 4
