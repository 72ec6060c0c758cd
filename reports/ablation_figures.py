"""Figures of the ablations: scores by mixer beside the baselines, and scores against the sliding-window ratio."""

from typing import TYPE_CHECKING

from .ablation_cells import BASELINES, CONTROL_PATTERNS, DEFAULT_PATTERN, Arm, Block
from .figures import GREY, MARKERS, Theme, colour_of, end_label, new_figure, panel_grid, shade, spread
from .published import MIXER_ORDERING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..records import Record
    from .estimates import Estimate

BENCHMARK_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def mixer_figure(block: Block, theme: Theme) -> "Figure":
    """Means with intervals and single seeds, a panel a benchmark, a line a mixer; the baselines as vertical lines."""
    ranks = {mixer: place for place, mixer in enumerate(MIXER_ORDERING)}
    arms = sorted(
        block.arms(), key=lambda arm: (arm.pattern not in CONTROL_PATTERNS, -ranks.get(arm.mixer, len(ranks)), arm)
    )
    count = len(block.benchmarks)
    figure, axes = panel_grid(count, 1.1 + 0.3 * len(arms), 0.3, columns=2 if count == 4 else 3, sharey=True)
    mixers = [arm.mixer for arm in arms]
    for axis, benchmark in zip(axes, block.benchmarks, strict=True):
        for place, arm in enumerate(arms):
            found = block.scores(arm).get(benchmark)
            if found is not None:
                colour = colour_of(arm.mixer, theme, mixers) if arm.pattern == DEFAULT_PATTERN else shade(GREY, theme)
                _dot(axis, place, found, colour, theme)
                _seed_dots(axis, place, [r for r in block.arms()[arm] if r.benchmark == benchmark], colour)
        _baselines(axis, block, benchmark, len(arms), theme)
        unit = next(
            record.unit for record in block.records if record.metric == "score" and record.benchmark == benchmark
        )
        axis.set_title(f"{benchmark}\n({block.split}), {unit}")
        axis.set_yticks(range(len(arms)), [arm.label for arm in arms])
        axis.set_ylim(-0.6, len(arms) - 0.05)
        axis.set_xlim(*_range(block, benchmark, unit))
        axis.grid(axis="x")
        axis.grid(visible=False, axis="y")
        axis.spines["left"].set_visible(False)
        axis.tick_params(axis="y", labelcolor=theme.ink)
    _baseline_key(figure, block, theme)
    return figure


def _dot(axis: "Axes", place: float, found: "Estimate", colour: str, theme: Theme) -> None:
    if found.low is not None and found.high is not None:
        axis.hlines(place, found.low, found.high, color=colour, linewidth=2.2, alpha=0.4, zorder=2)
    # Whole at the ends of the scale too, where the axis ends next to it.
    axis.plot(found.value, place, "o", color=colour, markersize=6.5, zorder=3, clip_on=False)
    axis.annotate(
        f"{found.value:.1f}",
        (found.value, place),
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7,
        color=theme.ink,
    )


def _seed_dots(axis: "Axes", place: float, rows: "list[Record]", colour: str) -> None:
    """A ring a seed below the mean: with few seeds the interval says little, and scores of recall come in two heaps."""
    if len({record.seed for record in rows}) > 1:
        values = [record.value for record in rows]
        axis.plot(
            values, [place - 0.24] * len(values), "o",
            markersize=3.4, markerfacecolor="none", markeredgecolor=colour, clip_on=False,
        )  # fmt: skip


def _baselines(axis: "Axes", block: Block, benchmark: str, height: int, theme: Theme) -> None:
    for metric, style in zip(BASELINES, ((0, (4, 2)), (0, (1, 1.5))), strict=True):
        found = block.baseline(metric, benchmark)
        if found is not None:
            axis.plot(
                [found.value] * 2, [-0.6, height - 0.35], color=theme.muted, linewidth=1.1, linestyle=style, zorder=1
            )


def _baseline_key(figure: "Figure", block: Block, theme: Theme) -> None:
    from matplotlib.lines import Line2D

    styles = zip(BASELINES.items(), ((0, (4, 2)), (0, (1, 1.5))), strict=True)
    handles = [
        Line2D([], [], color=theme.muted, linewidth=1.1, linestyle=style, label=f"baseline: {label}")
        for (metric, label), style in styles
        if any(block.baseline(metric, benchmark) is not None for benchmark in block.benchmarks)
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, labelcolor=theme.muted, handlelength=2.6)


def _range(block: Block, benchmark: str, unit: str) -> tuple[float, float]:
    if unit == "%":
        return -3.0, 103.0
    values = [r.ci_high or r.value for r in block.records if r.benchmark == benchmark]
    return 0.0, max(values) * 1.08 or 1.0


def ratio_figure(block: Block, theme: Theme) -> "Figure":
    """Score against the share of sliding-window layers, one line a benchmark, with intervals."""
    arms = [arm for arm in block.arms() if not arm.variant and arm.ratio is not None]
    figure, axes = new_figure(3.2)
    axis = axes[0]
    ratios = sorted({arm.ratio for arm in arms if arm.ratio is not None})
    places = {ratio: place for place, ratio in enumerate(ratios)}
    ends: list[tuple[str, float, float, str]] = []
    for number, benchmark in enumerate(block.benchmarks):
        points = sorted(
            (places[arm.ratio], found)
            for arm in _one_per_ratio(block, arms)
            if arm.ratio is not None and (found := block.scores(arm).get(benchmark)) is not None
        )
        if not points:
            continue
        colour = shade(BENCHMARK_COLOURS[number % len(BENCHMARK_COLOURS)], theme)
        shift = (number - (len(block.benchmarks) - 1) / 2) * 0.05
        x = [place + shift for place, _ in points]
        axis.plot(x, [one.value for _, one in points], "-", marker=MARKERS[number % len(MARKERS)], color=colour)
        for place, (_, one) in zip(x, points, strict=True):
            if one.low is not None and one.high is not None:
                axis.vlines(place, one.low, one.high, color=colour, linewidth=2, alpha=0.45)
        ends.append((benchmark, x[-1], points[-1][1].value, colour))
    axis.set_xticks(range(len(ratios)), [str(ratio) for ratio in ratios])
    axis.set_xlim(-0.3, len(ratios) - 1 + 0.75)
    axis.set_xlabel("share of sliding-window layers, the others Gated DeltaNet")
    axis.set_title(f"Score in % by sliding-window ratio ({block.split} data, scale {block.scale})")
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, -3.0), min(high, 104.0))
    low, high = axis.get_ylim()
    heights = spread([value for _, _, value, _ in ends], (high - low) * 0.065)
    for (name, x_end, _, colour), height in zip(ends, heights, strict=True):
        end_label(axis, x_end, height, name, colour, xytext=(8, 0))
    return figure


def _one_per_ratio(block: Block, arms: list[Arm]) -> list[Arm]:
    """Where a ratio was trained at several learning rates, the one with the most seeds stands for it."""
    found = block.arms()
    best: dict[object, Arm] = {}
    for arm in sorted(arms, key=lambda one: (-len({record.seed for record in found[one]}), one)):
        best.setdefault(arm.ratio, arm)
    return list(best.values())
