"""What a profile is asked for."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """What was asked for; None and empty lists mean the default of the device.

    Attributes:
        what: Of `command.PROFILES`, or ``all``: one after the other in one process, since importing takes its time.
        models: Presets, ``preset:PATTERN``, or folders of checkpoints.
        contexts: Tokens before what is measured.
        frames: Frames before what is measured.
        frame_size: Side of a square frame in pixels.
        chunk: Tokens of a prefill chunk.
        batch: Sequences at a time.
        graph: Only captured (True), only eager (False), or what the protocols need (None).
        protocol: ``matched``, ``as-published`` or ``both``.
        dtype: Of the weights.
        device: auto, cpu or cuda.
        quick: Fewer cells, the most telling first.
        budget_s: Start no cell after so many seconds.
        again: Measure what is finished anew.
        runs: Folder of all runs.
        out: JSON-lines file that the records are written to as well; None writes none.
    """

    what: str
    models: list[str] = field(default_factory=list)
    contexts: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    frame_size: int | None = None
    chunk: int | None = None
    batch: int = 1
    graph: bool | None = None
    protocol: str = "both"
    dtype: str | None = None
    device: str = "auto"
    quick: bool = False
    budget_s: float | None = None
    again: bool = False
    runs: Path = Path("runs")
    out: Path | None = None
