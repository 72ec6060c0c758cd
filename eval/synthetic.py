"""Synthetic twins: our own pages in the official format, for benchmarks whose official files are not at hand.

A twin is written once for a request and found again by the hash of the request and of the package's drawing code.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from ..data.families import generate_page
from ..data.pages import Page
from ..data.tsv import encode_image, write_tsv
from ..files import atomic_write, locked, package_path, remove_leftovers
from .benchmarks import Benchmark
from .sources import check_questions
from .twin_rows import pages_for, rows_of
from .twin_videos import FEWEST_FRAMES, SCENES, frames_a_scene, video_row, write_video

SPLIT = "test"
VIDEO_FOLDER = "video"
"""Where Video-MME's class looks for its videos, beside the table."""


def synthetic_tsv(
    benchmark: Benchmark, root: Path, *, questions: int, seed: int, level: int, frames: int = FEWEST_FRAMES
) -> tuple[Path, Path]:
    """Draw the synthetic twin of a benchmark, or find it where an earlier call left it.

    Args:
        benchmark: Any.
        root: Folder that holds all twins.
        questions: How many questions; each is about a page of its own, from the test split, but that MME asks two
            about each.
        seed: Of the pages.
        level: Difficulty, 1 to 4.
        frames: That a video has at least.

    Returns:
        The table, and the ``.pages.jsonl`` beside it: a line an index with the values that stand on the page.

    Raises:
        UserError: For too many questions, or if the files cannot be written. Damaged files are drawn again.
    """
    each = frames_a_scene(frames) if benchmark.video else 0
    key = _request_key(benchmark, check_questions(questions), seed, level, each)
    name = f"{benchmark.twin}-{key}"
    # Videos are files beside their table, so each such twin has a folder.
    folder = root / name if benchmark.video else root
    table, sidecar, digest = (folder / f"{name}.{kind}" for kind in ("tsv", "pages.jsonl", "sha256"))
    with locked(root / f".{name}.lock"):
        # The digest is written last: where it fits, both are whole and as they were drawn.
        if not digest.is_file() or digest.read_bytes() != _digest(table, sidecar):
            remove_leftovers(folder, name)
            rows, values = _draw(benchmark, questions, seed, level, each, folder)
            atomic_write(sidecar, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in values))
            write_tsv(table, rows)
            atomic_write(digest, _digest(table, sidecar))
    return table, sidecar


def _digest(*paths: Path) -> bytes:
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes() if path.is_file() else b"")
    return found.hexdigest().encode()


def page_values(sidecar: Path) -> dict[str, tuple[str, ...]]:
    """Values on the page of every index (as a string) of a twin."""
    lines = (json.loads(line) for line in sidecar.read_text(encoding="utf-8").splitlines())
    return {str(line["index"]): tuple(line["values"]) for line in lines}


def _draw(
    benchmark: Benchmark, questions: int, seed: int, level: int, frames: int, folder: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    values: list[dict[str, Any]] = []
    for number in range(pages_for(benchmark, questions)):
        if benchmark.video:
            pages = [_page(benchmark, SCENES * number + scene, seed, level) for scene in range(SCENES)]
            write_video(folder / VIDEO_FOLDER / f"{number:05d}.mp4", pages, frames)
            new = [video_row(benchmark, number, pages, frames, VIDEO_FOLDER)]
        else:
            pages = [_page(benchmark, number, seed, level)]
            new = rows_of(benchmark, number, pages[0], encode_image(pages[0].image))
        rows += new
        values += [{"index": row["index"], "values": [one for page in pages for one in page.values]} for row in new]
    return rows, values


def _page(benchmark: Benchmark, index: int, seed: int, level: int) -> Page:
    return generate_page(benchmark.family, seed=seed, index=index, split=SPLIT, level=level)


def _request_key(benchmark: Benchmark, questions: int, seed: int, level: int, frames: int) -> str:
    """Hash of what is asked for and of the code that draws it: a page drawn otherwise is another page."""
    digest = hashlib.sha256()
    here = [Path(__file__), *(Path(__file__).parent / f"twin_{name}.py" for name in ("rows", "videos"))]
    for path in [*sorted(package_path("data").glob("*.py")), *here]:
        digest.update(path.read_bytes())
    request = {"twin": benchmark.twin, "family": benchmark.family, "questions": questions, "seed": seed, "level": level}
    request |= {"frames_a_scene": frames} if benchmark.video else {}
    digest.update(json.dumps(request, sort_keys=True).encode())
    return digest.hexdigest()[:12]
