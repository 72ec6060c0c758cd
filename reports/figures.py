"""One visual style for every figure, and figures as bytes that are the same on every run.

Published is hollow or dashed, measured is solid. Colours are those of Okabe and Ito, which people with any common form
of colour blindness tell apart, and three more for the ten mixers; each arm keeps its colour across figures. Lines are
labelled where they end.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#C7B700",
    "#8A8F98",
)
VIOLET, BROWN, OLIVE = "#7B3FB2", "#8C5A3C", "#5F6B1A"
WIDTH = 7.2  # inches: the text width of a page
DPI = 200
MARKERS = "osD^vPX"
MARK = "infinitevl-bench data "
ENDS = b"</svg>\n", b"%%EOF\n", b"IEND\xaeB`\x82"  # of svg, pdf and png

_ARM_COLOURS = {
    "gated_deltanet": BLUE, "gla": ORANGE, "mamba2": GREEN, "linear_attention": PURPLE, "deltanet": SKY,
    "kimi_delta_attention": VIOLET, "retnet": VERMILION, "hgrn2": YELLOW, "mamba1": OLIVE, "identity": BROWN,
    "InfiniteVL-4B": BLUE, "infinitevl-4b": BLUE, "Qwen2.5VL-3B": VERMILION, "qwen2.5-vl-3b": VERMILION,
}  # fmt: skip
_OTHER_COLOURS = (SKY, VERMILION, YELLOW, GREY)


@dataclass(frozen=True)
class Theme:
    """Ink and paper of a figure; ``paper`` None is transparent."""

    name: str
    ink: str
    muted: str
    grid: str
    paper: str | None


LIGHT = Theme("light", "#1B1F24", "#5B636E", "#DDE1E6", "#FFFFFF")
DARK = Theme("dark", "#E8EAED", "#A3ABB6", "#3A4049", None)
THEMES = (LIGHT, DARK)
# Blue and purple lose contrast on a dark page; these keep their hue.
_ON_DARK = {
    BLUE: "#4FA8E0", VERMILION: "#F07C3A", GREEN: "#2EBF95", PURPLE: "#DE97BC", VIOLET: "#B083E0", BROWN: "#C08A68",
    OLIVE: "#A3B04A",
}  # fmt: skip


def colour_of(arm: str, theme: Theme, others: Sequence[str] = ()) -> str:
    """The colour of an arm or model; one without a colour of its own takes its place among the ``others``."""
    unknown = sorted(name for name in others if name not in _ARM_COLOURS)
    place = unknown.index(arm) if arm in unknown else 0
    return shade(_ARM_COLOURS.get(arm, _OTHER_COLOURS[place % len(_OTHER_COLOURS)]), theme)


def shade(colour: str, theme: Theme) -> str:
    """A colour as it must be on this theme's paper."""
    return _ON_DARK.get(colour, colour) if theme.name == "dark" else colour


def render(draw: "Callable[[Theme], Figure]", kind: str, theme: Theme = LIGHT, data: str = "") -> bytes:
    """One file of a figure; see `render_all`."""
    return render_all(draw, [(kind, theme)], data)[kind, theme]


def render_all(
    draw: "Callable[[Theme], Figure]", wanted: Iterable[tuple[str, Theme]], data: str = ""
) -> dict[tuple[str, Theme], bytes]:
    """Draw a figure, once for each theme, and write it to files without dates or versions inside.

    To draw a figure and lay it out takes about as long as to write a file, so all files of a theme share both; a file's
    bytes do not depend on which others are wanted.

    Args:
        draw: makes the figure.
        wanted: (format, theme) of each file; ``png``, ``svg`` or ``pdf``.
        data: a digest of what is drawn, kept in the files. Another release of matplotlib may draw the same numbers with
            other bytes; `drawn_from` then tells whether a file shows the same.
    """
    import matplotlib

    figures: dict[Theme, Figure] = {}
    files = {}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc on this machine must not change the report
        for kind, theme in dict.fromkeys(wanted):
            matplotlib.rcParams.update(_style(theme))
            if theme not in figures:
                figures[theme] = figure = draw(theme)
                figure.draw_without_rendering()
                figure.set_layout_engine("none")
            buffer = BytesIO()
            transparent = theme.paper is None
            figures[theme].savefig(
                buffer, format=kind, dpi=DPI, metadata=_metadata(kind, MARK + data), transparent=transparent
            )
            files[kind, theme] = buffer.getvalue()
    return files


def _metadata(kind: str, mark: str) -> dict[str, Any]:
    """The mark, and nothing of what matplotlib writes of itself and of the day."""
    return {
        "png": {"Software": None, "Source": mark},
        "svg": {"Date": None, "Creator": None, "Format": None, "Type": None, "Source": mark},
        "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None, "Subject": mark},
    }[kind]


def drawn_from(file: bytes) -> str | None:
    """The digest of the data that a figure written by `render` shows; None where it says nothing or is cut off."""
    if not file.endswith(ENDS):
        return None
    found = re.search(re.escape(MARK.encode()) + rb"([0-9a-f]{12,64})", file)
    return found[1].decode() if found else None


def new_figure(height: float, columns: int = 1, rows: int = 1, **grid: Any) -> "tuple[Figure, list[Axes]]":
    """A figure of the common width with ``rows × columns`` axes, without the global state of pyplot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **grid)
    return figure, [axis for line in axes for axis in line]


def panel_grid(
    count: int, row_height: float, rest: float = 0.0, *, columns: int = 3, **grid: Any
) -> "tuple[Figure, list[Axes]]":
    """A figure of ``count`` panels, row by row; places that the last row leaves over stay empty.

    Args:
        count: panels.
        row_height: of each row, in inches.
        rest: height of what stands beside the rows, such as a key, in inches.
        columns: most panels of a row.
        grid: as matplotlib's ``subplots`` takes it, such as ``sharey``.
    """
    columns = min(count, columns)
    rows = -(-count // columns)
    figure, axes = new_figure(row_height * rows + rest, columns, rows, **grid)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


LOGARITHMIC_FROM = 20
"""Largest over smallest value from which an axis is logarithmic: nearer ones can be told apart on a linear one."""


def wide(values: Sequence[float]) -> bool:
    """Whether values span so much that the small ones would lie on each other on a linear axis."""
    return min(values) > 0 and max(values) / min(values) >= LOGARITHMIC_FROM


def logarithmic_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from ``low`` to ``high``; powers of ten alone where those would be many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) <= 4 else (1,)
    return [tick for decade in decades for step in steps if low <= (tick := step * 10.0**decade) <= high]


def end_label(axis: "Axes", x: float, y: float, text: str, colour: str, **where: Any) -> None:
    """Name a line where it ends."""
    options = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "ha": "left", "fontsize": 8, **where}
    axis.annotate(text, (x, y), color=colour, annotation_clip=False, **options)


def spread(positions: Sequence[float], gap: float, floor: float | None = None) -> list[float]:
    """Move labels apart to at least ``gap``, keeping their order and, as far as that goes, their places.

    None comes to lie below ``floor``.
    """
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    placed = list(positions)
    for _ in range(200):
        moved = False
        for lower, upper in itertools.pairwise(order):
            short = gap - (placed[upper] - placed[lower])
            if short > 1e-9:
                placed[lower] -= short / 2
                placed[upper] += short / 2
                moved = True
        if not moved:
            break
    least = floor
    for index in order if least is not None else ():
        placed[index] = max(placed[index], least or 0.0)
        least = placed[index] + gap
    return placed


def _style(theme: Theme) -> Any:
    return {
        # Names come from records: a dollar sign in one is a dollar sign, not the start of a formula.
        "text.parse_math": False,
        "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 9, "axes.titleweight": "bold",
        "axes.titlelocation": "left", "axes.titlepad": 8, "axes.labelsize": 8,
        "xtick.labelsize": 8, "ytick.labelsize": 8,
        "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.axisbelow": True,
        "axes.grid": True, "axes.grid.axis": "y", "grid.linewidth": 0.6, "grid.color": theme.grid,
        "xtick.major.size": 0, "ytick.major.size": 0, "xtick.minor.size": 0, "ytick.minor.size": 0,
        "text.color": theme.ink, "axes.labelcolor": theme.muted, "axes.edgecolor": theme.grid,
        "xtick.color": theme.muted, "ytick.color": theme.muted, "axes.titlecolor": theme.ink,
        "figure.facecolor": theme.paper or "none", "axes.facecolor": "none", "savefig.facecolor": theme.paper or "none",
        "lines.linewidth": 1.8, "lines.markersize": 4.5, "errorbar.capsize": 0, "legend.frameon": False,
        "legend.fontsize": 8, "svg.hashsalt": "infinitevl-bench", "svg.fonttype": "path", "pdf.fonttype": 42,
        "path.simplify": True, "figure.constrained_layout.h_pad": 0.08, "figure.constrained_layout.w_pad": 0.06,
    }  # fmt: skip
