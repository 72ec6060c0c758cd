"""The diagnosis says what is there, what is not, and why, whatever the state of the machine."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitevl_bench import doctor
from infinitevl_bench.models import registry
from infinitevl_bench.models.ops.kernels import Call
from infinitevl_bench.models.registry import get_mixer, get_recurrence, mixer_names, recurrent_mixers

GPU = torch.cuda.is_available()


def diagnosis(capsys: pytest.CaptureFixture[str]) -> str:
    doctor.print_diagnosis()
    return capsys.readouterr().out


def test_everything_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    said = diagnosis(capsys)
    for package in doctor.PACKAGES:
        assert f"{package} " in said
    for version in (metadata.version("torch"), metadata.version("transformers"), metadata.version("infinitevl-bench")):
        assert version in said
    for word in (*mixer_names(), "[mamba]", "[flash]", "[ray]", "[dev]", "cpu", "official benchmark files", "GiB"):
        assert word in said


def test_it_imports_neither_vlmeval_nor_a_kernel_library() -> None:
    code = (
        "import sys; from infinitevl_bench.doctor import print_diagnosis; print_diagnosis();"
        "loaded = {'vlmeval', 'fla', 'mamba_ssm', 'flash_attn'} & set(sys.modules); "
        "sys.exit(repr(loaded) if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


def test_packages_that_are_not_there() -> None:
    assert doctor.installed_version("no-such-package-anywhere") is None
    assert doctor.installed_version("torch") == metadata.version("torch")


def test_backends_are_what_the_recurrences_choose() -> None:
    rows = list(doctor.backends())
    on_cpu = {row[0]: row for row in rows if row[1] == "cpu"}
    assert list(on_cpu) == recurrent_mixers()
    for name, _, inference, training, why in on_cpu.values():
        call = Call("cpu", torch.float32, T=1024, K=128, V=256)
        for chosen, with_gradient in ((inference, False), (training, True)):
            assert chosen == get_recurrence(name).resolve("auto", call._replace(with_gradient=with_gradient))
        assert why
    without = [row for row in rows if row[0] not in on_cpu]
    assert [row[0] for row in without] == [name for name in mixer_names() if name not in recurrent_mixers()]
    assert all("no recurrence" in row[4] for row in without)
    assert {row[1] for row in rows if row[1]} == ({"cpu", "cuda"} if GPU else {"cpu"})


def test_a_mixer_that_cannot_be_loaded_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(name: str) -> Any:
        if name == "gla":
            raise ImportError("no module named theirs")
        return get_mixer(name)

    monkeypatch.setattr(registry, "get_mixer", load)
    rows = {row[0]: row for row in doctor.backends()}
    assert rows["gla"][4] == "the mixer cannot be loaded: ImportError: no module named theirs"
    assert rows["mamba2"][2] == "torch"
    assert "cannot be loaded" in " ".join(diagnosis(capsys).split())


@pytest.mark.parametrize(
    ("inference", "training", "said"),
    [
        ({}, {}, ""),
        ({}, {"fla": "its backward kernel is wrong"}, "fla, training: its backward kernel is wrong"),
        ({"fla": "not here"}, {"fla": "not here"}, "fla: not here"),
        ({"fla": "not here", "mamba_ssm": "nor here"}, {"fla": "not here", "mamba_ssm": "nor here"},
         "fla: not here; mamba_ssm: nor here"),
    ],
)  # fmt: skip
def test_reasons_are_said_once_each(inference: dict[str, str], training: dict[str, str], said: str) -> None:
    assert doctor._reasons(inference, training) == said


def pretend(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    """Pretend that packages are installed, or not, in some version."""
    known = {name.replace("_", "-"): version for name, version in versions.items()}
    real = doctor.installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda name: known[name] if name in known else real(name))


def test_extras_that_are_not_installed_say_how(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, mamba_ssm=None, flash_attn=None, ray=None)
    rows = {row[0]: row for row in doctor.extras()}
    assert rows.keys() == {"[mamba]", "[flash]", "[ray]", "[dev]"}
    assert rows["[mamba]"][1:] == ("no", "mamba-ssm not installed", "pip install 'infinitevl-bench[mamba]'")
    assert rows["[flash]"][2] == "flash-attn not installed"


def test_extras_that_are_too_old_say_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, ray="1.0")
    monkeypatch.setattr(doctor, "import_trouble", lambda module: None)
    assert doctor.extra_trouble("ray") == "ray 1.0 is installed, >=2.40 is needed"
    pretend(monkeypatch, ray="2.50")
    assert doctor.extra_trouble("ray") is None


def test_extras_that_are_broken_say_how(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, mamba_ssm="2.3.2", flash_attn="2.9")
    monkeypatch.setattr(doctor, "import_trouble", lambda module: "its import fails: ImportError: libcudart")
    assert doctor.extra_trouble("mamba") == "mamba-ssm is installed, but its import fails: ImportError: libcudart"
    monkeypatch.setattr(doctor, "import_trouble", lambda module: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert doctor.extra_trouble("flash") == "installed, but torch sees no CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert doctor.extra_trouble("flash") is None


def test_imports_are_really_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_extra.py").write_text("raise ImportError('undefined symbol: _ZN3c10')\n")
    (tmp_path / "dying_extra.py").write_text("import os\nos._exit(7)\n")
    (tmp_path / "sound_extra.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert doctor.import_trouble("broken_extra") == "its import fails: ImportError: undefined symbol: _ZN3c10"
    assert doctor.import_trouble("dying_extra") == "its import fails: exit code 7"
    assert doctor.import_trouble("sound_extra") is None
    assert (
        doctor.import_trouble("missing_extra")
        == "its import fails: ModuleNotFoundError: No module named 'missing_extra'"
    )


def test_official_files_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMUData", str(tmp_path))
    state = dict(doctor.files())["official benchmark files"]
    assert state.startswith(f"0 of 13 in {tmp_path}")
    (tmp_path / "DocVQA_VAL.tsv").write_text("")
    (tmp_path / "DocVQA_VAL_SYNTH.tsv").write_text("")
    assert dict(doctor.files())["official benchmark files"].startswith(f"1 of 13 in {tmp_path}: DocVQA;")


def test_missing_assets_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "package_path", lambda *parts: tmp_path.joinpath(*parts))
    state = dict(doctor.files())
    assert state["tokenizer"].startswith(f"missing: {tmp_path}")
    for parts in doctor.ASSETS.values():
        path = tmp_path.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    state = dict(doctor.files())
    assert {state[what] for what in doctor.ASSETS} == {"there"}


def test_free_space_is_that_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dict(doctor.files())["free disk space here"].endswith(f"GiB in {tmp_path}")
