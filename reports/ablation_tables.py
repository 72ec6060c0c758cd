"""Tables 3 and 4: token mixers at one share of sliding-window layers, and that share with one mixer.

The paper's side is known as orderings only, so its column holds words. Ours is whatever cells have been trained; cells
that differ in scale, split, recipe or steps are no rows of one table, and stand in blocks of their own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..records import Record
from .ablation_cells import (
    BASELINES,
    CONTROL_PATTERNS,
    DEFAULT_PATTERN,
    LINEAR_PATTERN,
    MIXER_NAMES,
    Arm,
    Block,
    ablation_records,
    arm_of,
    blocks_of,
)
from .artifacts import Artifact, Missing, describe
from .estimates import Estimate, extra_text, group, interval_of_mean, run_ids, swa_ratio
from .learning_tables import LEARNT_CAPTION, learnt_table
from .published import MIXER_ORDERING, RATIO_ORDERING
from .rates import Tried, at_an_end, tried_rates
from .tables import NOTHING, Cell, Column, Row, Table, count_cell, estimate_cell, text_cell

MARK = "†"
AT_AN_END = "‡"
UNMATCHED = "§"
ORDERINGS = "The paper's figures are known as orderings only, so its column holds words."


def mixer_table(records: Sequence[Record]) -> Artifact:
    """Table 3: token mixers with one sliding-window layer in four, and below in every layer."""
    from .ablation_figures import mixer_figure

    cells = [r for r in ablation_records(records) if r.pattern == DEFAULT_PATTERN or r.pattern in CONTROL_PATTERNS]
    blocks = [block for block in blocks_of(cells) if any(arm.pattern == DEFAULT_PATTERN for arm in block.arms())]
    published = list(MIXER_ORDERING)

    def place(arm: Arm) -> tuple[object, ...]:
        known = published.index(arm.mixer) if arm.mixer in published else len(published)
        return arm.pattern in CONTROL_PATTERNS, known, arm

    def words(arm: Arm) -> str:
        return MIXER_ORDERING.get(arm.mixer, NOTHING) if arm.pattern == DEFAULT_PATTERN else NOTHING

    absent = [
        Missing(f"{MIXER_NAMES[mixer]} at ratio 1/4", f"infinitevl-bench ablate --mixer {mixer} --swa-ratio 1/4")
        for mixer in published
        if not any(arm.mixer == mixer and arm.pattern == DEFAULT_PATTERN for block in blocks for arm in block.arms())
    ]
    tried = tried_rates(records)

    def tables_of(block: Block) -> list[Table]:
        return _block_tables("Token mixer", block, place, lambda arm: arm.label, words, tried)

    tables = tuple(table for block in blocks for table in tables_of(block))
    alone = _without_windows(records)
    for block in alone:
        tables += tuple(replace(table, title=f"{table.title}, no sliding-window layer") for table in tables_of(block))
    if not blocks:
        said = {MIXER_NAMES[name]: words for name, words in MIXER_ORDERING.items()}
        tables = (_orderings_table("Token mixer", said), *tables)
    return Artifact(
        name="table3",
        label="Table 3",
        title="Table 3 · Token mixers at sliding-window ratio 1/4",
        caption=_caption([*blocks, *alone], tried),
        tables=tables,
        figure=(lambda theme: mixer_figure(blocks[0], theme)) if blocks else None,
        missing=tuple(absent),
        runs=run_ids(record for block in [*blocks, *alone] for record in block.records),
    )


def _without_windows(records: Sequence[Record]) -> list[Block]:
    """Comparable cells of two mixers or more, each in every layer."""
    cells = [record for record in ablation_records(records) if record.pattern == LINEAR_PATTERN]
    return [block for block in blocks_of(cells) if len({arm.mixer for arm in block.arms()}) > 1]


RATIO_MIXER = "gated_deltanet"
"""The mixer whose ratios the paper's table shows."""

FEWEST_RATIOS = 3
"""Ratios at which another mixer, as its name stands for it, has a table of its own."""


def ratio_table(records: Sequence[Record]) -> Artifact:
    """Table 4: the share of sliding-window layers, with Gated DeltaNet in the others, and with other mixers below."""
    from .ablation_figures import ratio_figure

    cells = [r for r in ablation_records(records) if r.pattern is not None and swa_ratio(r.pattern) is not None]
    blocks = _ratio_blocks(cells, RATIO_MIXER)
    several = [block for block in blocks if len({arm.ratio for arm in block.arms()}) > 1]

    def place(arm: Arm) -> tuple[object, ...]:
        return arm.ratio, arm

    def label(arm: Arm) -> str:
        return f"{arm.ratio} ({arm.variant})" if arm.variant else str(arm.ratio)

    measured = {str(arm.ratio) for block in blocks for arm in block.arms()}
    absent = [
        Missing(f"Ratio {ratio}", f"infinitevl-bench ablate --mixer gated_deltanet --swa-ratio {ratio}")
        for ratio in RATIO_ORDERING
        if ratio not in measured
    ]
    tried = tried_rates(records)

    def words(arm: Arm) -> str:
        return RATIO_ORDERING.get(str(arm.ratio), NOTHING)

    tables = tuple(
        table for block in blocks for table in _block_tables("Sliding-window ratio", block, place, label, words, tried)
    )
    if not tables:
        tables = (_orderings_table("Sliding-window ratio", RATIO_ORDERING),)
    others = []
    for mixer in sorted({r.mixer for r in cells if r.mixer} - {RATIO_MIXER, "none"}):
        own = [r for r in cells if r.mixer == mixer and not arm_of(r).variant]
        for block in _ratio_blocks(own, mixer):
            if len({arm.ratio for arm in block.arms()}) >= FEWEST_RATIOS:
                others.append(block)
                named = f"{MIXER_NAMES.get(mixer, mixer)} in the other layers"
                own_tables = _block_tables("Sliding-window ratio", block, place, label, lambda arm: NOTHING, tried)
                tables += tuple(replace(table, title=f"{table.title}, {named}") for table in own_tables)
    return Artifact(
        name="table4",
        label="Table 4",
        title="Table 4 · Share of sliding-window layers, with Gated DeltaNet",
        caption=_caption([*blocks, *others], tried),
        tables=tables,
        figure=(lambda theme: ratio_figure(several[0], theme)) if several else None,
        missing=tuple(absent),
        runs=run_ids(record for block in [*blocks, *others] for record in block.records),
    )


def _ratio_blocks(cells: Sequence[Record], mixer: str) -> list[Block]:
    """Comparable cells of a mixer and of the window alone, which has no mixer."""
    found = blocks_of([r for r in cells if r.mixer == mixer or r.pattern == "S"])
    return [block for block in found if any(arm.pattern != "S" for arm in block.arms())]


def _block_tables(
    heading: str,
    block: Block,
    place: Callable[[Arm], tuple[object, ...]],
    label: Callable[[Arm], str],
    words: Callable[[Arm], str],
    tried: Tried,
) -> list[Table]:
    """The scores, and below them how many seeds learnt where that was recorded."""
    learnt = learnt_table(heading, block, place, label)
    return [_block_table(heading, block, place, label, words, tried), *([learnt] if learnt else [])]


def _block_table(
    heading: str,
    block: Block,
    place: Callable[[Arm], tuple[object, ...]],
    label: Callable[[Arm], str],
    words: Callable[[Arm], str],
    tried: Tried,
) -> Table:
    arms = block.arms()
    order = sorted(arms, key=place)
    scores = {arm: block.scores(arm) for arm in order}
    means = {arm: _mean_over_benchmarks(arms[arm], block.benchmarks) for arm in order}
    # Where it was chosen for each arm it is told, even if all chose the same.
    chosen = any("best_lr" in record.extra for rows in arms.values() for record in rows)
    several_rates = chosen or len({arm.learning_rate for arm in order}) > 1
    several_benchmarks = len(block.benchmarks) > 1
    units = {name: next(iter({e[name].unit for e in scores.values() if name in e})) for name in block.benchmarks}
    columns = [
        Column(heading, numeric=False),
        *(Column(f"{name} {block.split}", units[name]) for name in block.benchmarks),
        *([Column("Mean", "%")] if several_benchmarks else []),
        Column("State", "elements"),
        Column("Parameters"),
        Column("Seeds"),
        *([Column("Learning rate")] if several_rates else []),
        Column("Paper (published)", numeric=False),
    ]
    best = {name: _best({arm: s[name] for arm, s in scores.items() if name in s}) for name in block.benchmarks}
    best_mean = _best({arm: mean for arm, mean in means.items() if mean is not None})
    rows = []
    for arm in order:
        cells = [text_cell(label(arm))]
        for name in block.benchmarks:
            found = scores[arm].get(name)
            mark = "" if _above([r for r in arms[arm] if r.benchmark == name], block.floor(name)) else MARK
            cells.append(estimate_cell(found, mark=mark, strong=arm in best[name]))
        if several_benchmarks:
            cells.append(estimate_cell(means[arm], strong=arm in best_mean))
        cells += [
            # Of attention alone there is only a cache, which is not counted here.
            Cell(NOTHING) if arm.pattern in CONTROL_PATTERNS else _common_count(arms[arm], "state_elements"),
            _common_count(arms[arm], "parameters", UNMATCHED if _unmatched(arms[arm]) else ""),
            _seeds_cell(arms[arm]),
        ]
        if several_rates:
            mark = AT_AN_END if at_an_end(tried, block, arm) else ""
            rate = float(arm.learning_rate) if arm.learning_rate else None
            cells.append(Cell(arm.learning_rate or NOTHING, rate, mark=mark))
        cells.append(text_cell(words(arm)))
        rows.append(Row(tuple(cells), "measured", run_ids(arms[arm]), _facets(block, arms[arm])))
    rows += _baseline_rows(block, len(columns) - 1 - len(block.benchmarks))
    return Table(block.title, tuple(columns), tuple(rows))


def _baseline_rows(block: Block, others: int) -> list[Row]:
    rows = []
    for metric, label in BASELINES.items():
        found = {name: block.baseline(metric, name) for name in block.benchmarks}
        if any(one is not None for one in found.values()):
            cells = [text_cell(f"Baseline: {label}"), *(estimate_cell(found[name]) for name in block.benchmarks)]
            runs = tuple(sorted({run for one in found.values() if one is not None for run in one.runs}))
            same = [record for record in block.records if record.metric == metric]
            rows.append(Row((*cells, *[Cell(NOTHING)] * others), "baseline", runs, _facets(block, same)))
    return rows


def _orderings_table(heading: str, words: Mapping[str, str]) -> Table:
    rows = tuple(Row((text_cell(name), text_cell(said)), "published") for name, said in words.items())
    return Table(
        "Published orderings", (Column(heading, numeric=False), Column("Paper (published)", numeric=False)), rows
    )


def _mean_over_benchmarks(rows: Sequence[Record], benchmarks: Sequence[str]) -> Estimate | None:
    """Mean over benchmarks, interval over the seeds that have all of them; None where none has, or units are mixed."""
    if {record.unit for record in rows} != {"%"}:
        return None
    values = []
    seeds = []
    in_order = sorted(rows, key=lambda r: (r.seed is not None, r.seed or 0, r.benchmark or "", r.value))
    for seed, same in group(in_order, lambda r: r.seed).items():
        by_benchmark = group(same, lambda r: r.benchmark)
        if set(by_benchmark) == set(benchmarks):
            values.append(float(np.mean([np.mean([r.value for r in found]) for found in by_benchmark.values()])))
            seeds.append(seed)
    if not values:
        return None
    low, high = interval_of_mean(values) if len(values) > 1 else (None, None)
    if low is not None and high is not None:
        low, high = max(low, 0.0), min(high, 100.0)
    known = tuple(sorted(seed for seed in seeds if seed is not None))
    return Estimate(
        float(np.mean(values)), low, high, "seeds" if low is not None else "none", known, None, "%", run_ids(rows), 0
    )


def _best(estimates: Mapping[Arm, Estimate]) -> set[Arm]:
    """The highest, and all that lie within its interval; nothing to mark among fewer than two."""
    if len(estimates) < 2:
        return set()
    top = max(estimates.values(), key=lambda one: one.value)
    floor = top.value if top.low is None else top.low
    return {arm for arm, one in estimates.items() if one.value >= floor}


def _above(rows: Sequence[Record], floor: float | None) -> bool:
    """Whether every seed's own interval over samples lies above the baselines."""
    return floor is None or all((row.value if row.ci_low is None else row.ci_low) > floor for row in rows)


def _common_count(rows: Sequence[Record], field: str, mark: str = "") -> Cell:
    values = {getattr(record, field) for record in rows} - {None}
    return replace(count_cell(values.pop()), mark=mark) if len(values) == 1 else Cell(NOTHING, mark=mark)


def _unmatched(rows: Sequence[Record]) -> set[str]:
    """Why an arm does not hold what the others do; empty where it does, or where nothing was to be matched."""
    return {said for record in rows if (said := extra_text(record, "unmatched"))}


def _unmatched_caption(blocks: Sequence[Block]) -> str:
    """The reasons of all arms that are not matched, by how they are called."""
    found: dict[str, None] = {}
    for block in blocks:
        for arm, rows in sorted(block.arms().items()):
            pattern = "" if arm.pattern in CONTROL_PATTERNS else f" {arm.pattern}"
            found |= dict.fromkeys(f"{arm.label}{pattern} {said}" for said in sorted(_unmatched(rows)))
    return f"{UNMATCHED}: not matched: {'; '.join(found)}." if found else ""


def _seeds_cell(rows: Sequence[Record]) -> Cell:
    seeds = {record.seed for record in rows}
    diverged = len({record.seed for record in rows if record.extra.get("status") == "diverged"})
    return Cell(f"{len(seeds)}" + (f" ({diverged} diverged)" if diverged else ""), len(seeds))


def _facets(block: Block, rows: Sequence[Record]) -> tuple[tuple[str, str], ...]:
    devices = sorted({record.device for record in rows if record.device})
    return ("scale", block.scale), ("split", block.split), ("device", ", ".join(devices))


def _caption(blocks: Sequence[Block], tried: Tried) -> str:
    if not blocks:
        return f"{ORDERINGS} Nothing has been measured yet."
    scores = [record for block in blocks for record in block.records if record.metric == "score"]
    parts = [
        ORDERINGS,
        "Scores are means over seeds with the 95 % t interval over seeds; with one seed, the 95 % interval over "
        "samples where it was recorded.",
        f"{MARK}: in at least one seed not above both baselines, by its 95 % interval over samples."
        if any(block.floor(b) is not None for block in blocks for b in block.benchmarks)
        else "",
        LEARNT_CAPTION if any(r.metric == "learnt" for block in blocks for r in block.records) else "",
        "Bold: the highest, and every score within its interval. State: of the linear layers, without what attention "
        "caches.",
        f"{AT_AN_END}: at an end of the learning rates that were tried; a better one may lie beyond."
        if any(at_an_end(tried, block, arm) for block in blocks for arm in block.arms())
        else "",
        _unmatched_caption(blocks),
        "Synthetic data: comparable between rows, not with the paper's numbers."
        if any(r.split == "synthetic" for r in scores)
        else "",
        describe(scores),
    ]
    return " ".join(part for part in parts if part)
