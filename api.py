"""The Python interface: what the commands do, with tables in place of prints (``docs/python.md``)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .tidy import frame

if TYPE_CHECKING:
    import pandas as pd

    from .reports.claims import Verdict

Item = TypeVar("Item")


def ablate(
    mixer: str | Sequence[str] = "gated_deltanet",
    *,
    swa_ratio: str | Sequence[str] | None = None,
    pattern: str | Sequence[str] | None = None,
    recipe: str | Sequence[str] | None = None,
    scale: str = "tiny",
    seeds: int = 1,
    match: str | None = None,
    teacher: str | None = None,
    steps: int | None = None,
    learning_rate: float | None = None,
    questions: int | None = None,
    pages: int | None = None,
    jobs: int | None = None,
    device: str = "auto",
    runs: str | Path = "runs",
) -> "pd.DataFrame":
    """Train and score every combination of mixers and SWA ratios, as `infinitevl-bench ablate` does.

    Returns:
        The records of the cells, one a row; finished cells are read, not trained again.

    Raises:
        UserError: for options that name nothing known, before anything is trained.
    """
    from .ablations.command import ablate_command

    training: dict[str, Any] = {"steps": steps, "learning_rate": learning_rate}
    records = ablate_command(
        mixers=_listed(mixer),
        ratios=_listed(swa_ratio),
        patterns=_listed(pattern),
        scale=scale,
        seeds=seeds,
        recipes=_listed(recipe),
        match=match,
        teacher=teacher,
        overrides={name: value for name, value in training.items() if value is not None},
        questions=questions,
        pages=pages,
        jobs=jobs,
        device=device,
        runs=Path(runs),
    )
    return frame(record.model_dump() for record in records)


def evaluate(
    benchmark: str | Sequence[str] | None = None,
    *,
    suite: str | None = None,
    model: str | None = None,
    data: str = "auto",
    limit: int | None = None,
    batch_size: int | None = None,
    level: int = 1,
    seed: int = 0,
    prompts: str = "dataset",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    frames: int | Sequence[int] = 64,
    judge: str | None = None,
    blind: bool = True,
    max_bad: int = 0,
    graph: bool = False,
    device: str = "auto",
    runs: str | Path = "runs",
) -> "pd.DataFrame":
    """Evaluate a model on benchmarks through VLMEvalKit, as `infinitevl-bench eval` does.

    Returns:
        The scores and baselines, one a row.

    Raises:
        UserError: for unknown names, missing data, or a model that cannot be loaded, before the first question.
    """
    from .eval.command import Request, eval_command

    request = Request(
        model=model, data=data, limit=limit, batch_size=batch_size, level=level, seed=seed, device=device,
        runs=Path(runs), prompts=prompts, min_pixels=min_pixels, max_pixels=max_pixels,
        frames=(frames,) if isinstance(frames, int) else tuple(frames), judge=judge, blind=blind, max_bad=max_bad,
        graph=graph,
    )  # fmt: skip
    results = eval_command(_listed(benchmark) or (), suite, request)
    return frame(record.model_dump() for result in results for record in result.records)


def published() -> "pd.DataFrame":
    """The paper's own numbers, one a row, in the columns of `records`."""
    from .reports.published import published_records

    return frame(record.model_dump() for record in published_records())


def verify(*claims: str, runs: str | Path = "runs") -> "list[Verdict]":
    """The verdicts on claims, all of them without a name, in order.

    Raises:
        UserError: for an unknown claim, with the nearest names; for records that cannot be read.
    """
    from .reports.verify import verdicts_on

    return verdicts_on(Path(runs), claims)[0]


def _listed(value: str | Sequence[str] | None) -> list[str] | None:
    return None if value is None else [value] if isinstance(value, str) else list(value)
