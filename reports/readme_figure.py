"""The figure that README shows, light and dark, from the records that the package ships.

`python -m infinitevl_bench.reports.readme_figure` writes it anew into ``docs``.
"""

from ..files import atomic_write, package_path
from ..records import measured_records
from .artifacts import make_artifact
from .figures import DARK, LIGHT, render
from .published import published_records

ARTIFACT = "fig4_latency"
THEMES = {f"{ARTIFACT}.svg": LIGHT, f"{ARTIFACT}_dark.svg": DARK}
"""Name of a file → the theme that it is drawn in."""


def readme_figure() -> dict[str, bytes]:
    """The files by name; runs of this machine's own have no part in them."""
    artifact = make_artifact(ARTIFACT, [*published_records(), *measured_records(None)])
    if artifact.figure is None:
        raise ValueError(f"{ARTIFACT} has nothing to draw")
    return {name: render(artifact.figure, "svg", theme, data=artifact.digest) for name, theme in THEMES.items()}


if __name__ == "__main__":
    for name, data in readme_figure().items():
        atomic_write(package_path("docs", name), data)
