"""Folders that cannot be written to are refused before the work; the check itself leaves nothing behind."""

from pathlib import Path

import pytest
from infinitevl_bench.errors import UserError
from infinitevl_bench.files import check_folder, parse_yaml


@pytest.mark.parametrize("name", ["", "new", "new/newer/newest"])
def test_a_folder_that_can_be_made_is_not_made_yet(tmp_path: Path, name: str) -> None:
    check_folder(tmp_path / name, "--out")
    assert list(tmp_path.iterdir()) == []


def test_a_path_without_a_beginning_is_the_current_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_folder(Path("report"), "--out")
    Path("report").write_text("mine")
    with pytest.raises(UserError, match="report is a file, not a folder; name another with --out"):
        check_folder(Path("report"), "--out")


def test_what_stands_there_or_on_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "to a folder").symlink_to(tmp_path)
    check_folder(tmp_path / "to a folder" / "new", "--runs")
    for name, words in (("file", "file is a file"), ("file/a/b", "file is a file"), ("link/a", "link is a link to")):
        with pytest.raises(UserError, match=f"{words}.*; name another with --runs"):
            check_folder(tmp_path / name, "--runs")
    with pytest.raises(UserError, match=r"cannot write to .*: File name too long; choose another folder with --runs"):
        check_folder(tmp_path / ("x" * 300), "--runs")


@pytest.mark.parametrize(
    "text", ["!!bool x", "!!timestamp x", "!!float x", "? {a: 1}", "{", "!!python/object:os.x {}", "[" * 3000]
)
def test_what_is_no_plain_yaml_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$"):
        parse_yaml(text)


def test_yaml_that_multiplies_is_refused() -> None:
    """Nine lists of nine of the one before: 387 million when they are walked."""
    lines = ["a0: &a0 [1]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))]
    with pytest.raises(ValueError, match="an alias stands for something else"):
        parse_yaml("\n".join(lines))


def test_plain_yaml_is_read() -> None:
    assert parse_yaml("a: [1, 2.5, x, null, true]\nb: {c: '007'}") == {
        "a": [1, 2.5, "x", None, True],
        "b": {"c": "007"},
    }


def test_a_mistake_is_told_in_one_line_that_commands_no_terminal() -> None:
    assert str(UserError("no model at a\nb\x1b[2J\ud800 – größe")) == r"no model at a\nb\x1b[2J\ud800 – größe"
