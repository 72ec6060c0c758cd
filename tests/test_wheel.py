"""The wheel, built from what git tracks and used from outside: all modules, all data, the commands."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from infinitevl_bench.files import package_path

BUILD = "import sys\nfrom setuptools import build_meta\nprint(build_meta.build_wheel(sys.argv[1]))\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel's contents as an installation would."""
    root = package_path().resolve()
    tracked = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    if pytest.importorskip("setuptools").__version__.split(".")[0] < "77":
        pytest.skip("setuptools 77 or newer builds the wheel")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked.stdout.decode().split("\0"):
        if name and (root / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((root / name).read_bytes())
    subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=source, check=True, timeout=200, capture_output=True)
    (wheel,) = out.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(out / "site")
    return out / "site"


def run(site: Path, *arguments: str, cwd: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_it_holds_every_module_and_all_data(site: Path) -> None:
    root, package = package_path().resolve(), site / "infinitevl_bench"
    tracked = subprocess.run(["git", "-C", str(root), "ls-files"], capture_output=True, text=True, check=True)
    wanted = {
        name
        for name in tracked.stdout.splitlines()
        if not name.startswith(("tests/", "docs/", "."))
        and name.endswith((".py", ".csv", ".jsonl", ".css", ".js", ".html", ".safetensors", ".json"))
    }
    missing = {name for name in wanted if not (package / name).is_file()}
    assert not missing


def test_it_works_from_outside(site: Path, tmp_path: Path) -> None:
    where = run(site, "-c", "import infinitevl_bench; print(infinitevl_bench.__file__)", cwd=tmp_path)
    assert where.startswith(str(site))
    assert "C9  NO DATA" in run(site, "-m", "infinitevl_bench.cli", "verify", cwd=tmp_path)
    assert "index.html" in run(site, "-m", "infinitevl_bench.cli", "report", "--format", "html", cwd=tmp_path)
