"""The paper's claims as hypotheses, each with a rule written down before the runs, and the verdict that records give.

A rule names the effect, its interval and its threshold. The verdicts are conservative: cells of scale ``tiny`` show
that the machine works and decide nothing; fewer than five seeds decide nothing; an interval that reaches over the
threshold decides nothing. What was trained on synthetic data or below the published size is at best "reproduced at
small scale".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, cast

from ..errors import unknown_name
from ..records import Record
from .estimates import interval_of_mean

Status = Literal["reproduced", "reproduced at small scale", "not reproduced", "inconclusive", "no data"]
STATUSES: tuple[Status, ...] = ("reproduced", "reproduced at small scale", "not reproduced", "inconclusive", "no data")
MINIMUM_SEEDS = 5

COUNTS = (
    "A benchmark counts only if at least one compared arm learnt it in at least half of its seeds, since otherwise it "
    "holds all of them at the floor; where learning was not recorded, a score above the baselines stands for it. "
)
"""Which benchmarks a comparison of arms rests on, whichever way it then turns out."""


@dataclass(frozen=True)
class Claim:
    """A claim, its pre-registered rule, the artifact that shows it, and ``"module:function"`` of its judge."""

    text: str
    artifact: str
    rule: str
    judge: str
    command: str | None


@dataclass(frozen=True)
class Finding:
    """What a judge found: the status, the effect in words, its interval in ``unit``, what is missing, the runs used."""

    status: Status
    effect: str = ""
    interval: tuple[float, float] | None = None
    unit: str = ""
    missing: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A claim with what was found for it, and the command that would make what is missing."""

    claim: str
    text: str
    artifact: str
    rule: str
    status: Status
    effect: str
    interval: tuple[float, float] | None
    unit: str
    runs: tuple[str, ...]
    missing: tuple[str, ...]
    command: str | None

    @property
    def decided(self) -> bool:
        """Whether the records decide the claim, either way."""
        return self.status in ("reproduced", "reproduced at small scale", "not reproduced")


@dataclass(frozen=True)
class Contrast:
    """A difference of means paired over seeds, with its 95 % t interval, in points."""

    label: str
    mean: float
    low: float
    high: float
    seeds: int

    @property
    def text(self) -> str:
        """In words and numbers."""
        return f"{self.label}: {self.mean:+.1f} points [{self.low:+.1f}, {self.high:+.1f}] over {self.seeds} seeds"


CLAIMS: dict[str, Claim] = {
    "C1": Claim(
        "Gated DeltaNet beats Mamba and GLA on DocVQA, TextVQA and OCRBench.",
        "table3",
        "Pattern SLLL, scale small or larger, equal steps, at least 5 seeds that all compared arms share. Rivals: "
        "Mamba-2, and GLA as published, which has no short convolution (records with variant = conv_size=0); where "
        "GLA with short convolution is there too, the one of the two with the higher mean is the rival. "
        + COUNTS
        + "At "
        "least two of the three must count. Effect: the mean over them, Gated DeltaNet minus each rival, paired over "
        "seeds. Reproduced if both 95 % intervals lie above 0 and on no single benchmark an interval lies below 0. Not "
        "reproduced if an interval of the mean lies below 0. Otherwise inconclusive.",
        "claims_mixers:mixers_ranked",
        "infinitevl-bench ablate --study mixer_choice --scale small --arm gated_deltanet --arm mamba2 --arm gla --arm "
        "gla_without_convolution",
    ),
    "C2": Claim(
        "Plain linear attention does not converge.",
        "table3",
        "Pattern SLLL, scale small or larger, at least 5 seeds of linear attention without convolution, norm and "
        "gate (records with variant = bare). A seed does not converge if it diverged or learnt no text-rich benchmark "
        "(records learnt: half way from naming any value of the page to always right, at any time of the training); "
        "where learning was not recorded for all seeds of both arms, if its mean text-rich score is at or below that "
        "of a model that never sees the picture. Reproduced if the 95 % Wilson interval of the share of such seeds "
        "lies above one half and Gated DeltaNet under the same recipe converges in most seeds. Not reproduced if the "
        "interval lies below one half. Otherwise inconclusive.",
        "claims_mixers:linear_attention_converges",
        "infinitevl-bench ablate --study mixer_choice --scale small --arm gated_deltanet --arm linear_attention",
    ),
    "C3": Claim(
        "The text-rich score rises with the SWA ratio, steeply to 1/8 and less after, and more than the general "
        "score does.",
        "table4",
        "Gated DeltaNet at ratios 0, 1/8, 1/4 and 1/2, scale small or larger, at least 5 seeds that all ratios "
        "share. "
        + COUNTS
        + "Three effects, paired over seeds: (a) text-rich 1/8 − 0; (b) that gain minus the gain from 1/8 to "
        "1/2; (c) the text-rich gain from 0 to 1/2 minus the general one. Reproduced if all three 95 % intervals lie "
        "above 0 and no step up in ratio lowers the text-rich score with an interval below 0. Not reproduced if one "
        "of the three lies below 0 or such a step exists. Otherwise inconclusive.",
        "claims_accuracy:ratio_rises",
        "infinitevl-bench ablate --study swa_ratio --scale small --arm gated_deltanet_0 --arm gated_deltanet_1_8 --arm "
        "gated_deltanet_1_4 --arm gated_deltanet_1_2",
    ),
    "C4": Claim(
        "Latency per token does not grow with context; at least 3.6 times faster than a FlashAttention-2 Transformer "
        "at about 62K tokens, 8 times at about 360K.",
        "fig4_latency",
        "Full published size, both models on one device. Latency of the hybrid at the longest context (at least "
        "256K) over that at the shortest (at most 8K) ≤ 1.05; Transformer over hybrid ≥ 3.6 at 62K and ≥ 8 at 360K "
        "(each within 10 % of that context). The matched protocol (both replayed from CUDA graphs) decides, because "
        "the claim is about the architecture; the protocol as published (hybrid captured, Transformer eager) is told "
        "beside it.",
        "claims_efficiency:latency_constant",
        "infinitevl-bench profile decode",
    ),
    "C5": Claim(
        "Streaming holds 24 frames/s from the first to the 800th frame; the Transformer falls below 1.2 by frame 290.",
        "fig4_streaming",
        "Full published size, both models on one device, matched protocol. Hybrid: at least 24 frames/s at every "
        "recorded point from frame 10 at the latest to frame 790 at the earliest, the last at least 0.95 of the "
        "first. Transformer: by frame 290 (within 10 %) below 1.2 frames/s, or below 13 % of its first speed (the "
        "published fall) on a device other than the RTX 4090, or out of memory.",
        "claims_efficiency:streaming_holds",
        "infinitevl-bench profile stream",
    ),
    "C6": Claim(
        "Memory does not grow with context (about 9 GB in all); the cache at 32K tokens holds 52 M elements against "
        "604 M.",
        "fig1",
        "Full published size. Cache elements at 32,768 tokens equal 51,904,512 and 603,979,776. Peak memory of the "
        "hybrid at contexts from at most 8K (its window) to at least 256K grows by at most 1 % and stays between 8 "
        "and 10 GB.",
        "claims_efficiency:memory_constant",
        "infinitevl-bench profile memory",
    ),
    "C7": Claim(
        "Long-sequence training keeps accuracy from 32 to 1024 frames; without it accuracy falls.",
        "fig_frames",
        "Score at 1024 minus score at 32 frames of Gated DeltaNet with pattern SLLL, paired over at least 5 seeds (one "
        "seed with intervals over samples suffices on official data), over the tasks that the short stage has learnt: "
        "its interval at 32 frames lies above seeing nothing and above naming any value at hand. Reproduced if with "
        "the long stage the 95 % interval lies above −2 points, without it below 0, and the long stage is above its "
        "control (equally many extra steps at the short length) at 1024 frames. Not reproduced if the long stage's "
        "interval lies below −2 or that without it above 0. Otherwise inconclusive.",
        "claims_accuracy:frames_kept",
        "infinitevl-bench ablate --study frame_scaling --scale small",
    ),
    "C8": Claim(
        "About 4.1 times the training throughput of Qwen2.5-VL-3B per GPU-day.",
        "fig1",
        "Full published size, both models on one device under the matched protocol, at stage 2's context of 8,192 "
        "tokens. Effect: ratio of tokens per day, its interval from the ends of both. Reproduced if the interval lies "
        "at or above 3.7 (4.1 less 10 %), not reproduced if below, otherwise inconclusive.",
        "claims_efficiency:training_faster",
        "infinitevl-bench profile training",
    ),
    "C9": Claim(
        "Within 1.3 points of Qwen2.5-VL-3B on the text-rich average, above it on the general one, far above Cobra "
        "and MaTVLM.",
        "table1, table2",
        "Official data only, both models measured on every benchmark of both tables, on the splits whose answers are "
        "public: DocVQA_VAL and MMBench_DEV_EN for both models in the place of DocVQA_TEST and MMBench_TEST_EN, all "
        "others as published. Reproduced if the text-rich average is at most 1.8 points below (1.3, and 0.5 for "
        "sampling), the general one above, and the text-rich average at least 10 points above the published Cobra and "
        "MaTVLM. Otherwise not reproduced; inconclusive if a threshold lies inside the 95 % interval of its "
        "difference.",
        "claims_official:official_averages",
        "infinitevl-bench eval --suite paper --data official --model hustvl/InfiniteVL && infinitevl-bench eval "
        "--suite paper --data official --model Qwen/Qwen2.5-VL-3B-Instruct",
    ),
}


def judge(name: str, records: Sequence[Record]) -> Verdict:
    """Judge one claim from all records.

    Raises:
        UserError: for an unknown claim, with the nearest names.
    """
    if name not in CLAIMS:
        raise unknown_name("claim", name, CLAIMS)
    claim = CLAIMS[name]
    module, function = claim.judge.split(":")
    find = cast("Callable[[Sequence[Record]], Finding]", getattr(import_module(f".{module}", __package__), function))
    found = find(records)
    return Verdict(
        claim=name,
        text=claim.text,
        artifact=claim.artifact,
        rule=claim.rule,
        status=found.status,
        effect=found.effect,
        interval=found.interval,
        unit=found.unit,
        runs=found.runs,
        missing=found.missing,
        command=claim.command,
    )


def judge_all(records: Sequence[Record]) -> list[Verdict]:
    """Judge every claim."""
    return [judge(name, records) for name in CLAIMS]


def contrast(label: str, first: dict[int, float], second: dict[int, float]) -> Contrast:
    """First minus second, paired over the seeds that both have (at least two)."""
    seeds = sorted(set(first) & set(second))
    differences = [first[seed] - second[seed] for seed in seeds]
    low, high = interval_of_mean(differences)
    return Contrast(label, sum(differences) / len(differences), low, high, len(seeds))
