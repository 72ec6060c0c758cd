"""Writes docs/dependencies.md: what this project depends on directly, and what of the lock has terms of its own.

    python docs/dependencies.py

Licences are what the installed packages say of themselves; packages that are not installed here are left out.
"""

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = Path(__file__).with_name("dependencies.md")

WHAT_FOR = {
    "torch": "models, training",
    "torchvision": "transformers' picture processors",
    "transformers": "the backbone Qwen2.5-VL, tokenizers, generation",
    "flash-linear-attention": "GPU kernels of the mixers",
    "accelerate": "DDP, FSDP2, several processes of `eval`",
    "peft": "LoRA",
    "datasets": "instruction data in Hugging Face's formats",
    "opencv-python": "videos",
    "safetensors": "weights and checkpoints",
    "ms-vlmeval": "VLMEvalKit: dataset classes and scorers",
    "pandas": "tables",
    "numpy": "arrays",
    "scipy": "intervals",
    "matplotlib": "figures",
    "pillow": "pages and pictures",
    "jinja2": "the HTML report",
    "packaging": "versions in `doctor`",
    "openpyxl": "spreadsheets that VLMEvalKit writes",
    "pydantic": "records and specs",
    "pyyaml": "specs of runs",
    "filelock": "one process a run",
    "rich": "tables and bars in a terminal",
    "typer": "the command line",
    "pytest": "tests",
    "pytest-timeout": "tests",
    "pytest-xdist": "tests",
    "hypothesis": "tests",
    "ruff": "linting",
    "mypy": "types",
    "import-linter": "the direction of imports",
    "pandas-stubs": "types",
    "types-pyyaml": "types",
}
# What asks more of who passes it on than to keep its notice.
TERMS = re.compile(r"GPL|MPL|Mozilla|Lesser|Proprietary", re.IGNORECASE)
LOCK_LINE = re.compile(r"(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>[^ ]+)( ; (?P<marker>.+))?")


def locked() -> dict[str, list[str]]:
    """Name → its versions in the lock, one a marker.

    Raises:
        ValueError: for a line that pins no version of a name, such as one with an address.
    """
    found: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        parts = LOCK_LINE.fullmatch(line)
        if parts is None:
            raise ValueError(f"requirements.lock: {line!r} pins no version")
        found.setdefault(parts["name"], []).append(parts["version"])
    return found


def direct() -> dict[str, str]:
    """Name of what pyproject.toml asks for → its whole requirement; that of tests and linters included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return {re.split(r"[^\w.-]", one)[0].lower(): one for one in wanted}


def licence(name: str) -> str:
    """What a package says of its licence, in one line; "not installed" where it is not here."""
    try:
        said = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return "not installed"
    classes = [one.rpartition(" :: ")[2] for one in said.get_all("Classifier", []) if one.startswith("License")]
    text = said.get("License-Expression") or "; ".join(classes) or said.get("License") or "not said"
    return text.strip().splitlines()[0]


def asked_by(name: str) -> list[str]:
    """The packages of the lock that require a package."""

    def needs(other: str) -> Iterator[str]:
        try:
            lines = metadata.requires(other) or []
        except metadata.PackageNotFoundError:
            return
        for line in lines:
            if "extra ==" not in line:
                yield re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", line)[0]).lower()

    return sorted(other for other in locked() if name in needs(other))


def page() -> str:
    """The page."""
    names = direct()
    lines = [
        "# Dependencies", "",
        f"`requirements.lock` pins {len(locked())} packages by version, with no address and no option; `make` installs",
        "these and nothing else. `python docs/dependencies.py` writes this page from what packages say of themselves;",
        "a test holds it to the lock and to the licences that are installed.", "",
        "`pip-audit --requirement requirements.lock --disable-pip --no-deps` looks the versions up among the known",
        "vulnerabilities. It needs the network, so it is not part of the tests.", "",
        "## Asked for directly", "",
        "| package | locked | licence | what for |", "|---|---|---|---|",
        *(f"| {name} | {', '.join(locked()[name])} | {licence(name)} | {WHAT_FOR[name]} |" for name in names), "",
        "Extras, never installed by `make`: mamba-ssm (`[mamba]`), flash-attn (`[flash]`), ray (`[ray]`).", "",
        "## With terms of their own", "",
        "Nothing of these is part of this package; whoever passes an installed environment on passes them on.", "",
        "| package | licence | required by |", "|---|---|---|",
    ]  # fmt: skip
    special = {name: licence(name) for name in locked() if TERMS.search(licence(name))}
    nvidia = [name for name in special if name.startswith("nvidia-")]
    for name, said in special.items():
        if name not in nvidia:
            lines.append(f"| {name} | {said} | {', '.join(asked_by(name)) or 'the tests of this package'} |")
    lines.append(f"| {len(nvidia)} packages nvidia-… | proprietary, of NVIDIA | torch, on Linux |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
