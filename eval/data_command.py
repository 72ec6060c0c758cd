"""The `data` commands: which official files are here, and synthetic twins of all of them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress
from rich.table import Table

from ..files import check_folder
from ..printing import PlainConsole
from .benchmarks import ALL, Benchmark, find_benchmark
from .sources import check_questions, official_path


def print_status() -> None:
    """Print a line a benchmark: present or not, size, whether its checksum is VLMEvalKit's, where it belongs."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("benchmark", "file", "size", "checksum", "where it belongs"):
        table.add_column(heading, justify="right" if heading == "size" else "left", overflow="fold")
    present = 0
    for benchmark in ALL.values():
        path, state = official_path(benchmark), _state(benchmark)
        present += state[0] == "here"
        table.add_row(benchmark.name, *state, str(path))
    console = PlainConsole()
    console.print(table)
    console.print(
        f"{present} of {len(ALL)} official files are here; `eval` takes synthetic twins for the others, and says so. "
        "VLMEvalKit's own tools download them, nothing here does.",
        highlight=False,
        soft_wrap=True,
    )


def _state(benchmark: Benchmark) -> tuple[str, str, str]:
    path = official_path(benchmark)
    if not path.is_file():
        return "missing", "", f"expects {benchmark.md5[:8]}…"
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        size = f"{path.stat().st_size / 1e6:,.1f} MB"
    except OSError as error:
        return "unreadable", "", str(error.strerror)
    right = found == benchmark.md5
    return "here", size, "right" if right else f"WRONG: {found[:8]}…, expects {benchmark.md5[:8]}…"


def make_synthetic(names: Sequence[str], out: Path, *, questions: int, level: int, seed: int) -> list[Path]:
    """Write synthetic twins.

    Args:
        names: Benchmarks; all if empty.
        out: Folder of the files.
        questions: Questions of each.
        level: Difficulty, 1 to 4.
        seed: Of the pages.

    Returns:
        The tables.

    Raises:
        UserError: for an unknown benchmark, or a folder that cannot be written to.
    """
    from .synthetic import synthetic_tsv

    benchmarks = [find_benchmark(name) for name in names] or list(ALL.values())
    check_questions(questions)
    check_folder(out, "--out")
    console, written = PlainConsole(), []
    with Progress(console=PlainConsole(stderr=True), transient=True) as bar:
        for benchmark in bar.track(benchmarks):
            path, _ = synthetic_tsv(benchmark, out, questions=questions, seed=seed, level=level)
            written.append(path)
            console.print(f"{benchmark.name}: {path}", highlight=False, soft_wrap=True)
    console.print("synthetic: our own pages in the official columns, never to be reported as the benchmarks themselves")
    return written
