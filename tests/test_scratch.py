"""Folders for what need not be kept: those of killed processes go, those of living ones never do."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from infinitevl_bench import scratch
from infinitevl_bench.scratch import ScratchFolder

OWNER = (
    "import sys\nfrom infinitevl_bench.scratch import ScratchFolder\n"
    "held = ScratchFolder()\n(held.path / 'page.png').write_bytes(b'x')\n"
    "print(held.path, flush=True)\nsys.stdin.read()\n"
)


@pytest.fixture
def common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files, in which no process has swept."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scratch._sweep_once.cache_clear()
    return tmp_path


def owner(common: Path) -> tuple[subprocess.Popen[str], Path]:
    environment = os.environ | {"TMPDIR": str(common)}
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_gone_when_it_is_left_or_given_up(common: Path) -> None:
    with ScratchFolder() as path:
        assert list(path.iterdir()) == []
        (path / "below").mkdir()
    given_up = ScratchFolder()
    del given_up
    ScratchFolder().remove()
    assert list(common.iterdir()) == []


def test_folders_of_the_killed_go_and_those_of_the_living_stay(common: Path) -> None:
    living, lived_in = owner(common)
    killed, left = owner(common)
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert (left / "page.png").exists()
        with ScratchFolder() as path:
            assert not left.parent.exists()
            assert (lived_in / "page.png").exists()
            assert len(list(common.iterdir())) == 2
            assert path.is_dir()
    finally:
        living.stdin.close() if living.stdin else None
        living.wait()
    assert list(common.iterdir()) == []


def test_a_folder_that_never_got_its_lock_goes_once_it_is_old(common: Path) -> None:
    old, new = (common / f".infinitevl-bench-{name}" for name in ("long_ago", "just_now"))
    for path in (old, new):
        path.mkdir()
    os.utime(old, (0, 0))
    with ScratchFolder():
        assert (old.exists(), new.exists()) == (False, True)


def test_what_this_program_has_not_locked_is_never_touched(common: Path) -> None:
    """A folder without a lock, of another program or an older release, and a link to somebody else's."""
    (common / "infinitevl-bench-my_notes").mkdir()
    precious = common / "precious"
    precious.mkdir()
    (precious / scratch.LOCK).write_text("words")
    (common / "infinitevl-bench-the_link").symlink_to(precious)
    linked = common / "infinitevl-bench-a_linked"
    linked.mkdir()
    (linked / scratch.LOCK).symlink_to(precious / scratch.LOCK)
    before = sorted(common.rglob("*"))
    with ScratchFolder():
        pass
    assert sorted(common.rglob("*")) == before
    assert (precious / scratch.LOCK).read_text() == "words"
