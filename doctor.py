"""The `doctor` command: what is installed, what this machine has, which backends and extras are usable, and why not."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from rich.table import Table

from .printing import PlainConsole
from .records import package_path

DISTRIBUTION = "infinitevl-bench"

PACKAGES = (
    "torch", "torchvision", "transformers", "accelerate", "peft", "safetensors", "triton", "flash-linear-attention",
    "fla-core", "tilelang", "mamba-ssm", "flash-attn", "ms-vlmeval", "pandas", "numpy", "matplotlib", "ray",
)  # fmt: skip

IMPORTED = {"mamba-ssm": "mamba_ssm", "flash-attn": "flash_attn", "ray": "ray"}
"""Packages of extras whose import can fail although they are installed, since they hold compiled code."""

NEEDS_GPU = frozenset({"mamba", "flash"})

ASSETS = {
    "tokenizer": ("models", "assets", "tokenizer", "tokenizer.json"),
    "vision tower, configuration": ("models", "assets", "vision_tower", "config.json"),
    "vision tower, weights": ("models", "assets", "vision_tower", "model.safetensors"),
}
"""Files that the package ships and the embedded presets need."""

IMPORT_SECONDS = 120
"""Longest wait for the import of an extra in a process of its own."""

GIB = 2**30


def print_diagnosis() -> None:
    """Print versions, devices, backends of every mixer, extras, data, and disk space. Needs no network and no GPU.

    Whatever is missing is said, with the command that mends it; nothing of it is an error of this command.
    """
    console = PlainConsole()
    for title, headings, rows in (
        ("versions", ("package", "version"), versions()),
        ("devices", ("device", "what it is"), devices()),
        ("backends of the mixers", ("mixer", "device", "inference", "training", "why no kernel"), backends()),
        ("extras", ("extra", "usable", "why not", "install with"), extras()),
        ("files", ("what", "state"), files()),
    ):
        # The last column folds; the names in front of it stay whole.
        table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
        for number, heading in enumerate(headings):
            table.add_column(heading, no_wrap=number == 0, overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        console.print()


def versions() -> Iterable[tuple[str, str]]:
    """(package, version or "not installed"), Python and this package first."""
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in (DISTRIBUTION, *PACKAGES):
        yield name, installed_version(name) or "not installed"


def installed_version(package: str) -> str | None:
    """The version of an installed distribution, None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def devices() -> Iterable[tuple[str, str]]:
    """(device, what it is): the CPU and every GPU that torch sees."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = _memory_bytes()
    shown = "" if memory is None else f", {memory / GIB:.1f} GiB memory"
    yield "cpu", f"{cores} cores usable{shown}, torch uses {torch.get_num_threads()} threads"
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        yield (
            "cuda",
            "none: "
            + (
                f"torch is built for {built} but sees no GPU (no driver, or none visible)"
                if built
                else "torch is a CPU build"
            ),
        )
        return
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        capability = f"capability {found.major}.{found.minor}"
        yield f"cuda:{index}", f"{found.name}, {capability}, {found.total_memory / GIB:.0f} GiB memory"


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        # Not every system has sysconf, or these names.
        return None


def backends() -> Iterable[tuple[str, str, str, str, str]]:
    """(mixer, device, backend of inference, of training, why no kernel), asked of the recurrences themselves.

    The shape is that of a layer of infinitevl-4b: on a GPU bfloat16, keys of 128 and values of 256.
    """
    import torch

    from .models.ops.kernels import Call
    from .models.registry import get_mixer, mixer_names

    calls = {"cpu": Call("cpu", torch.float32, T=1024, K=128, V=256)}
    if torch.cuda.is_available():
        calls["cuda"] = Call("cuda", torch.bfloat16, T=1024, K=128, V=256)
    for name in mixer_names():
        try:
            recurrence = get_mixer(name).recurrence
        except Exception as error:  # noqa: BLE001 - a broken mixer of another package is a finding, not an end
            yield name, "", "", "", f"the mixer cannot be loaded: {type(error).__name__}: {error}"
            continue
        if recurrence is None:
            yield name, "", "", "", "it has no recurrence, so nothing runs on a backend"
            continue
        for device, call in calls.items():
            inference, why = recurrence.choose(call)
            training, why_training = recurrence.choose(call._replace(with_gradient=True))
            yield name, device, inference, training, _reasons(why, why_training)


def _reasons(inference: dict[str, str], training: dict[str, str]) -> str:
    """Library → why not, in one line; what holds for training alone is said to."""
    said = [f"{library}: {reason}" for library, reason in inference.items()]
    said += [
        f"{library}, training: {reason}" for library, reason in training.items() if inference.get(library) != reason
    ]
    return "; ".join(said)


def extras() -> Iterable[tuple[str, str, str, str]]:
    """(extra, "yes" or "no", why not, the command that installs it), as this package's own metadata list them."""
    try:
        declared = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        yield "unknown", "no", f"{DISTRIBUTION} is not installed", "pip install -e ."
        return
    for extra in declared:
        trouble = extra_trouble(extra)
        install = "" if trouble is None else f"pip install '{DISTRIBUTION}[{extra}]'"
        yield f"[{extra}]", "yes" if trouble is None else "no", trouble or "", install


def extra_trouble(extra: str) -> str | None:
    """Why an extra is not usable here; None where it is.

    What holds compiled code is imported in a process of its own, so that a broken build is found and does no harm.
    """
    requirements = _requirements(extra)
    if not requirements:
        return "nothing of it runs on this platform"
    versions = {requirement: installed_version(requirement.name) for requirement in requirements}
    missing = [requirement.name for requirement, version in versions.items() if version is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    for requirement, version in versions.items():
        if version is not None and not requirement.specifier.contains(version, prereleases=True):
            return f"{requirement.name} {version} is installed, {requirement.specifier} is needed"
    for requirement in requirements:
        trouble = import_trouble(IMPORTED[requirement.name]) if requirement.name in IMPORTED else None
        if trouble is not None:
            return f"{requirement.name} is installed, but {trouble}"
    if extra in NEEDS_GPU:
        import torch

        if not torch.cuda.is_available():
            return "installed, but torch sees no CUDA device"
    return None


def _requirements(extra: str) -> Sequence[Requirement]:
    """What an extra adds on this platform."""
    found = []
    for line in metadata.requires(DISTRIBUTION) or []:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        marker = requirement.marker
        if marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            found.append(requirement)
    return found


def import_trouble(module: str) -> str | None:
    """Why a module cannot be imported, as the last line of its error; None where it can."""
    command = [sys.executable, "-c", f"import {module}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return f"its import takes over {IMPORT_SECONDS} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return f"its import fails: {lines[-1] if lines else f'exit code {done.returncode}'}"


def files() -> Iterable[tuple[str, str]]:
    """(what, state): official benchmark files, what the package ships, and the space in the current folder."""
    from .eval.benchmarks import BENCHMARKS
    from .eval.sources import official_path

    paths = {name: official_path(benchmark) for name, benchmark in BENCHMARKS.items()}
    there = [name for name, path in paths.items() if path.is_file()]
    folder = next(iter(paths.values())).parent
    yield "official benchmark files", (
        f"{len(there)} of {len(paths)} in {folder}" + (f": {', '.join(there)}" if there else "")
        + ("" if len(there) == len(paths) else "; the others are scored on synthetic twins, where there are any")
    )  # fmt: skip
    for what, parts in ASSETS.items():
        path = package_path(*parts)
        yield what, "there" if path.is_file() else f"missing: {path}; reinstall the package"
    for what, folder_name, pattern in (("published", "published", "*.csv"), ("measured", "measured", "*.jsonl")):
        count = len(list(package_path("reports", folder_name).glob(pattern)))
        yield f"{what} results shipped", f"{count} files"
    yield "free disk space here", f"{shutil.disk_usage(Path.cwd()).free / GIB:.1f} GiB in {Path.cwd()}"
