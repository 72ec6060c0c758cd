"""How arms are drawn where several share an axis: a colour a mixer, a stroke and a marker an arm, one key below all."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

from .ablation_cells import CONTROL_PATTERNS, Arm
from .figures import GREY, MARKERS, Theme, colour_of, shade

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Stroke = Literal["-", "--", ":", "-."]
STROKES: tuple[Stroke, ...] = ("-", "--", ":", "-.")


class ArmLine(NamedTuple):
    """The looks of one arm."""

    label: str
    colour: str
    stroke: Stroke
    marker: str


def arm_lines(arms: Iterable[Arm], theme: Theme) -> dict[Arm, ArmLine]:
    """The looks of every arm of a figure; controls are grey, and labels say what tells arms of one name apart."""
    ordered = sorted(set(arms))
    mixers = [arm.mixer for arm in ordered]
    patterns = {arm.pattern for arm in ordered} - set(CONTROL_PATTERNS)
    labels = {
        arm: arm.label if arm.pattern in CONTROL_PATTERNS or len(patterns) == 1 else f"{arm.label} {arm.pattern}"
        for arm in ordered
    }
    twice = {label for label, count in Counter(labels.values()).items() if count > 1}
    # By colour, not by mixer: there are fewer colours than mixers.
    seen: Counter[str] = Counter()
    found = {}
    for number, arm in enumerate(ordered):
        label = f"{labels[arm]}, rate {arm.learning_rate}" if labels[arm] in twice else labels[arm]
        colour = shade(GREY, theme) if arm.pattern in CONTROL_PATTERNS else colour_of(arm.mixer, theme, mixers)
        found[arm] = ArmLine(label, colour, STROKES[seen[colour] % len(STROKES)], MARKERS[number % len(MARKERS)])
        seen[colour] += 1
    return found


def key_below(figure: "Figure", lines: Iterable[ArmLine]) -> None:
    """What each line of the figure is, below all panels."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=one.colour, linestyle=one.stroke, marker=one.marker, markersize=3.5, label=one.label)
        for one in lines
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), fontsize=7, handlelength=3)


def key_height(arms: int) -> float:
    """Inches that the key of so many arms takes."""
    return 0.25 + 0.16 * -(-arms // 3)
