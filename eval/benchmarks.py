"""Registry of the paper's benchmarks: whose dataset class scores them, where the paper prints them, who draws the twin.

Where the paper scores on a split whose answers are not public (DocVQA and MMBench), ``dataset`` is the public split of
the same benchmark and ``column`` still names the paper's: the two numbers are then close, not the same quantity.
"""

from dataclasses import dataclass
from typing import Literal

from ..errors import unknown_name

VQA = "vlmeval.dataset.image_vqa:ImageVQADataset"
MCQ = "vlmeval.dataset.image_mcq:ImageMCQDataset"


@dataclass(frozen=True)
class Benchmark:
    """One benchmark of the paper.

    Attributes:
        name: The paper's short name, and the name in records.
        dataset: VLMEvalKit's name of the data that is scored.
        dataset_class: "module:class" of VLMEvalKit that reads and scores it.
        artifact: Where the paper prints it.
        column: Its column in ``reports/published``.
        reading: Where `vlmevalkit.score` finds the result: ``vqa`` (accuracies in %), ``mcq`` (accuracies as shares),
            ``mme`` (points out of 2800), ``ocrbench`` (a count of hits) or ``mathvista`` (accuracies in %).
        max_new_tokens: Longest answer to official questions, in tokens.
        family: Page family of the synthetic twin; None where there is only the official file.
        split: The split of the file that is scored; None for all of it.
        category: What the twin's rows say as ``category``, where the scorer looks at it.
    """

    name: str
    dataset: str
    dataset_class: str
    artifact: Literal["table1", "table2"]
    column: str
    reading: Literal["vqa", "mcq", "mme", "ocrbench", "mathvista"]
    max_new_tokens: int
    family: str | None = None
    split: str | None = None
    category: str | None = None

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


BENCHMARKS: dict[str, Benchmark] = {
    "MME": Benchmark("MME", "MME", "vlmeval.dataset.image_yorn:ImageYORNDataset", "table1", "MME", "mme", 16),
    "MMStar": Benchmark("MMStar", "MMStar", MCQ, "table1", "MMStar", "mcq", 32, family="shapes"),
    "MMBench": Benchmark("MMBench", "MMBench_DEV_EN", MCQ, "table1", "MMBench_TEST_EN", "mcq", 32),
    "SEEDBench_IMG": Benchmark("SEEDBench_IMG", "SEEDBench_IMG", MCQ, "table1", "SEEDBench_IMG", "mcq", 32),
    "ScienceQA_VAL": Benchmark("ScienceQA_VAL", "ScienceQA_VAL", MCQ, "table1", "ScienceQA_VAL", "mcq", 32),
    "RealWorldQA": Benchmark("RealWorldQA", "RealWorldQA", MCQ, "table1", "RealWorldQA", "mcq", 32, family="shapes"),
    "AI2D": Benchmark("AI2D", "AI2D_TEST_NO_MASK", MCQ, "table1", "AI2D_TEST_NO_MASK", "mcq", 32),
    "ChartQA": Benchmark("ChartQA", "ChartQA_TEST", VQA, "table2", "ChartQA_TEST", "vqa", 32, family="charts"),
    "TextVQA": Benchmark("TextVQA", "TextVQA_VAL", VQA, "table2", "TextVQA_VAL", "vqa", 32, family="scene_text"),
    "DocVQA": Benchmark("DocVQA", "DocVQA_VAL", VQA, "table2", "DocVQA_TEST", "vqa", 64, family="documents"),
    "OCRBench": Benchmark(
        "OCRBench",
        "OCRBench",
        "vlmeval.dataset.image_vqa:OCRBench",
        "table2",
        "OCRBench",
        "ocrbench",
        128,
        family="transcription",
        category="Non-Semantic Text Recognition",
    ),
    "MMMU": Benchmark(
        "MMMU",
        "MMMU_DEV_VAL",
        "vlmeval.dataset.image_mcq:MMMUDataset",
        "table2",
        "MMMU_DEV_VAL",
        "mcq",
        512,
        split="validation",
    ),
    "MathVista": Benchmark(
        "MathVista",
        "MathVista_MINI",
        "vlmeval.dataset.image_vqa:MathVista",
        "table2",
        "MathVista_MINI",
        "mathvista",
        512,
    ),
}
"""Name in the paper → benchmark, in the paper's order."""


def benchmark_names() -> tuple[str, ...]:
    """The paper's names of all benchmarks, in its order."""
    return tuple(BENCHMARKS)


def find_benchmark(name: str) -> Benchmark:
    """Look a benchmark up by the paper's name, VLMEvalKit's or its column's, whatever the case.

    Raises:
        UserError: naming the nearest known names.
    """
    for benchmark in BENCHMARKS.values():
        if name.lower() in (benchmark.name.lower(), benchmark.dataset.lower(), benchmark.column.lower()):
            return benchmark
    raise unknown_name("benchmark", name, BENCHMARKS)
