"""The Transformer over the hybrid: ratios at shared positions, published beside measured, and where the two cross."""

import itertools
import math
from collections.abc import Mapping, Sequence

from ..records import Record
from .efficiency import canonical_model, is_estimate, is_published_architecture, series_key
from .estimates import estimate, extra_text, group, run_ids
from .published import HYBRID, TRANSFORMER
from .tables import Cell, Column, Row, Table, text_cell

Curve = Mapping[int, float]


def ratio_tables(points: Sequence[Record], axis: str, metric: str) -> tuple[Table, ...]:
    """One table of how many times better the hybrid is, by source, protocol and device; nothing without a pair.

    Args:
        points: Of one figure, published and measured.
        axis: ``context`` or ``frames``.
        metric: ``latency_ms``, of which less is better, or ``streaming_fps``, of which more is.
    """
    usable = [r for r in points if is_published_architecture(r) or r.source == "published"]
    places = group(usable, lambda r: (r.source, extra_text(r, "protocol") or "", r.device or "", is_estimate(r)))
    rows = []
    for (source, protocol, device, estimated), same in sorted(places.items()):
        if estimated:
            continue
        curves = {model: _curve(same, model, axis) for model in (HYBRID, TRANSFORMER)}
        shared = sorted(curves[HYBRID].keys() & curves[TRANSFORMER].keys())
        if not shared:
            continue
        ours, theirs = curves[HYBRID], curves[TRANSFORMER]
        better = {at: theirs[at] / ours[at] if metric == "latency_ms" else ours[at] / theirs[at] for at in shared}
        where = crossover(better)
        title = ", ".join(part for part in (protocol or source, device) if part)
        crossing = Cell("none in range" if where is None else f"{where:,.0f}", where)
        for at in shared:
            cells = (text_cell(title), Cell(f"{at:,}", at), Cell(f"{better[at]:.2f}", better[at]), crossing)
            rows.append(Row(cells, "published" if source == "published" else "measured", run_ids(same)))
    if not rows:
        return ()
    unit = "tokens" if axis == "context" else "frames"
    columns = (
        Column("Protocol and device", numeric=False), Column(unit.capitalize()), Column("Hybrid better", "times"),
        Column("The two are equal at", unit),
    )  # fmt: skip
    return (Table("Hybrid against Transformer", columns, tuple(rows)),)


def crossover(ratios: Curve) -> float | None:
    """Where a ratio first rises through 1, between two positions by a line over the logarithm of the position."""
    for low, high in itertools.pairwise(sorted(ratios)):
        if ratios[low] < 1 <= ratios[high]:
            share = (1 - ratios[low]) / (ratios[high] - ratios[low])
            return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return None


def _curve(records: Sequence[Record], model: str, axis: str) -> dict[int, float]:
    own = [record for record in records if canonical_model(record.model) == model]
    # Batches and types of their own would be other curves.
    usual = group(own, series_key)
    if not usual:
        return {}
    shortest = min(usual, key=lambda key: (len(key[2]), key))
    return {at: estimate(same).value for at, same in group(usual[shortest], lambda r: getattr(r, axis)).items()}
