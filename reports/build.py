"""Builds the report: every artifact as Markdown, LaTeX, CSV and figures, the verdicts, and one page of it all.

The files are a pure function of the records: the same records give the same bytes, so that `--check` can tell whether
what stands in a folder is what the records say.
"""

import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import UserError, unknown_name
from ..files import check_folder
from ..records import Record, atomic_write, measured_records
from .artifacts import ARTIFACTS, Artifact, artifact_names, make_artifact
from .claims import Verdict, judge_all
from .estimates import run_ids
from .figures import LIGHT, THEMES, drawn_from, render_all
from .provenance import provenance_of
from .published import published_records
from .tables import to_csv, to_latex, to_markdown
from .verdicts import counted, verdicts_markdown

# Format → suffix of its files.
FORMATS = {"md": ".md", "latex": ".tex", "csv": ".csv", "html": ".html", "png": ".png", "svg": ".svg", "pdf": ".pdf"}
FIGURES = ("png", "svg", "pdf")
PAGE = "index.html"
CLAIMS = "claims.md"


def report_command(
    runs: Path, out: Path, artifacts: list[str] | None, formats: list[str] | None, check: bool = False
) -> str:
    """Write the report, or check that it stands as the records say.

    The page always shows the whole report; ``artifacts`` limits the other files.

    Args:
        runs: folder of all runs; need not be there.
        out: folder of the report; made if needed.
        artifacts: names of `ARTIFACTS`; all without them.
        formats: names of `FORMATS`; all without them.
        check: write nothing, compare.

    Returns:
        A summary to print; its last line is the absolute path of the page (of the folder, without the page).

    Raises:
        UserError: exit code 2 for an unknown artifact or format; 1 for records that cannot be read, for a folder that
            cannot be written to, and for a check that finds differences, naming the files.
    """
    names = _chosen("artifact", artifacts, ARTIFACTS)
    kinds = _chosen("format", formats, FORMATS)
    if check:
        if not out.exists():
            raise UserError(f"there is no report in {out} to check; {_way_out(out)}", 1)
        if not out.is_dir():
            raise UserError(f"{out} is a file, not a folder; name another with --out")
    else:
        check_folder(out, "--out")
    measured = measured_records(runs)
    records = [*published_records(), *measured]
    verdicts = judge_all(records)
    content = report_files(records, verdicts, runs, names, kinds)
    stale = [file for file in _possible_files(names, kinds) if file not in content and (out / file).exists()]
    place = (out / (PAGE if "html" in kinds else "")).resolve()
    if check:
        different = stale + [
            name for name, data in content.items() if not shows_the_same(name, _read(out / name), data)
        ]
        if different:
            raise UserError(
                f"{len(different)} of the report's files in {out} differ from the records: "
                f"{', '.join(sorted(different))}; {_way_out(out)}",
                1,
            )
        return f"{len(content)} files agree with the records\n{place}"
    for file, data in content.items():
        atomic_write(out / file, data)
    for file in stale:
        (out / file).unlink(missing_ok=True)
    return "\n".join(
        [
            f"{_number(len(measured), 'measured record')} of {_number(len(run_ids(measured)), 'run')}, beside "
            f"{len(published_records())} published",
            f"claims: {counted(verdicts)}",
            f"{_number(len(content), 'file')} in {out}",
            str(place),
        ]
    )


def report_files(
    records: Sequence[Record],
    verdicts: Sequence[Verdict],
    runs: Path | None,
    names: Collection[str],
    kinds: Collection[str],
) -> dict[str, bytes]:
    """The report's files by name.

    Args:
        records: published and measured.
        verdicts: of all claims.
        runs: folder of runs, for their provenance only.
        names: artifacts that get files of their own.
        kinds: formats, of `FORMATS`.

    Raises:
        UserError: for records that contradict each other, or provenance that cannot be read.
    """
    wanted = artifact_names() if "html" in kinds else [name for name in artifact_names() if name in names]
    made = {name: make_artifact(name, records) for name in wanted}
    content: dict[str, bytes] = {}
    pictures: dict[str, dict[str, bytes]] = {}
    for name, artifact in made.items():
        if name in names:
            content.update(_texts(artifact, kinds))
        files = [(kind, LIGHT) for kind in FIGURES if kind in kinds and name in names]
        on_page = [("svg", theme) for theme in THEMES if "html" in kinds]
        if artifact.figure is not None and files + on_page:
            drawn = render_all(artifact.figure, files + on_page, artifact.digest)
            content.update({name + FORMATS[kind]: drawn[kind, theme] for kind, theme in files})
            pictures[name] = {theme.name: drawn[kind, theme] for kind, theme in on_page}
    if "md" in kinds:
        content[CLAIMS] = verdicts_markdown(verdicts).encode()
    if "html" in kinds:
        from .page import page

        measured = [record for record in records if record.source == "measured"]
        provenance = provenance_of(runs, measured)
        content[PAGE] = page(list(made.values()), pictures, verdicts, records, provenance).encode()
    return content


def _way_out(out: Path) -> str:
    """What to do about a report that does not stand as the records say."""
    try:
        check_folder(out, "--out")
    except UserError:
        return "no report can be written there either, so name the folder of one with --out"
    return f"write it with `infinitevl-bench report --out {shlex.quote(str(out))}`"


def _texts(artifact: Artifact, kinds: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """The artifact's tables in each format of text."""
    missing = [(one.what, one.command) for one in artifact.missing]
    texts: dict[str, Callable[[], str]] = {
        "md": lambda: to_markdown(artifact.title, artifact.caption, artifact.tables, missing),
        "latex": lambda: to_latex(artifact.name, artifact.title, artifact.caption, artifact.tables),
        "csv": lambda: to_csv(artifact.tables),
    }
    for kind, text in texts.items():
        if kind in kinds:
            yield artifact.name + FORMATS[kind], text().encode()


def _possible_files(names: Iterable[str], kinds: Collection[str]) -> list[str]:
    """The files that such a report may hold; a figure is there only where there is something to draw."""
    return [name + suffix for name in names for kind, suffix in FORMATS.items() if kind in kinds and kind != "html"]


def _chosen(kind: str, names: Sequence[str] | None, known: Collection[str]) -> list[str]:
    for name in names or ():
        if name not in known:
            raise unknown_name(kind, name, known)
    return [name for name in known if not names or name in names]


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", 1) from error


def shows_the_same(name: str, there: bytes | None, data: bytes) -> bool:
    """Whether a file shows what the records say: the same bytes, or a figure of the same numbers.

    Another release of matplotlib draws other bytes, and does not make a report out of date.
    """
    if there is None or there == data:
        return there is not None
    if name == PAGE:
        from .page import without_drawings

        return without_drawings(there) == without_drawings(data)
    suffixes = tuple(FORMATS[kind] for kind in FIGURES)
    return name.endswith(suffixes) and drawn_from(there) is not None and drawn_from(there) == drawn_from(data)


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
