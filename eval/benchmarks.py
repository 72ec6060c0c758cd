"""Registry of the paper's benchmarks: whose dataset class scores them, where the paper prints them, who draws the twin.

Where the paper scores on a split whose answers are not public (DocVQA and MMBench), ``dataset`` is the public split of
the same benchmark and ``column`` still names the paper's: the two numbers are then close, not the same quantity. The
held-back split is an entry of its own in `HELD_BACK`, which writes a submission file and never a score.
"""

from dataclasses import dataclass
from typing import Literal

from ..errors import unknown_name

VQA = "vlmeval.dataset.image_vqa:ImageVQADataset"
MCQ = "vlmeval.dataset.image_mcq:ImageMCQDataset"

Reading = Literal["vqa", "mcq", "mme", "ocrbench", "mathvista", "video"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark of the paper.

    Attributes:
        name: The paper's short name, and the name in records.
        dataset: VLMEvalKit's name of the data that is asked.
        dataset_class: "module:class" of VLMEvalKit that reads and scores it.
        artifact: Where the paper prints it; for one that it does not print, the table it stands under.
        column: Its column in ``reports/published``; "" where the paper does not print it.
        reading: Where `scoring.score` finds the result: ``vqa`` (accuracies in %), ``mcq`` (accuracies as shares),
            ``mme`` (points out of 2800), ``ocrbench`` (a count of hits), ``mathvista`` (accuracies in %) or ``video``
            (a score a question).
        max_new_tokens: Longest answer to official questions, in tokens.
        family: Page family of the synthetic twin.
        md5: MD5 of the official file, as VLMEvalKit knows it.
        split: The split of the file that is scored; None for all of it.
        category: What the twin's rows say as ``category``, where the scorer looks at it.
        min_pixels: Smallest area of a picture, in pixels, where VLMEvalKit's Qwen2.5-VL wrapper has one of its own.
        repository: Where VLMEvalKit fetches videos from; None for benchmarks of pictures.
        answers: Whether its answers are public.
    """

    name: str
    dataset: str
    dataset_class: str
    artifact: Literal["table1", "table2", "fig_frames"]
    column: str
    reading: Reading
    max_new_tokens: int
    family: str
    md5: str
    split: str | None = None
    category: str | None = None
    min_pixels: int | None = None
    repository: str | None = None
    answers: bool = True

    @property
    def twin(self) -> str:
        """Name of the synthetic twin; VLMEvalKit picks its scorer by the official name within it."""
        return f"{self.dataset}_SYNTH"

    @property
    def full_marks(self) -> float:
        """The highest score in the unit that the paper prints: 2800 points of MME, else 100 %."""
        return 2800.0 if self.reading == "mme" else 100.0

    @property
    def unit(self) -> str:
        """The unit that the paper prints, and records hold."""
        return "points" if self.reading == "mme" else "%"

    @property
    def multiple_choice(self) -> bool:
        """Whether the scorer wants options and the letter of one."""
        return self.reading == "mcq"

    @property
    def circular(self) -> bool:
        """Whether a question is asked with its options in every rotation, and counts only if all are right."""
        return "MMBench" in self.dataset

    @property
    def video(self) -> bool:
        """Whether its questions are about videos."""
        return self.reading == "video"


_MMBENCH = Benchmark(
    name="MMBench", dataset="MMBench_DEV_EN", dataset_class=MCQ, artifact="table1", column="MMBench_TEST_EN",
    reading="mcq", max_new_tokens=32, family="shapes", md5="b6caf1133a01c6bb705cf753bb527ed8",
)  # fmt: skip
_DOCVQA = Benchmark(
    name="DocVQA", dataset="DocVQA_VAL", dataset_class=VQA, artifact="table2", column="DocVQA_TEST",
    reading="vqa", max_new_tokens=64, family="documents", md5="d5ee77e1926ff10690d469c56b73eabf",
)  # fmt: skip

_IMAGE = (
    Benchmark(
        name="MME", dataset="MME", dataset_class="vlmeval.dataset.image_yorn:ImageYORNDataset", artifact="table1",
        column="MME", reading="mme", max_new_tokens=16, family="shapes", md5="b36b43c3f09801f5d368627fb92187c3",
    ),
    Benchmark(
        name="MMStar", dataset="MMStar", dataset_class=MCQ, artifact="table1", column="MMStar", reading="mcq",
        max_new_tokens=32, family="shapes", md5="e1ecd2140806c1b1bbf54b43372efb9e",
    ),
    _MMBENCH,
    Benchmark(
        name="SEEDBench_IMG", dataset="SEEDBench_IMG", dataset_class=MCQ, artifact="table1", column="SEEDBench_IMG",
        reading="mcq", max_new_tokens=32, family="backgrounds", md5="68017231464752261a2526d6ca3a10c0",
    ),
    Benchmark(
        name="ScienceQA_VAL", dataset="ScienceQA_VAL", dataset_class=MCQ, artifact="table1", column="ScienceQA_VAL",
        reading="mcq", max_new_tokens=32, family="charts", md5="96320d05e142e585e7204e72affd29f3",
    ),
    Benchmark(
        name="RealWorldQA", dataset="RealWorldQA", dataset_class=MCQ, artifact="table1", column="RealWorldQA",
        reading="mcq", max_new_tokens=32, family="shapes", md5="4de008f55dc4fd008ca9e15321dc44b7",
    ),
    Benchmark(
        name="AI2D", dataset="AI2D_TEST_NO_MASK", dataset_class=MCQ, artifact="table1", column="AI2D_TEST_NO_MASK",
        reading="mcq", max_new_tokens=32, family="charts", md5="fd8f463634d4fe9fbd23b876e8eea5be",
    ),
    Benchmark(
        name="ChartQA", dataset="ChartQA_TEST", dataset_class=VQA, artifact="table2", column="ChartQA_TEST",
        reading="vqa", max_new_tokens=32, family="charts", md5="c902e0aa9be5582a7aad6dcf52734b42",
    ),
    Benchmark(
        name="TextVQA", dataset="TextVQA_VAL", dataset_class=VQA, artifact="table2", column="TextVQA_VAL",
        reading="vqa", max_new_tokens=32, family="scene_text", md5="b233b31f551bbf4056f2f955da3a92cd",
    ),
    _DOCVQA,
    Benchmark(
        name="OCRBench", dataset="OCRBench", dataset_class="vlmeval.dataset.image_vqa:OCRBench", artifact="table2",
        column="OCRBench", reading="ocrbench", max_new_tokens=128, family="transcription",
        md5="e953d98a987cc6e26ef717b61260b778", category="Non-Semantic Text Recognition", min_pixels=100 * 28 * 28,
    ),
    Benchmark(
        name="MMMU", dataset="MMMU_DEV_VAL", dataset_class="vlmeval.dataset.image_mcq:MMMUDataset", artifact="table2",
        column="MMMU_DEV_VAL", reading="mcq", max_new_tokens=512, family="charts",
        md5="585e8ad75e73f75dcad265dfd0417d64", split="validation",
    ),
    Benchmark(
        name="MathVista", dataset="MathVista_MINI", dataset_class="vlmeval.dataset.image_vqa:MathVista",
        artifact="table2", column="MathVista_MINI", reading="mathvista", max_new_tokens=512, family="charts",
        md5="f199b98e178e5a2a20e7048f5dcb0464",
    ),
)  # fmt: skip

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _IMAGE}
"""Name in the paper → benchmark of pictures, in the paper's order: tables 1 and 2."""

VIDEO: dict[str, Benchmark] = {
    "Video-MME": Benchmark(
        name="Video-MME", dataset="Video-MME", dataset_class="vlmeval.dataset.videomme:VideoMME",
        artifact="fig_frames", column="Video-MME", reading="video", max_new_tokens=16, family="shapes",
        md5="85bdd91f9b29a99354c23b97ab7c113c", repository="lmms-lab/Video-MME",
    ),
    "LongVideoBench": Benchmark(
        name="LongVideoBench", dataset="LongVideoBench",
        dataset_class="vlmeval.dataset.longvideobench:LongVideoBench", artifact="fig_frames", column="LongVideoBench",
        reading="video", max_new_tokens=16, family="shapes", md5="82905eae3a5ae7383c5a8ee9655e1ab9",
        repository="longvideobench/LongVideoBench",
    ),
}  # fmt: skip
"""Name in the paper → benchmark of videos."""

HELD_BACK: dict[str, Benchmark] = {
    "MMBench_TEST_EN": Benchmark(
        name="MMBench_TEST_EN", dataset="MMBench_TEST_EN", dataset_class=MCQ, artifact="table1",
        column="MMBench_TEST_EN", reading="mcq", max_new_tokens=32, family="shapes",
        md5="6939fadb0ce626fefc0bdc9c64efc528", answers=False,
    ),
    "DocVQA_TEST": Benchmark(
        name="DocVQA_TEST", dataset="DocVQA_TEST", dataset_class=VQA, artifact="table2", column="DocVQA_TEST",
        reading="vqa", max_new_tokens=64, family="documents", md5="6a2f28cac26ef2d3447374e8c6f6c8e9", answers=False,
    ),
}  # fmt: skip
"""Splits without public answers: a run writes what their servers take."""

OTHERS: dict[str, Benchmark] = {}
"""Name → benchmark that the paper does not print: in no suite, and in blocks of its own under a table of the report."""

ALL: dict[str, Benchmark] = BENCHMARKS | VIDEO | HELD_BACK | OTHERS

SUITES: dict[str, tuple[str, ...]] = {
    "general": tuple(name for name, one in BENCHMARKS.items() if one.artifact == "table1"),
    "text-rich": tuple(name for name, one in BENCHMARKS.items() if one.artifact == "table2"),
    "video": tuple(VIDEO),
    "paper": (*BENCHMARKS, *VIDEO),
}
"""Name of a suite → names of its benchmarks."""


def find_benchmark(name: str) -> Benchmark:
    """Look a benchmark up by the paper's name or VLMEvalKit's, whatever the case.

    A held-back split is found under its own name only, and never stands for the public one.

    Raises:
        UserError: naming the nearest known names.
    """
    for benchmark in ALL.values():
        if name.lower() in (benchmark.name.lower(), benchmark.dataset.lower()):
            return benchmark
    raise unknown_name("benchmark", name, ALL)


def find_suite(name: str) -> tuple[str, ...]:
    """The benchmarks of a suite.

    Raises:
        UserError: naming the nearest known suites.
    """
    if name not in SUITES:
        raise unknown_name("suite", name, SUITES)
    return SUITES[name]
