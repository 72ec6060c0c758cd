"""The Python interface: instant to import, tables out, and its page says what happens."""

import doctest
import subprocess
import sys
from pathlib import Path

import infinitevl_bench as ivb
import pytest
from infinitevl_bench.files import package_path


def test_importing_loads_nothing_heavy() -> None:
    script = (
        "import sys, infinitevl_bench as ivb\n"
        "heavy = {'torch', 'pandas', 'numpy', 'pydantic', 'matplotlib', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "ivb.published(), ivb.records(None), ivb.verify()\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_the_page_says_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = package_path("docs", "python.md")
    text = "\n".join(line for line in page.read_text(encoding="utf-8").split("\n") if not line.startswith("```"))
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    said: list[str] = []
    found = runner.run(test, out=said.append)
    assert found.failed == 0, "".join(said)
    assert found.attempted > 8


def test_an_evaluation_gives_a_table(tmp_path: Path) -> None:
    table = ivb.evaluate("ChartQA", data="synthetic", limit=4, blind=False, device="cpu", runs=tmp_path)
    assert set(table["metric"]) == {"score", "page_value"}
    assert set(table["split"]) == {"synthetic"}
    kept = ivb.records(tmp_path)
    assert set(table["run_id"]) <= set(kept["run_id"])


def test_options_are_those_of_the_commands() -> None:
    import inspect

    import typer
    from infinitevl_bench.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    # Of Ray, and of the registered studies.
    only_there = {"ablate": {"ray", "gpus_per_cell", "study", "arm", "frames"}, "eval": set()}
    for name, function in (("ablate", ivb.ablate), ("eval", ivb.evaluate)):
        options = {parameter.name for parameter in commands[name].params} - {"help"} - only_there[name]
        assert set(inspect.signature(function).parameters) == options


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'abalte'"):
        _ = ivb.abalte
    assert set(dir(ivb)) >= {"ablate", "evaluate", "records", "published", "verify"}
    assert all(callable(getattr(ivb, name)) for name in dir(ivb) if not name.startswith("__"))
