"""Runs VLMEvalKit's own ``run.py`` on a model of ours, without editing its source.

    python -m infinitevl_bench.eval.launcher --model PATH --data DocVQA_VAL ChartQA_TEST --work-dir outputs

Every option is ``run.py``'s. A ``--model`` is anything that `models.checkpoints.load_model` takes, and appears under
its last name; a ``--data`` may be the path of a synthetic twin (``infinitevl-bench data make-synthetic``). Answers are
greedy and of the lengths that `eval` allows, prompts are the datasets' own, and matching is exact unless ``--judge``
names a judge.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UserError
from .benchmarks import ALL, Benchmark
from .isolation import replaced, variables
from .scoring import EXACT, MuteJudge
from .videos import FRAMES, with_frames
from .vlmevalkit import dataset_class, kit, load_picture, read_twin, twin_class

LONGEST = 512
"""Longest answer, in tokens, to a benchmark that is not the paper's."""


def run(arguments: Sequence[str], device: str = "auto") -> None:
    """Call ``run.py`` with these arguments in this process.

    Args:
        arguments: Its command line, without the program's name.
        device: auto, cpu or cuda.

    Raises:
        UserError: For a twin that is not a benchmark's, or a model that cannot be loaded.
    """
    arguments = list(arguments)
    judged = "--judge" in arguments
    if not judged:
        arguments += ["--judge", EXACT]
    program, config = kit("vlmeval.run"), kit("vlmeval.config")
    for position in _values_of(arguments, "--model"):
        reference = arguments[position]
        arguments[position] = Path(reference).name
        config.supported_VLM[arguments[position]] = partial(wrapper_class(), reference, device)
    for position in _values_of(arguments, "--data"):
        if arguments[position].endswith(".tsv"):
            arguments[position] = _register_twin(Path(arguments[position]))
    with contextlib.ExitStack() as stack:
        # Its spreadsheets refuse some characters and turn "=1" into a formula.
        stack.enter_context(variables(PRED_FORMAT=os.environ.get("PRED_FORMAT", "tsv")))
        if not judged:
            # MathVista's scorer asks for a judge even where exact matching has found all that it can.
            scorers = kit("vlmeval.dataset.image_vqa")
            stack.enter_context(replaced(scorers, build_judge=lambda **_: MuteJudge()))
        stack.enter_context(replaced(sys, argv=["run.py", *arguments]))
        program.main()


def wrapper_class() -> Any:
    """VLMEvalKit's interface of a model around one of ours."""
    base = kit("vlmeval.vlm.base").BaseModel

    class InfiniteVLBench(base):  # type: ignore[misc, valid-type]
        """A model of ours as VLMEvalKit calls it: one prompt at a time."""

        INSTALL_REQ = False
        INTERLEAVE = True
        VIDEO_LLM = True

        def __init__(self, reference: str, device: str, **_: Any) -> None:
            from ..models.checkpoints import load_model
            from ..models.device import resolve_device

            super().__init__()
            self.loaded = load_model(reference, device=resolve_device(device))
            self.nframe = FRAMES

        def use_custom_prompt(self, dataset: str) -> bool:
            """Never: the datasets' own prompts are those of VLMEvalKit's configuration of Qwen2.5-VL."""
            return False

        def generate_inner(self, message: list[dict[str, Any]], dataset: str | None = None) -> str:
            """Answer one prompt."""
            from .generation import answer

            parts = [
                {"type": "image", "value": load_picture(part["value"])} if part["type"] == "image" else dict(part)
                for part in message
                if part["type"] != "text" or part["value"]
            ]
            prompt = with_frames(parts, self.loaded.processor, self.nframe or FRAMES)
            benchmark = _benchmark_of(dataset or "")
            longest = benchmark.max_new_tokens if benchmark else LONGEST
            smallest = benchmark.min_pixels if benchmark else None
            return answer(self.loaded.model, self.loaded.processor, [prompt], longest, smallest)[0].text

    return InfiniteVLBench


def _benchmark_of(dataset: str) -> Benchmark | None:
    return next((one for one in ALL.values() if dataset in (one.dataset, one.twin)), None)


def _register_twin(tsv: Path) -> str:
    """Make VLMEvalKit know the twin at a path; its name."""
    name = tsv.name.partition("-")[0] if "_SYNTH" in tsv.name.partition("-")[0] else tsv.stem
    benchmark = next((one for one in ALL.values() if one.twin == name and not one.video), None)
    if benchmark is None:
        raise UserError(f"{tsv} is not the synthetic twin of a benchmark of pictures; give VLMEvalKit's name instead")
    official = dataset_class(benchmark)
    kit("vlmeval.dataset").DATASET_CLASSES.append(twin_class(benchmark, official, read_twin(benchmark, tsv)))
    return benchmark.twin


def _values_of(arguments: Sequence[str], option: str) -> list[int]:
    """Positions of the values that follow an option."""
    if option not in arguments:
        return []
    start = arguments.index(option) + 1
    end = next((place for place in range(start, len(arguments)) if arguments[place].startswith("--")), len(arguments))
    return list(range(start, end))


def main() -> None:
    """Run from the command line; a mistake is one line."""
    try:
        run(sys.argv[1:])
    except UserError as error:
        sys.exit(f"infinitevl-bench: {error}")


if __name__ == "__main__":
    main()
