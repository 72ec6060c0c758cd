"""The artifacts of the report: every table and figure by name, each a function from records to an `Artifact`."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, cast

from ..errors import unknown_name
from ..records import Record
from .estimates import run_ids, scale_rank
from .tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .figures import Theme

# name → "module:function"; the order is the order of the report.
ARTIFACTS: dict[str, str] = {
    "table3": "ablation_tables:mixer_table",
    "table4": "ablation_tables:ratio_table",
    "learning_curves": "curves:learning_curves",
    "probe_curves": "learning_tables:probe_curves",
    "difficulty": "recall:difficulty",
    "state_recall": "recall:state_recall",
    "mqar": "mqar:multi_query_recall",
    "table1": "benchmark_tables:general_table",
    "table2": "benchmark_tables:text_rich_table",
    "fig1": "efficiency:overview",
    "fig4_latency": "efficiency:latency",
    "fig4_streaming": "efficiency:streaming",
    "floors": "efficiency_floors:floors",
    "ops": "speed_tables:ops",
    "full_size": "speed_tables:full_size",
    "fig_frames": "frames:frame_scaling",
    "depth_frames": "frames:depth_frames",
}


@dataclass(frozen=True)
class Missing:
    """What an artifact lacks, and the command that makes it (None where this version has no such command)."""

    what: str
    command: str | None


@dataclass(frozen=True)
class Artifact:
    """One table or figure of the report.

    ``label`` is the title in a word or two; ``figure`` draws it in a theme, None where there is nothing to draw;
    ``runs`` are the runs behind measured numbers.
    """

    name: str
    label: str
    title: str
    caption: str
    tables: tuple[Table, ...] = ()
    figure: "Callable[[Theme], Figure] | None" = None
    missing: tuple[Missing, ...] = ()
    runs: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A hash of the numbers and words that it shows."""
        return hashlib.sha256(repr((self.name, self.caption, self.tables)).encode()).hexdigest()[:16]


def artifact_names() -> list[str]:
    """All artifacts, in the order of the report."""
    return list(ARTIFACTS)


def artifact_title(name: str) -> str:
    """What an artifact is, in one line.

    Raises:
        UserError: for an unknown name, with the nearest names.
    """
    return make_artifact(name, ()).title


def make_artifact(name: str, records: Sequence[Record]) -> Artifact:
    """Make one artifact from all records, published and measured.

    Raises:
        UserError: for an unknown name, with the nearest names.
    """
    if name not in ARTIFACTS:
        raise unknown_name("artifact", name, ARTIFACTS)
    module, function = ARTIFACTS[name].split(":")
    make = cast("Callable[[Sequence[Record]], Artifact]", getattr(import_module(f".{module}", __package__), function))
    return make(records)


def describe(records: Iterable[Record]) -> str:
    """Where measured numbers come from, for a caption: scale, split, samples, seeds, device. Empty without records."""
    rows = [record for record in records if record.source == "measured"]
    if not rows:
        return ""
    scales = sorted({r.scale for r in rows if r.scale}, key=lambda scale: (scale_rank(scale), scale))
    samples = sorted({record.n for record in rows if record.n is not None})
    seeds = sorted({record.seed for record in rows if record.seed is not None})
    parts = [
        f"scale {', '.join(scales)}" if scales else "",
        _listed("split", {record.split for record in rows}),
        f"n = {_span(samples)} per {'score' if all(r.unit == '%' for r in rows) else 'figure'}" if samples else "",
        f"seed{'s' if len(seeds) > 1 else ''} {_span(seeds)}" if seeds else "",
        _listed("device", {record.device for record in rows}),
        f"{len(run_ids(rows))} run{'s' if len(run_ids(rows)) != 1 else ''}",
    ]
    return f"Measured: {'; '.join(part for part in parts if part)}."


def _listed(label: str, values: set[str | None]) -> str:
    names = sorted(value for value in values if value)
    return f"{label} {', '.join(names)}" if names else ""


def _span(numbers: Sequence[int]) -> str:
    if len(numbers) < 3:
        return ", ".join(map(str, numbers))
    return f"{numbers[0]}–{numbers[-1]}"
