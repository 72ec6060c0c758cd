"""A pre-registered study: its arms, how each gets its learning rate, and the seeds that a claim rests on.

Every arm is trained at every learning rate with seeds of its own, which are scored on pages of the validation split
only; the best rate is then trained with the seeds that count, scored on the test split. All of it is recorded.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from ..errors import unknown_name
from ..eval.benchmarks import find_benchmark
from ..records import Record, RunSpec
from .scales import Scale, get_scale
from .study import Study

VALIDATION_SCORE = "validation_score"
TEXT_RICH = ("DocVQA", "TextVQA", "OCRBench", "ChartQA")
"""What a learning rate is chosen by: the mean over those of them that the scale has."""


@dataclass(frozen=True)
class Arm:
    """What one row of a study trains; ``smallest`` arms are those of scale tiny too, ``claim`` arms decide a claim."""

    mixer: str
    pattern: str = "SLLL"
    mixer_args: Mapping[str, Any] = field(default_factory=dict)
    claim: bool = False
    smallest: bool = False

    @property
    def fields(self) -> dict[str, Any]:
        """The arm as the fields of a cell."""
        return {"mixer": self.mixer, "pattern": self.pattern, "mixer_args": dict(self.mixer_args)}


@dataclass(frozen=True)
class Size:
    """How much of a study is run at a scale.

    Attributes:
        steps, pages, questions: the scale's own if None.
        levels: difficulties trained on and tested at; scores of the first are the cell's ``score``.
        claim_seeds, other_seeds: how many seeds an arm is tested with.
        validation_seeds: seeds of the choice of a learning rate.
        probe_pages: pages of the validation split that are asked now and then, all families in turn.
        probes: how often in a training.
        learning_rates: every arm's, in rising order.
    """

    levels: tuple[int, ...]
    claim_seeds: int
    other_seeds: int
    validation_seeds: tuple[int, ...]
    probe_pages: int
    probes: int = 20
    steps: int | None = None
    pages: int | None = None
    questions: int | None = None
    learning_rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)


SIZES: dict[str, Size] = {
    "tiny": Size((1,), 1, 1, (100,), probe_pages=64, probes=4, steps=100, pages=512, questions=50),
    "small": Size(
        (1, 2),
        5,
        3,
        (100,),
        probe_pages=480,
        probes=10,
        # Of three rates, 0.001 to 0.004, five of the six arms recorded were best at an end (600 steps, November 2026).
        learning_rates=(5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
    ),
}


@dataclass(frozen=True)
class Plan:
    """A study as it was registered before it was run.

    Attributes:
        name: Of the study.
        claims: Which claims its records decide.
        artifact: Which table shows them.
        arms: Name → what it trains.
        learning_rates: Every arm's, in rising order; the scale's own if None.
    """

    name: str
    claims: tuple[str, ...]
    artifact: str
    arms: Mapping[str, Arm]
    learning_rates: tuple[float, ...] | None = None

    def rates(self, scale: str) -> tuple[float, ...]:
        """The learning rates that every arm is tried at."""
        return self.learning_rates or get_size(scale).learning_rates

    def only(self, names: Iterable[str] | None, scale: str) -> "Plan":
        """The study with these arms; with the scale's own if None.

        Raises:
            UserError: for an arm that it does not have.
        """
        if names is None:
            names = [name for name, arm in self.arms.items() if arm.smallest or scale != "tiny"]
        for name in names:
            if name not in self.arms:
                raise unknown_name(f"arm of {self.name}", name, self.arms)
        return replace(self, arms={name: self.arms[name] for name in names})

    def validation_cells(self, scale: str, device: str, steps: int | None = None) -> list[RunSpec]:
        """The cells that choose every arm's learning rate."""
        size = get_size(scale)
        return [
            cell
            for arm in self.arms.values()
            for rate in self.rates(scale)
            for cell in _cells(arm, rate, size.validation_seeds, scale, device, steps, "validation")
        ]

    def test_cells(
        self, scale: str, device: str, rates: Mapping[str, float], steps: int | None = None
    ) -> list[RunSpec]:
        """The cells that count, each arm at its rate of ``rates`` (arm → rate)."""
        size = get_size(scale)
        return [
            cell
            for name, arm in self.arms.items()
            for cell in _cells(
                arm,
                rates[name],
                range(size.claim_seeds if arm.claim else size.other_seeds),
                scale,
                device,
                steps,
                "test",
            )
        ]

    def best_rates(self, cells: Iterable[RunSpec], records: Iterable[Record]) -> dict[str, float]:
        """Arm → the learning rate with the best mean validation score; the lower one of equals.

        Args:
            cells: from `validation_cells`.
            records: theirs.
        """
        scores = {record.run_id: record.value for record in records if record.metric == VALIDATION_SCORE}
        found: dict[str, dict[float, list[float]]] = {name: {} for name in self.arms}
        by_fields = {_identity(arm): name for name, arm in self.arms.items()}
        for cell in cells:
            arguments = cell.arguments
            name = by_fields[
                (arguments["arm_mixer"], arguments["pattern"], repr(sorted(arguments["arm_args"].items())))
            ]
            found[name].setdefault(arguments["training"]["learning_rate"], []).append(scores[cell.id])
        return {name: max(sorted(rates), key=lambda rate: fmean(rates[rate])) for name, rates in found.items()}


def get_size(scale: str) -> Size:
    """Look up how much of a study is run at a scale.

    Raises:
        UserError: for a scale at which studies are not run.
    """
    if scale not in SIZES:
        raise unknown_name("scale of a study", scale, SIZES)
    return SIZES[scale]


def _identity(arm: Arm) -> tuple[str, str, str]:
    return arm.mixer, arm.pattern, repr(sorted(arm.mixer_args.items()))


def _cells(
    arm: Arm, rate: float, seeds: Iterable[int], scale_name: str, device: str, steps: int | None, role: str
) -> list[RunSpec]:
    size, scale = get_size(scale_name), get_scale(scale_name)
    steps = steps or size.steps
    study = Study(
        baseline=arm.fields,
        changes={"seed": list(seeds)},
        scale=scale_name,
        overrides={"learning_rate": rate} | ({"steps": steps} if steps else {}),
        pages=size.pages,
        questions=size.questions,
    )
    return [_exact(cell, arm, size, scale, role) for cell in study.cells(device)]


def _exact(cell: RunSpec, arm: Arm, size: Size, scale: Scale, role: str) -> RunSpec:
    """A cell that trains in steps of one shape and is scored on exact answers."""
    arguments = cell.arguments
    steps = arguments["training"]["steps"]
    pages = scale.pages.model_copy(update={"pages": arguments["pages"]["pages"], "levels": size.levels})
    # Only a page's first question is scored: what would be asked after it is not read at all.
    asked = {"seed": 1, "pages": arguments["questions"], "levels": (), "turns": 1}
    sets = {"probe": pages.model_copy(update={"pages": size.probe_pages, "split": "validation", "turns": 1})}
    for benchmark in scale.benchmarks if role == "test" else ():
        own = asked | {"weights": {find_benchmark(benchmark).family: 1}, "split": "test"}
        for level in size.levels:
            sets[f"{benchmark} {level}"] = pages.model_copy(update=own | {"level": level})
        sets[f"{benchmark} blind"] = pages.model_copy(update=own | {"level": size.levels[0], "blind": True})
    added = {
        "scoring": "exact",
        "role": role,
        "arm_mixer": arm.mixer,
        "arm_args": dict(arm.mixer_args),
        "pages": pages.model_dump(mode="json"),
        "sets": {name: one.model_dump(mode="json") for name, one in sets.items()},
        "probe_every": max(1, steps // size.probes),
    }
    return RunSpec(kind="ablate", arguments=arguments | added)
