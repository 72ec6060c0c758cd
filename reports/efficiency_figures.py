"""Figures 1 and 4 drawn: bars and scatter, latency and streaming curves."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..records import Record
from .efficiency import ESTIMATE, SeriesKey, canonical_model, in_order, is_full_size, series_key
from .estimates import estimate, extra_text, group
from .figures import (
    DPI,
    GREY,
    MARKERS,
    WIDTH,
    Theme,
    colour_of,
    end_label,
    logarithmic_ticks,
    new_figure,
    shade,
    spread,
    wide,
)  # fmt: skip
from .published import BAR_UNITS, HYBRID, TRANSFORMER
from .tables import binary, thousands

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_TITLES = {
    "average_score": "Average score", "training_tokens_per_day": "Training throughput",
    "streaming_fps": "Streaming speed", "cache_elements": "Cache at 32K tokens", "latency_ms": "Latency per token",
}  # fmt: skip
# Labels of the scatter that would lie on a neighbour, in points from their dot: the published places are fixed.
_LABEL_SHIFT = {
    "InternVL2.5-4B": (-7, 6, "right"), "Qwen2.5VL-3B": (8, -1, "left"), "SmolVLM2-2B": (8, 3, "left"),
    "Phi-3.5-Vision-4B": (-7, -6, "right"), "InfiniteVL-4B": (-9, 0, "right"), "Cobra-3B": (-9, 0, "right"),
    "TinyLLaVA-3B": (-8, 5, "right"), "MaTVLM-3B": (9, 0, "left"), "PaliGemma2-3B": (8, -2, "left"),
}  # fmt: skip


def overview_figure(
    bars: Sequence[Record], measured: Sequence[Record], scatter: Sequence[Record], theme: Theme
) -> "Figure":
    """A panel of horizontal bars a metric, and the scatter of speed against score below them."""
    from matplotlib.figure import Figure

    by_metric = {metric: [record for record in (*bars, *measured) if record.metric == metric] for metric in BAR_UNITS}
    heights = [0.2 + 0.22 * len(group(rows, series_key)) for rows in by_metric.values()]
    scatter_height = 2.9
    whole = sum(heights) + 0.32 * len(heights) + scatter_height
    figure = Figure(figsize=(WIDTH, whole), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(len(BAR_UNITS) + 1, 1, height_ratios=[*heights, scatter_height])
    for place, (metric, rows) in enumerate(by_metric.items()):
        _bar_panel(figure.add_subplot(grid[place]), metric, rows, theme)
    _scatter_panel(figure.add_subplot(grid[-1]), scatter, theme)
    return figure


def _bar_panel(axis: "Axes", metric: str, rows: Sequence[Record], theme: Theme) -> None:
    series = group(rows, series_key)
    keys = sorted(series, key=lambda key: (key[0] != "published", canonical_model(key[1]) == HYBRID, key))
    found = {key: estimate(series[key]) for key in keys}
    for place, key in enumerate(keys):
        one = found[key]
        colour = colour_of(canonical_model(key[1]), theme, [k[1] for k in keys])
        solid = key[0] == "measured"
        axis.barh(
            place,
            one.value,
            height=0.62,
            facecolor=colour if solid else "none",
            edgecolor=colour,
            linewidth=1.2,
            linestyle="-" if solid else (0, (4, 2)),
        )
        if one.low is not None and one.high is not None:
            axis.hlines(place, one.low, one.high, color=theme.ink, linewidth=1.2)
        axis.annotate(
            thousands(one.value),
            (one.high or one.value, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=theme.ink,
        )
    better = next((extra_text(record, "better") for record in rows if record.source == "published"), "")
    arrow = {"higher": "higher is better", "lower": "lower is better"}.get(better or "", "")
    notes = ", ".join(part for part in (BAR_UNITS[metric], arrow) if part)
    axis.set_title(f"{_PANEL_TITLES[metric]} ({notes})", fontsize=8, pad=3)
    axis.set_yticks(range(len(keys)), [_bar_name(key) for key in keys], fontsize=7.5)
    axis.set_ylim(len(keys) - 0.4, -0.6)
    axis.set_xticks([])
    axis.set_xlim(0, max((one.high or one.value for one in found.values()), default=1.0) * 1.1)
    axis.grid(visible=False)
    axis.spines["bottom"].set_visible(False)
    axis.tick_params(axis="y", labelcolor=theme.ink)


def _bar_name(key: SeriesKey) -> str:
    name = {HYBRID: "InfiniteVL", TRANSFORMER: "Qwen2.5-VL"}.get(canonical_model(key[1]), key[1])
    if key[0] == "published":
        return f"{name}, published"
    return ", ".join(part for part in (name, key[2], short_device(key[3])) if part)


def _scatter_panel(axis: "Axes", scatter: Sequence[Record], theme: Theme) -> None:
    for model, same in group(scatter, lambda r: r.model).items():
        values = {record.metric: record.value for record in same}
        x, y = values["scatter_fps"], values["scatter_score"]
        known = model in (HYBRID, TRANSFORMER)
        colour = colour_of(model, theme) if known else shade(GREY, theme)
        axis.plot(x, y, "o", markersize=7, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=1.6)
        right, up, align = _LABEL_SHIFT.get(model, (8, 0, "left"))
        axis.annotate(
            model,
            (x, y),
            xytext=(right, up),
            textcoords="offset points",
            ha=align,
            va="center",
            fontsize=8,
            color=colour if known else theme.ink,
        )
    axis.set_xscale("log")
    axis.set_xlim(0.95, 36)
    axis.set_xticks([2, 3, 5, 10, 20], ["2", "3", "5", "10", "20"])
    axis.minorticks_off()
    axis.set_ylim(38, 82)
    axis.set_xlabel("streaming speed, frames/s (published, RTX 4090)")
    axis.set_title("Average score against streaming speed, as published")


def curve_figure(points: Sequence[Record], axis: str, axis_title: str, unit: str, theme: Theme) -> "Figure":
    """One line a model, protocol and device; published dashed and hollow, measured solid, intervals as bars.

    What is not of the published size, or ran on a processor, has a panel of its own.
    """
    panels = [
        (title, chosen)
        for title, chosen in (
            # A unit keeps its case: "Ms" would be megaseconds.
            (unit, [record for record in points if is_full_size(record)]),
            (f"{unit}, small models", [record for record in points if not is_full_size(record)]),
        )
        if chosen
    ]
    figure, axes = new_figure(3.4 * len(panels), rows=len(panels))
    for panel, (title, chosen) in zip(axes, panels, strict=True):
        _curves(panel, chosen, axis, theme)
        panel.set_xlabel(axis_title.lower())
        panel.set_title(title)
    return figure


def _curves(panel: "Axes", points: Sequence[Record], axis: str, theme: Theme) -> None:
    by_series = group(points, series_key)
    series = in_order(by_series)
    protocols = sorted({key[2] for key in series if key[0] == "measured"})
    right = max(getattr(record, axis) for record in points)
    ends, inside = [], []
    for key in series:
        colour = colour_of(canonical_model(key[1]), theme, [k[1] for k in series])
        found = sorted(
            (position, estimate(same)) for position, same in group(by_series[key], lambda r: getattr(r, axis)).items()
        )
        x = [position for position, _ in found]
        y = [one.value for _, one in found]
        solid = key[0] == "measured"
        estimated = ESTIMATE in key[2]
        panel.plot(
            x,
            y,
            marker=MARKERS[protocols.index(key[2]) % len(MARKERS)] if solid else "o",
            color=colour,
            linestyle=(0, (1, 2)) if estimated else "-" if solid else (0, (5, 2)),
            markersize=4 if solid else 3.6,
            markerfacecolor=colour if solid and not estimated else theme.paper or "none",
            markeredgewidth=1.1,
            linewidth=1.8 if solid else 1.2,
        )
        for position, one in found:
            if one.low is not None and one.high is not None:
                panel.vlines(position, one.low, one.high, color=colour, linewidth=2, alpha=0.45)
        if x[-1] > 0.75 * right:
            ends.append((y[-1], _end_name(key), colour))
        else:
            inside.append((x[-1], y[-1], _end_name(key), colour))
    _scale_axes(panel, [getattr(record, axis) for record in points], [record.value for record in points])
    # Where labels lie is counted in shares of the axis, which is linear or not.
    height_of, value_of = panel.transScale.transform, panel.transScale.inverted().transform
    bottom, top = (height_of((1.0, limit))[1] for limit in panel.get_ylim())
    gap = (top - bottom) * 0.11
    for labels, floor in (([(right, *end) for end in ends], bottom + gap / 2), (inside, None)):
        heights = spread([height_of((1.0, y))[1] for _, y, _, _ in labels], gap, floor)
        for (x_end, _, name, colour), height in zip(labels, heights, strict=True):
            if labels is inside and _room_right_of(panel, x_end, right) < ROOM_FOR_A_LABEL:
                above = {"xytext": (2, 8), "ha": "right", "va": "bottom"}
                end_label(panel, x_end, value_of((0.0, height))[1], name.replace("\n", ", "), colour, **above)
            else:
                end_label(panel, x_end, value_of((0.0, height))[1], name, colour)


ROOM_FOR_A_LABEL = 0.14
"""Share of the panel's width that the name of a line needs beside its end."""


def _room_right_of(panel: "Axes", x: float, right: float) -> float:
    """The share of the width from a place to where the longest lines end."""
    place, end, first, last = (panel.transScale.transform((at, 1.0))[0] for at in (x, right, *panel.get_xlim()))
    return float((end - place) / (last - first))


def _scale_axes(panel: "Axes", x: Sequence[float], y: Sequence[float]) -> None:
    """Limits and ticks, logarithmic where values span much, with room for labels on the right."""
    left, right, low, high = min(x), max(x), min(y), max(y)
    if wide(y):
        panel.set_yscale("log")
        panel.set_ylim(low / 1.4, high * 1.4)
        panel.set_yticks(ticks := logarithmic_ticks(low / 1.2, high), [thousands(tick) for tick in ticks])
    else:
        panel.set_ylim(0, high * 1.1)
    if wide(x):
        panel.set_xscale("log", base=2)
        panel.set_xlim(left / 1.2, right * (right / left) ** 0.3)
        ticks = [2**power for power in range(40) if left <= 2**power <= right]
        every = -(-len(ticks) // 8)
        # Down from the longest, which is what is looked for.
        ticks = ticks[::-1][::every]
        panel.set_xticks(ticks, [binary(tick) for tick in ticks])
    else:
        panel.set_xlim(0, right * 1.28)
        ticks = [tick for tick in panel.get_xticks() if tick <= right]
        panel.set_xticks(ticks, [thousands(tick) for tick in ticks])
    panel.minorticks_off()


def _end_name(key: SeriesKey) -> str:
    if key[0] == "published":
        return f"{key[1]}\npublished"
    return "\n".join(part for part in (key[1], ", ".join(p for p in (key[2], short_device(key[3])) if p)) if part)


def short_device(device: str) -> str:
    """A device's name as a label can hold it: without its maker and memory; the tables hold it in full."""
    words = [word for word in device.split() if word not in ("NVIDIA", "GeForce", "AMD", "Intel(R)")]
    return " ".join(word for word in words if not re.fullmatch(r"\d+GB|HBM\w*|SXM\d*|PCIe", word)) or device
