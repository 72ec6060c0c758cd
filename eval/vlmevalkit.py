"""The one door to VLMEvalKit: its dataset classes read and ask, its scorers score (`scoring`); its loop is not used.

`isolation` says what importing it would do to the process. A class is opened on one file, under a name of its own where
the file is not the official one: under an official name it would be replaced by a download.
"""

import hashlib
import importlib.util
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pandas as pd
from PIL import Image

from ..data.tsv import BadRow, bad_rows, read_tsv
from ..errors import FULL, UserError
from ..scratch import ScratchFolder
from .benchmarks import Benchmark
from .isolation import process_unchanged, quiet, variables

Row = dict[str, Any]
Message = list[dict[str, Any]]
"""Parts of one prompt in order: ``{"type": "image", "value": PIL image}``, ``{"type": "text", "value": str}`` or
``{"type": "video", "value": path}``."""

PromptStyle = Literal["dataset", "qwen"]
STYLES = ("dataset", "qwen")
"""Who words a prompt. VLMEvalKit has both: ``dataset``, the benchmark's class, is what its configuration of Qwen2.5-VL
asks for (``use_custom_prompt=False``); ``qwen`` is what the wrapper of Qwen2.5-VL puts in its place otherwise."""

OPTIONS = tuple("ABCDEFGH")


@dataclass
class OpenDataset:
    """A dataset of VLMEvalKit, opened on one file.

    Attributes:
        benchmark: Which benchmark it is.
        official: Whether the file is the official one; else it is our synthetic twin.
        path: The file.
        dataset: The instance of VLMEvalKit's class.
        scratch: Folder for the pictures that the class writes; gone with this object.
        bad: Rows that cannot be asked; they are left out.
    """

    benchmark: Benchmark
    official: bool
    path: Path
    dataset: Any
    scratch: ScratchFolder
    bad: list[BadRow] = field(default_factory=list)

    @property
    def name(self) -> str:
        """VLMEvalKit's name of the data, or the twin's."""
        return str(self.dataset.dataset_name)

    def rows(self, limit: int | None = None) -> list[Row]:
        """Rows that are scored, in the file's order.

        Args:
            limit: About how many questions; they are spread evenly over the file, because official files are sorted
                by subject. Rows that only count together (the rotations of MMBench, the pairs of MME) stay together.
        """
        frame = self.dataset.data
        if self.benchmark.split is not None:
            frame = frame[frame["split"] == self.benchmark.split]
        rows = [dict(row) for row in frame.to_dict("records")]
        if limit is None:
            return rows
        groups: dict[Any, list[Row]] = {}
        for row in rows:
            groups.setdefault(self._group(row), []).append(row)
        wanted = math.ceil(limit / 2) if self.benchmark.reading == "mme" else limit
        if wanted >= len(groups):
            return rows
        kept = list(groups)
        return [row for number in range(wanted) for row in groups[kept[number * len(groups) // wanted]]]

    def _group(self, row: Row) -> Any:
        if self.benchmark.reading == "mme":
            return row["category"], row.get("image_path", row["index"])
        if self.benchmark.circular:
            # VLMEvalKit numbers the rotations of question q as q + 1e6, q + 2e6, …
            return int(row.get("g_index", int(row["index"]) % 1_000_000))
        return row["index"]


def open_dataset(benchmark: Benchmark, tsv: Path, official: bool, *, max_bad: int = 0) -> OpenDataset:
    """Open a file with the benchmark's own class.

    Args:
        benchmark: Which benchmark.
        tsv: `sources.official_path` of it, or a file of `synthetic.synthetic_tsv`.
        official: Whether it is the official file; its checksum must then be VLMEvalKit's. Nothing is downloaded.
        max_bad: How many rows may be bad; they are left out and listed in the result.

    Raises:
        UserError: If the file is missing, not what VLMEvalKit expects, or has more bad rows than that.
    """
    if not tsv.is_file():
        if official:
            raise UserError(f"no official {benchmark.dataset} at {tsv}; put it there, or use --data synthetic")
        raise UserError(f"no data at {tsv}", 1)
    if official:
        _check_md5(tsv, benchmark.md5)
    scratch = ScratchFolder()
    bad: list[BadRow] = []
    frame = None if official else read_twin(benchmark, tsv, bad)
    official_class = dataset_class(benchmark)
    root = tsv.parent if official and not benchmark.video else scratch.path
    with quiet(), variables(LMUData=str(root)):
        if benchmark.video:
            dataset = video_class(official_class, tsv, frame)(dataset=official_name(benchmark, official))
        elif official:
            dataset = official_class(benchmark.dataset)
        else:
            dataset = twin_class(benchmark, official_class, frame)(benchmark.twin)
    # Pictures go to a folder of this object's own: another run's picture of the same number may be another picture.
    dataset.img_root = str(scratch.path / "images")
    if official:
        # Its checksum has been compared, so a cell that is empty was meant to be.
        bad = bad_rows(dataset.data, ["index", "question"], tsv.parent, answers=benchmark.answers)
        dataset.data = dataset.data.drop(index=[dataset.data.index[one.number - 1] for one in bad])
    _refuse(tsv, bad, max_bad, len(dataset.data))
    return OpenDataset(benchmark, official, tsv, dataset, scratch, bad)


def official_name(benchmark: Benchmark, official: bool) -> str:
    """VLMEvalKit's name of the data: the official one only for the official file."""
    return benchmark.dataset if official else benchmark.twin


def build_prompt(opened: OpenDataset, row: Mapping[str, Any], style: PromptStyle = "dataset") -> Message:
    """Build the prompt of one row as VLMEvalKit does, its pictures loaded.

    Args:
        opened: From `open_dataset`.
        row: A row of it.
        style: Whose words: see `STYLES`.

    Raises:
        UserError: If a picture cannot be read; the row is named.
        OSError: If there is no space for temporary files.
    """
    benchmark = opened.benchmark
    line = pd.Series(dict(row))
    with quiet():
        try:
            if benchmark.video:
                parts = opened.dataset.build_prompt(line, video_llm=True)
            elif style == "qwen" and (wrapper := _qwen_prompts(opened)).use_custom_prompt(benchmark.dataset):
                parts = wrapper.build_prompt(line, dataset=benchmark.dataset)
            else:
                parts = opened.dataset.build_prompt(line)
            return [
                {"type": "image", "value": load_picture(part["value"])} if part["type"] == "image" else dict(part)
                for part in parts
                if part["type"] != "text" or part["value"]
            ]
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) in FULL:
                # The picture is right: VLMEvalKit writes it into the folder for temporary files before it is read.
                raise
            raise UserError(f"{opened.path}, index {row['index']}: its picture cannot be read ({error})", 1) from error
        finally:
            shutil.rmtree(opened.dataset.img_root, ignore_errors=True)


def dataset_class(benchmark: Benchmark) -> Any:
    """VLMEvalKit's class of a benchmark.

    Raises:
        UserError: If VLMEvalKit cannot be imported.
    """
    module, name = benchmark.dataset_class.split(":")
    return getattr(kit(module), name)


def kit(module: str) -> ModuleType:
    """Import a module of VLMEvalKit and leave the process as it was.

    Raises:
        UserError: If it cannot be imported.
    """
    if module in sys.modules:
        return sys.modules[module]
    with process_unchanged(), quiet():
        try:
            return import_module(module)
        except ImportError as error:
            raise UserError(f"VLMEvalKit cannot be imported ({error}); see `infinitevl-bench doctor`", 1) from error


def twin_class(benchmark: Benchmark, official_class: Any, frame: pd.DataFrame | None) -> Any:
    """A subclass for pictures with a name and data of its own."""

    def load_data(self: Any, dataset: str) -> Any:
        # The class writes into what it gets.
        return None if frame is None else frame.copy()

    body = {"DATASET_URL": {benchmark.twin: ""}, "DATASET_MD5": {}, "load_data": load_data}
    return type(f"Synthetic{official_class.__name__}", (official_class,), body)


def video_class(official_class: Any, tsv: Path, frame: pd.DataFrame | None) -> Any:
    """A subclass for videos that are where ``tsv`` is; frames are not its business, and nothing is fetched."""

    def prepare_dataset(self: Any, *_: Any, **__: Any) -> dict[str, str]:
        return {"data_file": str(tsv), "root": str(tsv.parent)}

    def save_video_frames(self: Any, *_: Any, **__: Any) -> tuple[list[str], list[int], dict[str, float]]:
        return [], [], {"fps": 1.0, "n_frames": 1}

    def initialise(self: Any, dataset: str) -> None:
        official_class.__init__(self, dataset=dataset)
        if frame is not None:
            self.data = frame

    body = {"prepare_dataset": prepare_dataset, "save_video_frames": save_video_frames, "__init__": initialise}
    return type(f"Local{official_class.__name__}", (official_class,), body)


def needed_columns(benchmark: Benchmark, present: Any) -> list[str]:
    """Columns that a file of a benchmark must have.

    Args:
        benchmark: Which one.
        present: Columns of the file: pictures may be in it or beside it.
    """
    columns = {
        "mme": ["category"], "ocrbench": ["category"], "mathvista": ["question_type", "answer_type"],
        "mcq": ["A", "B"], "vqa": [], "video": ["video", "video_path", "candidates"],
    }[benchmark.reading]  # fmt: skip
    if not benchmark.video:
        columns = ["image" if "image" in present or "image_path" not in present else "image_path", *columns]
    answer = ["correct_choice" if benchmark.name == "LongVideoBench" else "answer"] if benchmark.answers else []
    return ["index", *columns, "question", *answer, *(["split"] if benchmark.split else [])]


def read_twin(benchmark: Benchmark, tsv: Path, bad: list[BadRow] | None = None) -> pd.DataFrame:
    """Read a synthetic twin as its class wants it; bad rows are errors, or listed in ``bad`` and left out."""
    frame = read_tsv(
        tsv, needed_columns(benchmark, ()), bad=bad, root=tsv.parent, answers=benchmark.answers
    ).reset_index(drop=True)
    for optional in (*OPTIONS, "hint"):
        if optional in frame:
            # Where a question has fewer options than another, the scorer wants the others missing, not empty.
            frame[optional] = frame[optional].where(frame[optional] != "")
    if benchmark.video:
        # These scorers read tables that pandas has read, with numbers in them.
        for name in ("index", "correct_choice", "duration_group"):
            if name in frame:
                frame[name] = frame[name].astype(int)
    return frame


def _refuse(tsv: Path, bad: Sequence[BadRow], max_bad: int, left: int) -> None:
    if len(bad) > max_bad:
        more = f" (and {len(bad) - 1} more bad rows)" if len(bad) > 1 else ""
        raise UserError(f"{tsv}, row {bad[0].number}: {bad[0].reason}{more}; mend it, or allow --max-bad {len(bad)}", 1)
    if not left:
        raise UserError(f"{tsv}: no row is left to ask; download it again", 1)


def _check_md5(path: Path, expected: str) -> None:
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != expected:
        raise UserError(
            f"{path} is not the official file: its MD5 is {found}, VLMEvalKit expects {expected}; "
            "replace it, or use --data synthetic",
            1,
        )


def _qwen_prompts(opened: OpenDataset) -> Any:
    """The part of VLMEvalKit's wrapper of Qwen2.5-VL that words prompts; the wrapper itself would load a model."""
    name = "infinitevl_bench_vlmeval_qwen_prompt"
    if name not in sys.modules:
        path = Path(str(kit("vlmeval.dataset").__file__)).parent.parent / "vlm" / "qwen2_vl" / "prompt.py"
        found = importlib.util.spec_from_file_location(name, path)
        if found is None or found.loader is None:
            raise UserError(f"VLMEvalKit has no {path}; see `infinitevl-bench doctor`", 1)
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        sys.modules[name] = module
    wrapper = sys.modules[name].Qwen2VLPromptMixin()
    wrapper.set_dump_image(opened.dataset.dump_image)
    return wrapper


def load_picture(path: str) -> Image.Image:
    """Read a picture as RGB."""
    with Image.open(path) as image:
        return image.convert("RGB")
