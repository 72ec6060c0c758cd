"""How many frames: trained on short videos, tuned on long ones or for as long on short ones, asked about longer ones.

Claim     C7, long-sequence training keeps accuracy from 32 to 1024 frames; without it accuracy falls
Artifact  the figure of frames, and the heat map of depth and frames
Command   infinitevl-bench ablate --study frame_scaling --scale small
Cost      tiny: 9 minutes on two cores; small: 23 minutes of one H200 for all 60 cells, on which 49 cells of other
          studies and tests ran meanwhile, and a second H200 in the last three of them

Every arm inherits all but its mixers from the shipped teacher, as the paper's students do from Qwen2.5-VL: it can read
from the start. It is trained on videos of at most 32 frames (stage `short`). From there it is tuned on videos of up to
256 frames (`long`), and, as the control, for equally many steps on videos as short as before (`control`). Each of the
three is asked about videos of 32 to 1024 frames: a text shown at a given depth, how often a shape appeared, which of
two keys came first. Controls: `window_only` sees no further than 16 tokens a layer, `full_attention` sees everything.
Arms are not matched in parameters, since what is compared is the same arm before and after a stage.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..data.library import LibrarySpec
from ..data.timelines import VideoSetSpec
from ..errors import unknown_name
from ..models.device import free_bytes
from ..records import RunSpec
from ..training.video_answers import batch_that_fits
from .plan import Arm, Plan, get_size
from .study import Study, arm_config

FRAMES = "frames"
"""How cells of this study are scored."""

BENCHMARKS = {"needle": "VideoNeedle", "count": "VideoCount", "order": "VideoOrder"}
"""Kind of question → what records call it."""

STAGES = ("short", "long", "control")

LONG_SIDE_BY_SIDE = 2
"""Cells of stage `long` that one process trains at a time: a step of one holds about 5 GB at scale small."""


@dataclass(frozen=True)
class FrameSize:
    """How much of the study is run at a scale.

    Attributes:
        steps: of the short stage.
        later_share: steps of the long stage and of its control, in those of the short one.
        later_rate: their peak learning rate, in the short stage's.
        batch_size, later_batch_size: videos of a step.
        videos: of a training set.
        short, long: fewest and most frames of the videos trained on.
        tested: frames that are tested.
        test_videos: of each number of frames; five needles, two counts and two orders are asked about each.
        probe_videos: of the validation split.
        captions, events, scenes: of the training library; others have a quarter.
        validation_seeds: seeds of the choice of a learning rate.
    """

    steps: int
    batch_size: int
    videos: int
    test_videos: int
    probe_videos: int
    captions: int
    events: int
    scenes: int
    long: tuple[int, int]
    tested: tuple[int, ...]
    short: tuple[int, int] = (16, 32)
    later_batch_size: int = 16
    validation_seeds: tuple[int, ...] = (100,)
    later_share: float = 0.25
    later_rate: float = 0.5


FRAME_SIZES = {
    "tiny": FrameSize(
        steps=60, batch_size=8, videos=512, test_videos=8, probe_videos=8, captions=8, events=32, scenes=16,
        long=(16, 64), tested=(32, 64, 128), later_batch_size=4,
    ),
    "small": FrameSize(
        steps=900, batch_size=48, videos=16384, test_videos=512, probe_videos=64, captions=64, events=512, scenes=256,
        long=(16, 256), tested=(32, 64, 128, 256, 512, 1024),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class FramePlan(Plan):
    """The study as it was registered; a test cell is one stage of one seed.

    Attributes:
        tested: frames that are tested; the scale's own if empty.
    """

    tested: tuple[int, ...] = field(default=())

    def validation_cells(self, scale: str, device: str, steps: int | None = None) -> list[RunSpec]:
        """The cells that choose every arm's learning rate, all of stage `short`."""
        return [
            _cell(base, arm, scale, "short", "validation", frames=())
            for arm in self.arms.values()
            for rate in self.rates(scale)
            for base in _bases(arm, rate, frame_size(scale).validation_seeds, scale, device, steps)
        ]

    def test_cells(
        self, scale: str, device: str, rates: Mapping[str, float], steps: int | None = None
    ) -> list[RunSpec]:
        """The cells of stage `short` that count; `later_cells` go on from them."""
        size, frames = get_size(scale), self.tested or frame_size(scale).tested
        return [
            _cell(base, arm, scale, "short", "test", frames)
            for name, arm in self.arms.items()
            for base in _bases(
                arm, rates[name], range(size.claim_seeds if arm.claim else size.other_seeds), scale, device, steps
            )
        ]

    def later_cells(self, short: Iterable[RunSpec]) -> list[RunSpec]:
        """The cells of the stages `long` and `control`, which go on from finished ones of stage `short`."""
        return [_later(cell, stage) for cell in short for stage in STAGES[1:]]

    def check_memory(self, cells: Iterable[RunSpec]) -> None:
        """Refuse a number of frames that memory does not hold, before anything is trained.

        Raises:
            UserError: with the estimate.
        """
        for cell in cells:
            free = free_bytes(cell.arguments["device"])
            for spec in cell.arguments["sets"].values():
                batch_that_fits(arm_config(cell).config, spec["frames"][1], free)


def frame_size(scale: str) -> FrameSize:
    """Look up how much of the study is run at a scale.

    Raises:
        UserError: for a scale at which it is not run.
    """
    if scale not in FRAME_SIZES:
        raise unknown_name("scale of frame_scaling", scale, FRAME_SIZES)
    return FRAME_SIZES[scale]


def library(scale: str, split: str) -> LibrarySpec:
    """The moments that videos of a split are made of."""
    size, part = frame_size(scale), 1 if split == "train" else 4
    return LibrarySpec(
        split=split, captions=size.captions // part, events=size.events // part, scenes=size.scenes // part
    )


def _bases(arm: Arm, rate: float, seeds: Iterable[int], scale: str, device: str, steps: int | None) -> list[RunSpec]:
    size = frame_size(scale)
    study = Study(
        baseline=arm.fields | {"recipe": "inherit"},
        changes={"seed": list(seeds)},
        scale=scale,
        overrides={
            "learning_rate": rate, "steps": steps or size.steps, "batch_size": size.batch_size, "length_groups": 1,
        },
        match="none",
        questions=size.test_videos,
    )  # fmt: skip
    return study.cells(device)


def _cell(base: RunSpec, arm: Arm, scale: str, stage: str, role: str, frames: Iterable[int]) -> RunSpec:
    size = frame_size(scale)
    probe = VideoSetSpec(
        library=library(scale, "validation"), videos=size.probe_videos, frames=(size.short[1], size.short[1])
    )
    sets = {"probe": probe} | {
        str(count): VideoSetSpec(
            library=library(scale, "test"), videos=size.test_videos, frames=(count, count), at_depths=True
        )
        for count in frames
    }
    steps = base.arguments["training"]["steps"]
    pages = VideoSetSpec(
        library=library(scale, "train"), videos=_needed(size, base.arguments["training"]), frames=size.short
    )
    added = {
        "scoring": FRAMES,
        "stage": stage,
        "role": role,
        "arm_mixer": arm.mixer,
        "arm_args": dict(arm.mixer_args),
        "benchmarks": list(BENCHMARKS.values()),
        "pages": pages.model_dump(mode="json"),
        "sets": {name: one.model_dump(mode="json") for name, one in sets.items()},
        "probe_every": max(1, steps // get_size(scale).probes),
    }
    return RunSpec(kind="ablate", arguments=base.arguments | added)


def _needed(size: FrameSize, training: Mapping[str, Any]) -> int:
    """Videos of a training set: no more than the steps ask for."""
    return int(min(size.videos, training["steps"] * training["batch_size"]))


def _later(short: RunSpec, stage: str) -> RunSpec:
    arguments = short.arguments
    size = frame_size(arguments["scale"])
    training = arguments["training"] | {
        "steps": max(1, round(size.later_share * arguments["training"]["steps"])),
        "learning_rate": size.later_rate * arguments["training"]["learning_rate"],
        "batch_size": size.later_batch_size,
    }
    # Other videos than those of the stage before.
    pages = arguments["pages"] | {
        "frames": list(size.long if stage == "long" else size.short),
        "seed": 1,
        "videos": _needed(size, training),
    }
    added = {
        "stage": stage,
        "short": short.id,
        "training": training,
        "pages": pages,
        "probe_every": max(1, training["steps"] // get_size(arguments["scale"]).probes),
    }
    return RunSpec(kind="ablate", arguments=arguments | added)


PLAN = FramePlan(
    name="frame_scaling",
    claims=("C7",),
    artifact="fig_frames",
    arms={
        "gated_deltanet": Arm("gated_deltanet", claim=True, smallest=True),
        "gated_deltanet_only": Arm("gated_deltanet", pattern="L", claim=True),
        "window_only": Arm("gated_deltanet", pattern="S"),
        "full_attention": Arm("gated_deltanet", pattern="F", smallest=True),
    },
    learning_rates=(5e-4, 1e-3, 2e-3),
)
