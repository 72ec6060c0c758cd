"""The lock: versions alone, each once, and what pyproject.toml asks for; the page about it says what is installed."""

import importlib.util
import re
import sys
from importlib import metadata
from types import ModuleType

import pytest
from infinitevl_bench.files import package_path
from packaging.markers import Marker
from packaging.requirements import Requirement

LINES = package_path("requirements.lock").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dependencies_page", package_path("docs", "dependencies.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_every_package_is_pinned_once_wherever_it_is_installed(python: str, system: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": system}
    wanted = [Requirement(line) for line in LINES]
    names = [one.name for one in wanted if one.marker is None or one.marker.evaluate(environment)]
    assert len(names) == len(set(names)) > 100


def test_nothing_but_names_versions_and_markers_is_in_the_lock(page: ModuleType) -> None:
    assert sorted(LINES, key=lambda line: re.split("==", line)[0]) == LINES
    assert not [line for line in LINES if "@" in line or "://" in line or line.startswith("-")]
    for line in LINES:
        (pin,) = Requirement(line).specifier
        assert (pin.operator, "*" in pin.version) == ("==", False), line
    assert sum(len(versions) for versions in page.locked().values()) == len(LINES)


def test_the_lock_holds_what_pyproject_asks_for(page: ModuleType) -> None:
    for name, asked in page.direct().items():
        for version in page.locked()[name]:
            assert Requirement(asked).specifier.contains(version, prereleases=True), f"{asked}, but {version} is locked"


def test_the_page_is_what_the_packages_say(page: ModuleType) -> None:
    def applies(line: str) -> bool:
        marker = Requirement(line).marker
        return marker is None or Marker(str(marker)).evaluate()

    for line in filter(applies, LINES):
        name, version = line.partition(" ;")[0].split("==")
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed = ""
        if installed != version:
            pytest.skip(f"{name} {installed or 'is not'} installed, {version} is locked: licences may differ")
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), f"{sys.executable} docs/dependencies.py writes it anew"
    assert set(page.WHAT_FOR) == set(page.direct())
