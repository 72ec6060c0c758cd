"""What users call their folders and files is shown as it is, and commands neither the console nor the terminal."""

import io
import json
from pathlib import Path

import pytest
from accelerate import PartialState
from infinitevl_bench.ablations.progress import GridProgress
from infinitevl_bench.data.sources import open_source
from infinitevl_bench.models.processor import load_processor
from infinitevl_bench.printing import PlainConsole
from infinitevl_bench.profiling.command import show
from infinitevl_bench.records import Record
from infinitevl_bench.training.command import inspect_all, length_table
from infinitevl_bench.training.stages import stage_settings
from rich.table import Table

NAMES = ["[/]runs", "[red]x", "[link=file:/etc]a", ":boom:", "a\\[b]"]


def console(**options: bool) -> tuple[PlainConsole, io.StringIO]:
    shown = io.StringIO()
    return PlainConsole(file=shown, width=400, **options), shown


@pytest.mark.parametrize("name", NAMES)
def test_brackets_and_colons_are_no_markup(name: str) -> None:
    plain, shown = console()
    table = Table(name, title=name, caption=name)
    table.add_row(name)
    plain.print(name)
    plain.print(table)
    assert shown.getvalue().count(name) == 5


def test_a_name_commands_no_terminal() -> None:
    plain, shown = console(force_terminal=True)
    plain.print("runs\x1b]0;owned\x07", highlight=False)
    assert shown.getvalue() == "runs\\x1b]0;owned\\x07\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_grid_says_where_its_runs_are(name: str) -> None:
    plain, shown = console()
    plain.print(GridProgress([], Path(name)).table())
    assert f"in {name}" in shown.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_names_its_model(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    record = Record(
        artifact="fig4_latency", model=name, source="measured", metric="latency_ms", unit="ms", value=1.0, pattern="F",
        extra={"path": "eager"},
    )  # fmt: skip
    show([record])
    assert name in capsys.readouterr().out


def test_data_are_named_in_the_bar_of_their_inspection_and_in_its_table(tmp_path: Path) -> None:
    data = tmp_path / "[/]data.json"
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    data.parent.mkdir()
    data.write_text(json.dumps([{"messages": talk}]))
    plain, shown = console(force_terminal=True, force_interactive=True)
    settings, state = stage_settings("sft", {}, "cpu"), PartialState(cpu=True)
    found = inspect_all([open_source(str(data))], load_processor(), settings, tmp_path / "cache", state, plain)
    assert "[/]data.json" in shown.getvalue()
    plain.print(length_table(found, [1.0]))
    assert shown.getvalue().count("[/]data.json") > 1
