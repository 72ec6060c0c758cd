"""The one door to VLMEvalKit: its dataset classes read, ask and score; nothing else of it is used.

VLMEvalKit is written as a program: importing it turns certificate checks and gradients off, reseeds random generators,
configures logging and rewrites the environment. Everything of that is undone here, and its scorers run in this process
on scratch files that are gone afterwards.
"""

import contextlib
import hashlib
import io
import logging
import math
import multiprocessing
import os
import random
import shutil
import ssl
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ..data.tsv import read_tsv
from ..errors import UserError
from .benchmarks import Benchmark

Row = dict[str, Any]
Message = list[dict[str, Any]]
"""Parts of one prompt in order: ``{"type": "image", "value": PIL image}`` or ``{"type": "text", "value": str}``."""

EXACT = "exact_matching"
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
    """

    benchmark: Benchmark
    official: bool
    path: Path
    dataset: Any
    scratch: "tempfile.TemporaryDirectory[str]"

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
        if self.official and self.benchmark.split is not None:
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
        if "mmbench" in self.name.lower():
            # VLMEvalKit numbers the rotations of question q as q + 1e6, q + 2e6, …
            return int(row.get("g_index", int(row["index"]) % 1_000_000))
        return row["index"]


def open_dataset(benchmark: Benchmark, tsv: Path, official: bool) -> OpenDataset:
    """Open a file with the benchmark's own class.

    Args:
        benchmark: Which benchmark.
        tsv: `sources.official_path` of it, or a file of `synthetic.synthetic_tsv`.
        official: Whether it is the official file; its checksum must then be VLMEvalKit's. Nothing is downloaded.

    Raises:
        UserError: If the file is missing, damaged or not what VLMEvalKit expects.
    """
    if not tsv.is_file():
        if official:
            raise UserError(
                f"no official {benchmark.dataset} at {tsv}; put VLMEvalKit's {benchmark.dataset}.tsv there"
                + (", or use --data synthetic" if benchmark.family else "")
            )
        raise UserError(f"no data at {tsv}", 1)
    official_class = _dataset_class(benchmark)
    if official:
        _check_md5(tsv, official_class.DATASET_MD5.get(benchmark.dataset))
    scratch = tempfile.TemporaryDirectory(prefix="infinitevl-bench-")
    root = tsv.parent if official else Path(scratch.name)
    with _quiet(), _variables(LMUData=str(root)):
        if official:
            dataset = official_class(benchmark.dataset)
        else:
            dataset = _twin_class(benchmark, official_class, _read_twin(benchmark, tsv))(benchmark.twin)
    # Pictures go to a folder of this object's own: another run's picture of the same number may be another picture.
    dataset.img_root = str(Path(scratch.name) / "images")
    return OpenDataset(benchmark, official, tsv, dataset, scratch)


def build_prompt(opened: OpenDataset, row: Mapping[str, Any]) -> Message:
    """Build the prompt of one row as the dataset's own class does, its pictures loaded.

    Raises:
        UserError: If a picture cannot be read; the row is named.
    """
    with _quiet():
        try:
            parts = opened.dataset.build_prompt(pd.Series(dict(row)))
            message = [
                {"type": "image", "value": _load_image(part["value"])} if part["type"] == "image" else dict(part)
                for part in parts
            ]
        except (OSError, ValueError) as error:
            raise UserError(f"{opened.path}, index {row['index']}: its picture cannot be read ({error})", 1) from error
        finally:
            shutil.rmtree(opened.dataset.img_root, ignore_errors=True)
    return message


def score(opened: OpenDataset, rows: Sequence[Mapping[str, Any]]) -> tuple[float, list[float | None] | None]:
    """Score predictions with the dataset's own ``evaluate``, by exact matching, without a judge.

    Args:
        opened: From `open_dataset`.
        rows: Rows of it, each with ``prediction``; every row once.

    Returns:
        The score from 0 to 100, and the scores of the samples from 0 to 1 in the order of ``rows``, whose mean is the
        score. A sample that counts only through another (a rotation of MMBench) is None; MME has no such samples.
    """
    if not rows:
        raise ValueError("nothing to score")
    frame = pd.DataFrame([{key: value for key, value in row.items() if key != "image"} for row in rows])
    reading = opened.benchmark.reading
    if reading in ("ocrbench", "mathvista"):
        # These scorers count hits and name no sample, so each sample is scored by itself.
        hits = [_evaluate(opened, frame.iloc[[number]]) for number in range(len(frame))]
        singles = [_read_hit(reading, result) for result, _, _ in hits]
        return 100.0 * float(np.mean(singles)), list(singles)
    result, captured, table = _evaluate(opened, frame)
    if reading == "mme":
        points = float(result["perception"].iloc[0]) + float(result["reasoning"].iloc[0])
        return points / opened.benchmark.full_marks * 100.0, None
    if reading == "vqa":
        return float(result["Overall"].iloc[0]), list(captured)
    assert table is not None  # noqa: S101 - mcq always writes one
    found = dict(zip(table["index"], table["hit"].astype(float), strict=True))
    samples = [found.get(index) for index in frame["index"]]
    counted = [sample for sample in samples if sample is not None]
    return 100.0 * float(np.mean(counted)), samples


def _read_hit(reading: str, result: Any) -> float:
    if reading == "ocrbench":
        return float(result["Final Score"])
    overall = result[result["Task&Skill"] == "Overall"]
    return float(overall["acc"].iloc[0]) / 100.0


def _evaluate(opened: OpenDataset, frame: pd.DataFrame) -> tuple[Any, list[float], pd.DataFrame | None]:
    """Run ``evaluate``: its result, the hits by sample that it computed, the table of hits that it wrote."""
    captured: list[list[float]] = []
    with tempfile.TemporaryDirectory(prefix="infinitevl-bench-") as folder, _quiet(), _in_process(folder, captured):
        file = Path(folder) / "predictions.pkl"
        # A pickle of our own in a private folder: VLMEvalKit's spreadsheet would turn "=1" into a formula.
        frame.to_pickle(file)
        result = opened.dataset.evaluate(str(file), model=EXACT, nproc=1)
        written = Path(folder) / f"predictions_{EXACT}_result.tsv"
        table = pd.read_csv(written, sep="\t", usecols=["index", "hit"]) if written.exists() else None
    return result, [float(hit) for hit in captured[0]] if captured else [], table


class _MuteJudge:
    """A judge that never has an answer, for the scorer that insists on one after exact matching."""

    def working(self) -> bool:
        return True

    def generate(self, *_: Any, **__: Any) -> str:
        return "Failed to obtain answer via API."


class _SerialPool:
    """Stands in for the 16 processes that VLMEvalKit forks to compare a few strings."""

    def __init__(self, *_: Any) -> None:
        pass

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return [function(item) for item in items]


@contextlib.contextmanager
def _in_process(folder: str, captured: list[list[float]]) -> Iterator[None]:
    """Let the scorers work in this thread and leave nothing outside ``folder``."""
    from vlmeval.dataset import image_mcq, image_vqa, image_yorn
    from vlmeval.dataset.utils import multiple_choice, vqa_eval
    from vlmeval.smp import dump, load

    def serial(
        function: Callable[..., Any], tasks: Iterable[Any] = (), *, save: Any = None, keys: Any = None, **_: Any
    ) -> list[Any]:
        results = [function(**task) if isinstance(task, dict) else function(*task) for task in tasks]
        if save is not None:
            known = load(save) if os.path.exists(save) else {}
            dump(known | dict(zip(keys or (), results, strict=True)), save)
        return results

    def capture(results: Any, *arguments: Any, **options: Any) -> list[float]:
        hits: list[float] = hit_calculate(results, *arguments, **options)
        captured.append(hits)
        return hits

    hit_calculate = vqa_eval.hit_calculate
    with contextlib.ExitStack() as stack:
        for module in (image_mcq, image_vqa, image_yorn, multiple_choice):
            stack.enter_context(_replaced(module, track_progress_rich=serial))
        stack.enter_context(
            _replaced(image_vqa, mp=SimpleNamespace(Pool=_SerialPool), build_judge=lambda **_: _MuteJudge())
        )
        stack.enter_context(_replaced(vqa_eval, hit_calculate=capture))
        # The circular scorer writes /tmp/<time>.tsv, which two runs would share.
        private = os.path.relpath(Path(folder) / "circular", "/tmp")  # noqa: S108
        stack.enter_context(_replaced(multiple_choice, timestr=lambda *_: private))
        stack.enter_context(_variables(PRED_FORMAT="tsv", EVAL_FORMAT="csv"))
        yield


def _dataset_class(benchmark: Benchmark) -> Any:
    module, name = benchmark.dataset_class.split(":")
    return getattr(_import(module), name)


def _import(module: str) -> ModuleType:
    if module in sys.modules:
        return sys.modules[module]
    with process_unchanged(), _quiet():
        try:
            return import_module(module)
        except ImportError as error:
            raise UserError(f"VLMEvalKit cannot be imported ({error}); see `infinitevl-bench doctor`", 1) from error


@contextlib.contextmanager
def process_unchanged() -> Iterator[None]:
    """Put back whatever the block changes in the state that a whole process shares."""
    root, environment, folder = logging.getLogger(), dict(os.environ), os.getcwd()
    handlers, level, disabled = list(root.handlers), root.level, logging.root.manager.disable
    filters: list[Any] = warnings.filters  # type: ignore[assignment]
    filters_before, search_path = list(filters), list(sys.path)
    contexts, pixels = ssl._create_default_https_context, Image.MAX_IMAGE_PIXELS
    gradients, threads, generator = torch.is_grad_enabled(), torch.get_num_threads(), torch.get_rng_state()
    python_generator, numpy_generator = random.getstate(), np.random.get_state()
    start_method = multiprocessing.get_start_method(allow_none=True)
    backend = _matplotlib_backend()
    try:
        yield
    finally:
        ssl._create_default_https_context = contexts
        Image.MAX_IMAGE_PIXELS = pixels
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        root.handlers[:], root.level, logging.root.manager.disable = handlers, level, disabled
        filters[:], sys.path[:] = filters_before, search_path
        torch.set_grad_enabled(gradients)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_rng_state(generator)
        random.setstate(python_generator)
        np.random.set_state(numpy_generator)
        if multiprocessing.get_start_method(allow_none=True) != start_method:
            multiprocessing.set_start_method(start_method, force=True)
        if backend is not None and _matplotlib_backend() != backend:
            sys.modules["matplotlib"].rcParams["backend"] = backend


def _matplotlib_backend() -> Any:
    """The backend chosen so far, without letting matplotlib choose one; None where matplotlib is not loaded."""
    module = sys.modules.get("matplotlib")
    return dict.__getitem__(module.rcParams, "backend") if module is not None else None


def _twin_class(benchmark: Benchmark, official_class: Any, frame: pd.DataFrame) -> Any:
    """A subclass with a name and data of its own: under an official name, they would be replaced by a download."""

    def load_data(self: Any, dataset: str) -> pd.DataFrame:
        return frame

    body = {"DATASET_URL": {benchmark.twin: ""}, "DATASET_MD5": {}, "load_data": load_data}
    return type(f"Synthetic{official_class.__name__}", (official_class,), body)


def _read_twin(benchmark: Benchmark, tsv: Path) -> pd.DataFrame:
    columns = ["index", "image", "question", "answer"]
    columns += ["A", "B"] if benchmark.multiple_choice else []
    columns += ["category"] if benchmark.category else []
    frame = read_tsv(tsv, columns)
    for option in OPTIONS:
        if option in frame:
            # Where a question has fewer options than another, the scorer wants the others missing, not empty.
            frame[option] = frame[option].where(frame[option] != "")
    return frame


def _check_md5(path: Path, expected: str | None) -> None:
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if expected is not None and found != expected:
        raise UserError(
            f"{path} is not the official file: its MD5 is {found}, VLMEvalKit expects {expected}; "
            "replace it, or use --data synthetic",
            1,
        )


def _load_image(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


@contextlib.contextmanager
def _replaced(module: ModuleType, **names: Any) -> Iterator[None]:
    before = {name: getattr(module, name) for name in names if hasattr(module, name)}
    for name in before:
        setattr(module, name, names[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


@contextlib.contextmanager
def _variables(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow progress bars, prints and log lines; errors still come as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)
