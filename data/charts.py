"""Charts: bars, lines and pies drawn by matplotlib, each with its values printed beside the marks.

Questions ask for a value (read off the chart) and for the largest or smallest mark (compared).
"""

import random
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from .drawing import add_noise
from .pages import Page, Question

LABELS = "ABCDEFGHJKLMNPRSTUVWXYZ"
PALETTE = ("#4477aa", "#cc6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bb7744", "#777777")

# level → page width and height in pixels, marks, kinds of chart, size of type in pixels
LAYOUTS: dict[int, tuple[tuple[int, int], int, tuple[str, ...], int]] = {
    1: ((224, 168), 4, ("bar",), 17),
    2: ((252, 168), 5, ("bar", "line"), 16),
    3: ((280, 196), 6, ("bar", "line", "pie"), 16),
    4: ((336, 224), 8, ("bar", "line", "pie"), 15),
}
MARKS = {"bar": "bar", "line": "point", "pie": "slice"}
VALUE_TEMPLATES = ("what is the value of {label}?", "read the value of {label}.")
EXTREME_TEMPLATES = ("which {mark} is the {extreme}?",)
EXTREMES = {
    "bar": ("highest", "lowest"),
    "line": ("highest", "lowest"),
    "pie": ("largest", "smallest"),
}


def draw_page(rng: random.Random, level: int) -> Page:
    """Draw one chart of a level."""
    size, count, kinds, type_size = LAYOUTS[level]
    kind = rng.choice(kinds)
    labels = rng.sample(LABELS, count)
    # Apart by 2 at least, so that the largest and the smallest can be seen and not only read; a pie's slices are
    # wide enough for their labels.
    values = [number * 3 + rng.randrange(2) + 3 for number in rng.sample(range(9 if kind == "pie" else 3, 31), count)]
    if kind == "pie":
        values = _alternate(rng, values)
    image = _plot(rng, kind, size, labels, values, type_size)
    image = add_noise(image, rng, rng.uniform(0, 4))
    questions = [
        Question(rng.choice(VALUE_TEMPLATES).format(label=label), (str(value),), kind="value")
        for label, value in zip(labels, values, strict=True)
    ]
    most, least = EXTREMES[kind]
    ordered = sorted(range(count), key=values.__getitem__)
    options = tuple(rng.sample(labels, min(4, count)))
    for extreme, place in ((most, ordered[-1]), (least, ordered[0])):
        text = rng.choice(EXTREME_TEMPLATES).format(mark=MARKS[kind], extreme=extreme)
        questions.append(Question(text, (labels[place],), _with(options, labels[place], rng), "extreme"))
    rng.shuffle(questions)
    return Page(image, tuple(questions), (*map(str, values), *labels), "charts", level)


def _alternate(rng: random.Random, values: list[int]) -> list[int]:
    """Order values so that a small one stands between large ones: labels of thin neighbours would collide."""
    ordered = sorted(values)
    half = len(ordered) // 2
    small, large = rng.sample(ordered[:half], half), rng.sample(ordered[half:], len(ordered) - half)
    mixed = [value for pair in zip(large, small, strict=False) for value in pair] + large[half:]
    turn = rng.randrange(len(mixed))
    return mixed[turn:] + mixed[:turn]


def _with(options: tuple[str, ...], answer: str, rng: random.Random) -> tuple[str, ...]:
    """Options with the answer among them, at a random place if it was not."""
    if answer in options:
        return options
    place = rng.randrange(len(options))
    return (*options[:place], answer, *options[place + 1 :])


# All settings whose names begin so shape what is drawn here.
_STYLE_GROUPS = ("axes", "font", "lines", "patch", "text", "xtick", "ytick", "figure", "path", "agg", "grid", "markers")


@cache
def _style() -> Any:
    import matplotlib

    return {name: value for name, value in matplotlib.rcParamsDefault.items() if name.split(".")[0] in _STYLE_GROUPS}


@cache
def _canvas(size: tuple[int, int]) -> Any:
    """A figure of a size in pixels, used again and again: making one costs more than drawing on it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dots = 100
    return FigureCanvasAgg(Figure(figsize=(size[0] / dots, size[1] / dots), dpi=dots))


def _plot(
    rng: random.Random, kind: str, size: tuple[int, int], labels: list[str], values: list[int], type_size: int
) -> Image.Image:
    import matplotlib

    # A user's own matplotlibrc must not change the pages.
    with matplotlib.rc_context(_style()):
        return _plot_in_style(rng, kind, size, labels, values, type_size)


def _plot_in_style(
    rng: random.Random, kind: str, size: tuple[int, int], labels: list[str], values: list[int], type_size: int
) -> Image.Image:
    canvas = _canvas(size)
    figure = canvas.figure
    figure.clear()
    points = type_size * 72 / figure.dpi
    colours = rng.sample(PALETTE, len(labels))
    bottom = (type_size + 7) / size[1]
    if kind == "pie":
        axes = figure.add_axes((0.08, 0.08, 0.84, 0.84))
        names = [f"{label} {value}" for label, value in zip(labels, values, strict=True)]
        axes.pie(
            values, labels=names, colors=colours, startangle=rng.randrange(360), labeldistance=1.12,
            textprops={"fontsize": points * 0.9}, radius=0.95,
        )  # fmt: skip
    else:
        axes = figure.add_axes((0.03, bottom, 0.94, 0.97 - bottom))
        places = range(len(labels))
        if kind == "bar":
            axes.bar(places, values, color=colours, width=rng.uniform(0.5, 0.75))
        else:
            axes.plot(places, values, color=colours[0], marker="o", linewidth=2)
        for place, value in enumerate(values):
            # In the valley of a line the number goes below, where no line runs through it.
            beside = values[max(0, place - 1) : place] + values[place + 1 : place + 2]
            below = kind == "line" and value < min(beside)
            axes.annotate(
                str(value), (place, value), (0, -5 if below else 4), textcoords="offset points", ha="center",
                va="top" if below else "bottom", fontsize=points,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
            )  # fmt: skip
        axes.set_xlim(-0.6, len(labels) - 0.4)
        axes.set_ylim(-14 if kind == "line" else 0, max(values) * 1.28)
        axes.set_xticks(list(places), labels, fontsize=points)
        axes.set_yticks([])
        axes.tick_params(length=0, pad=2)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())
