"""How large a study is run: the model, the training data, the steps and the evaluation of every cell.

All cells of a study share one scale, so that they differ in nothing but what the study changes.
"""

from dataclasses import dataclass

from ..errors import unknown_name
from ..training.features import PageSetSpec
from ..training.loop import TrainArguments

RECIPES = {
    "inherit": "all but the token mixers taken over from the shipped full-attention teacher, as the paper has it",
    "distill": "inherited, then distilled by layers and by logits and tuned, in the same number of steps in all",
    "scratch": "random weights under the shipped vision tower",
}
"""How the cells of a study begin."""


@dataclass(frozen=True)
class Scale:
    """One scale.

    Attributes:
        preset: the model's size.
        pages: the training set, the same for every seed; the order is the seed's.
        training: hyper-parameters; its seed is replaced by the cell's.
        recipe: how a cell begins, a name in `RECIPES`.
        benchmarks: what a cell is scored on, by the paper's names.
        questions: how many test questions of each benchmark.
        cost: what a cell takes, in words.
    """

    preset: str
    pages: PageSetSpec
    training: TrainArguments
    recipe: str
    benchmarks: tuple[str, ...]
    questions: int
    cost: str


SCALES: dict[str, Scale] = {
    "tiny": Scale(
        preset="tiny",
        # Chosen after trying: documents, and shapes with documents, stayed at their baselines in the same time.
        pages=PageSetSpec(weights={"charts": 3, "documents": 1}, pages=4096),
        training=TrainArguments(steps=600, batch_size=8, length_groups=2, learning_rate=2e-3),
        recipe="inherit",
        benchmarks=("ChartQA", "DocVQA"),
        questions=200,
        cost="about 6 minutes on one CPU core",
    ),
    "small": Scale(
        # The shipped teacher's size: its students inherit from it.
        preset="tiny",
        pages=PageSetSpec(
            weights={"documents": 4, "scene_text": 2, "transcription": 2, "charts": 2, "shapes": 1, "backgrounds": 1},
            pages=24576,
            # Most pages as they are; without it a third of every step would be padding to the longest charts.
            tokens=256,
        ),
        training=TrainArguments(steps=1000, batch_size=64, learning_rate=2e-3, precision="tf32"),
        recipe="inherit",
        benchmarks=("DocVQA", "TextVQA", "OCRBench", "ChartQA", "RealWorldQA", "SEEDBench_IMG"),
        questions=500,
        cost="60 cells took 7.9 minutes of two H200s, drawing their pages included",
    ),
}


def get_scale(name: str) -> Scale:
    """Look a scale up.

    Raises:
        UserError: for an unknown name.
    """
    if name not in SCALES:
        raise unknown_name("scale", name, SCALES)
    return SCALES[name]


def check_recipe(name: str) -> None:
    """Refuse an unknown recipe.

    Raises:
        UserError: with the nearest names.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
