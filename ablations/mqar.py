"""Multi-query recall: how large a model of each mixer must be to say the value of each of many keys it was shown.

Claim     none of the paper's; the published diagnostic behind them, so that our mixers stand beside known curves
Artifact  mqar: accuracy against the width and against what is kept between tokens
Command   infinitevl-bench ablate --study mqar --scale small
Cost      tiny: 16.6 minutes of CPU time; small: not measured, 6.9 G tokens an arm, 96 G for all 14

The task is that of zoology (arXiv 2312.04927; `data.mqar`), every mixer alone in both layers, and as controls full
attention and a sliding window of a quarter of the sequence. What the model shares with zoology's and what not,
`models.recall` says. Published (HazyResearch/zoology, configuration of figure 2): a vocabulary of 8192; 64 tokens with
4 pairs, 128 with 8, 256 with 16; 100,000 training and 3,000 test sequences; widths of 64, 128, 256 and 512; learning
rates of 10⁻⁴ to 10⁻² in four steps, the best shown; 64 epochs in batches of 512, 512 and 256; AdamW with a cosine.

Scale small is as published but for its training, of 2,000 steps, 10 epochs and at 256 tokens 5, and for the width of
512, which it leaves out: 64 epochs would be 60 G tokens an arm. So where it lies below a published curve, time may be
the reason; ``--steps`` gives more. The best rate of each arm, task and width is chosen on validation sequences by one
seed, and three others are tested, where the published curves show the best of all.

Scale tiny is 64 tokens with 4 pairs and shows that the machine works: a vocabulary of 128, because with 8192 a key
would be seen some twenty times in the 600 steps that the minutes allow, too few to learn what stands for it; widths of
32 and 64, below and at the published range's lower end; the upper three rates, since short trainings want high ones.
It is no test of a mixer: it was known before it was run that its positive control fails. On easier instances (two pairs
in 16 tokens) full attention named some value of the sequence and no more after 1,200 steps, in batches of 32 to 256; it
needs more than a CPU's minutes, and small has the published batches for that reason. The sizes of tiny were set before
any arm had run at it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from ..data.mqar import RecallSpec
from ..data.mqar_pages import code_of
from ..errors import unknown_name
from ..models.config import HybridVLConfig
from ..models.recall import recall_config
from ..models.registry import canonical_name
from ..records import Record, RunSpec
from ..training.loop import TrainArguments
from .mixer_choice import DRESSED
from .plan import VALIDATION_SCORE, Arm, Plan

RECALL = "recall"
"""How cells of this study are scored."""

WINDOW_SHARE = 4
"""A sliding window sees the sequence's length by this."""

PUBLISHED_RATES = (1e-4, 4.64e-4, 2.15e-3, 1e-2)


@dataclass(frozen=True)
class RecallSize:
    """How much of the study is run at a scale.

    Attributes:
        tasks: tokens of a sequence, pairs in it, and sequences of a step.
        widths: of the model, each with each task.
        vocabulary: of the task.
        training: hyper-parameters; seed, learning rate and batch size are the cell's.
        examples: sequences of the training set; every cell trains on the same.
        test_examples, probe_examples: sequences of the test and of the validation split.
        learning_rates: every arm's, in rising order.
        validation_seeds: seeds of the choice of a learning rate.
        test_seeds: how many seeds are tested.
        probes: how often the validation sequences are asked in a training.
    """

    tasks: tuple[tuple[int, int, int], ...]
    widths: tuple[int, ...]
    vocabulary: int
    training: TrainArguments
    examples: int
    test_examples: int
    probe_examples: int
    learning_rates: tuple[float, ...]
    test_seeds: int
    validation_seeds: tuple[int, ...] = (100,)
    probes: int = 10


RECALL_SIZES: dict[str, RecallSize] = {
    "tiny": RecallSize(
        tasks=((64, 4, 32),),
        widths=(32, 64),
        vocabulary=128,
        training=TrainArguments(steps=600),
        examples=16384,
        test_examples=500,
        probe_examples=100,
        learning_rates=PUBLISHED_RATES[1:],
        test_seeds=1,
    ),
    "small": RecallSize(
        tasks=((64, 4, 512), (128, 8, 512), (256, 16, 256)),
        widths=(64, 128, 256),
        vocabulary=8192,
        training=TrainArguments(steps=2000, precision="tf32"),
        examples=100_000,
        test_examples=3000,
        probe_examples=500,
        learning_rates=PUBLISHED_RATES,
        test_seeds=3,
    ),
}


@dataclass(frozen=True)
class RecallPlan(Plan):
    """The study as it was registered; its cells are arms by tasks by widths, each with a learning rate of its own.

    Attributes:
        sizes: by scale.
        seen: whether the pairs stand on a page instead of in the text.
    """

    sizes: Mapping[str, RecallSize] = field(default_factory=lambda: RECALL_SIZES)
    seen: bool = False

    def size(self, scale: str) -> RecallSize:
        """Look up how much of the study is run at a scale.

        Raises:
            UserError: for a scale at which it is not run.
        """
        if scale not in self.sizes:
            raise unknown_name(f"scale of {self.name}", scale, self.sizes)
        return self.sizes[scale]

    def rates(self, scale: str) -> tuple[float, ...]:
        """The learning rates that every arm is tried at."""
        return self.learning_rates or self.size(scale).learning_rates

    def validation_cells(self, scale: str, device: str, steps: int | None = None) -> list[RunSpec]:
        """The cells that choose the learning rate of every arm, task and width."""
        size = self.size(scale)
        return [
            self._cell(one, rate, seed, scale, device, steps, "validation")
            for one in self._points(scale)
            for rate in self.rates(scale)
            for seed in size.validation_seeds
        ]

    def test_cells(
        self, scale: str, device: str, rates: Mapping[str, float], steps: int | None = None
    ) -> list[RunSpec]:
        """The cells that count, each at its rate of ``rates`` (`_Point.name` → rate)."""
        return [
            self._cell(one, rates[one.name], seed, scale, device, steps, "test")
            for one in self._points(scale)
            for seed in range(self.size(scale).test_seeds)
        ]

    def best_rates(self, cells: Iterable[RunSpec], records: Iterable[Record]) -> dict[str, float]:
        """Arm, task and width → the rate with the best mean validation accuracy; the lower one of equals."""
        scores = {record.run_id: record.value for record in records if record.metric == VALIDATION_SCORE}
        found: dict[str, dict[float, list[float]]] = {}
        for cell in cells:
            rates = found.setdefault(cell.arguments["point"], {})
            rates.setdefault(cell.arguments["training"]["learning_rate"], []).append(scores[cell.id])
        return {name: max(sorted(rates), key=lambda rate: fmean(rates[rate])) for name, rates in found.items()}

    def _points(self, scale: str) -> list["_Point"]:
        size = self.size(scale)
        return [
            _Point(name, arm, *task, width) for name, arm in self.arms.items() for task in size.tasks
            for width in size.widths
        ]  # fmt: skip

    def _cell(
        self, point: "_Point", rate: float, seed: int, scale: str, device: str, steps: int | None, role: str
    ) -> RunSpec:
        size = self.size(scale)
        changes = {"learning_rate": rate, "seed": seed, "batch_size": point.batch_size}
        changes["steps"] = steps or size.training.steps
        training = size.training.model_copy(update=changes)
        train = RecallSpec(length=point.length, pairs=point.pairs, examples=size.examples, vocabulary=size.vocabulary)
        train.check()
        if self.seen:
            code_of(size.vocabulary - 1)
        sets = {"probe": train.model_copy(update={"examples": size.probe_examples, "split": "validation"})}
        if role == "test":
            sets["test"] = train.model_copy(update={"examples": size.test_examples, "split": "test"})
        # Without a linear layer the mixer is no part of the model.
        linear = "L" in point.arm.pattern
        return RunSpec(
            kind="ablate",
            arguments={
                "scale": scale,
                "scoring": RECALL,
                "role": role,
                "point": point.name,
                "mixer": canonical_name(point.arm.mixer) if linear else "none",
                "mixer_args": dict(point.arm.mixer_args) if linear else {},
                "pattern": point.arm.pattern,
                "width": point.width,
                "seed": seed,
                "training": training.model_dump(mode="json"),
                "sequences": train.model_dump(mode="json"),
                "sets": {name: one.model_dump(mode="json") for name, one in sets.items()},
                "probe_every": max(1, training.steps // size.probes),
                "device": device,
            }
            | ({"seen": True} if self.seen else {}),
        )


@dataclass(frozen=True)
class _Point:
    """A point of the study's curves."""

    arm_name: str
    arm: Arm
    length: int
    pairs: int
    batch_size: int
    width: int

    @property
    def name(self) -> str:
        return f"{self.arm_name} {self.width} wide, {self.pairs} pairs in {self.length}"


def config_of(spec: RunSpec) -> HybridVLConfig:
    """The configuration of a cell."""
    arguments = spec.arguments
    mixer = "gated_deltanet" if arguments["mixer"] == "none" else arguments["mixer"]
    return recall_config(
        mixer,
        arguments["pattern"],
        arguments["mixer_args"],
        width=arguments["width"],
        vocabulary=arguments["sequences"]["vocabulary"],
        window=arguments["sequences"]["length"] // WINDOW_SHARE,
    )


PLAN = RecallPlan(
    name="mqar",
    claims=(),
    artifact="mqar",
    arms={
        "gated_deltanet": Arm("gated_deltanet", "L", smallest=True),
        "mamba2": Arm("mamba2", "L"),
        "gla": Arm("gla", "L"),
        "gla_without_convolution": Arm("gla", "L", {"conv_size": 0}),
        "linear_attention": Arm("linear_attention", "L", smallest=True),
        "linear_attention_dressed": Arm("linear_attention", "L", DRESSED, smallest=True),
        "kimi_delta_attention": Arm("kimi_delta_attention", "L"),
        "deltanet": Arm("deltanet", "L"),
        "retnet": Arm("retnet", "L"),
        "hgrn2": Arm("hgrn2", "L"),
        "mamba1": Arm("mamba1", "L"),
        "identity": Arm("identity", "L"),
        "window_only": Arm("gated_deltanet", "S", smallest=True),
        "full_attention": Arm("gated_deltanet", "F", smallest=True),
    },
)
