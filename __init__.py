"""infinitevl-bench: one hybrid backbone, many token mixers, every published figure beside what was measured.

``import infinitevl_bench as ivb`` is instant; ``ivb.ablate``, ``ivb.evaluate``, ``ivb.records``, ``ivb.published`` and
``ivb.verify`` import what they need when they are first named (`docs/python.md`).
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "records":
        return import_module(".records", __name__)
    if name in ("ablate", "evaluate", "published", "verify"):
        return getattr(import_module(".api", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["__version__", "ablate", "evaluate", "published", "records", "verify"]
