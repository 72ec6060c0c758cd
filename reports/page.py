"""The report as one HTML page that needs nothing else: no network, no other file.

The template `page.html` escapes whatever it is given; style, script and figures are put inside the page. A figure is
an image with a data address, in both themes, so that its insides cannot reach the page.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..records import Record, package_path
from .artifacts import Artifact
from .claims import STATUSES, Verdict
from .estimates import extra_text, group, run_ids
from .figures import DARK, LIGHT, drawn_from
from .provenance import Provenance
from .published import PAPER
from .tables import Row
from .verdicts import counts, interval_text, lacking

# Sign of a verdict: nothing on the page is told by colour alone.
SIGNS = {
    "reproduced": "✓", "reproduced at small scale": "✓", "not reproduced": "✕", "inconclusive": "?", "no data": "–",
}  # fmt: skip
LONGEST_OPEN_TABLE = 14  # rows; a longer table beside a figure is folded away


@dataclass(frozen=True)
class RunsOfEnvironment:
    """Runs that ran with the same packages, commit and device."""

    first: Provenance
    runs: tuple[Provenance, ...]


def page(
    artifacts: Sequence[Artifact],
    pictures: Mapping[str, Mapping[str, bytes]],
    verdicts: Sequence[Verdict],
    records: Sequence[Record],
    provenance: Sequence[Provenance],
) -> str:
    """Write the page.

    Args:
        artifacts: in the order of the page.
        pictures: of every artifact with a figure, by the name of the theme, as SVG.
        verdicts: of all claims.
        records: published and measured, for the summary.
        provenance: of the runs behind measured records.
    """
    measured = [record for record in records if record.source == "measured"]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"code": shell_code, "breakable": breakable}
    template = environment.from_string(_text("page.html"))
    return template.render(
        style=Markup(_text("page.css")),  # noqa: S704 - our own file
        script=Markup(_text("page.js")),  # noqa: S704 - our own file
        light=LIGHT,
        dark=DARK,
        paper=PAPER,
        artifacts=artifacts,
        labels={artifact.name: artifact.label for artifact in artifacts},
        verdicts=verdicts,
        measured=len(measured),
        published=len(records) - len(measured),
        runs=len(run_ids(measured)),
        splits={split: len(same) for split, same in sorted(group(measured, lambda r: r.split or "").items()) if split},
        random_scores=any(record.benchmark for record in measured if extra_text(record, "weights") == "random"),
        random_speeds=any(not record.benchmark for record in measured if extra_text(record, "weights") == "random"),
        unnamed=sum(record.run_id is None for record in measured),
        counts=counts(verdicts),
        signs=SIGNS,
        slugs={status: status.replace(" ", "-") for status in STATUSES},
        interval=interval_text,
        lacking=lacking,
        picture=lambda artifact, theme: data_address(pictures[artifact.name][theme.name]),
        facets=_facets,
        filters=_filters(artifacts),
        folded=lambda artifact, table: artifact.figure is not None and len(table.rows) > LONGEST_OPEN_TABLE,
        environments=_environments(provenance),
    )


def data_address(svg: bytes) -> str:
    """A picture as an address that holds it."""
    return f"data:image/svg+xml;base64,{b64encode(svg).decode()}"


def without_drawings(page: bytes) -> bytes:
    """A page with every figure replaced by the digest of its data."""

    def digest(found: re.Match[bytes]) -> bytes:
        try:
            return (drawn_from(b64decode(found[1])) or "unknown").encode()
        except ValueError:
            return b"damaged"

    return re.sub(rb"data:image/svg\+xml;base64,([A-Za-z0-9+/=]*)", digest, page)


def shell_code(command: str) -> Markup:
    """A command line that may break before an option, and not between an option and its value."""
    parts = (Markup("<span>{}</span>").format(part) for part in re.split(r" (?=--)", command))
    return Markup("<code>{}</code>").format(Markup(" ").join(parts))


def breakable(name: str) -> Markup:
    """A name that may break after the underscore nearest to its middle: data sets have long ones."""
    places = [match.end() for match in re.finditer("_", name)]
    if not places:
        return Markup("{}").format(name)
    middle = min(places, key=lambda place: abs(2 * place - len(name)))
    return Markup("{}<wbr>{}").format(name[:middle], name[middle:])


def _facets(row: Row) -> dict[str, str]:
    """What the filters look at, by name; a facet that a row does not have is left out."""
    return {"source": row.kind} | {name: value for name, value in row.facets if value}


def _filters(artifacts: Sequence[Artifact]) -> dict[str, list[str]]:
    """The facets in which rows differ, and their values."""
    found: dict[str, set[str]] = {}
    for artifact in artifacts:
        for table in artifact.tables:
            for row in table.rows:
                for name, value in _facets(row).items():
                    found.setdefault(name, set()).add(value)
    return {name: sorted(values) for name, values in found.items() if len(values) > 1}


def _environments(provenance: Sequence[Provenance]) -> list[RunsOfEnvironment]:
    groups: dict[tuple[object, ...], list[Provenance]] = {}
    for one in provenance:
        groups.setdefault((one.found, one.commit, one.python, one.packages, one.device), []).append(one)
    return [RunsOfEnvironment(same[0], tuple(same)) for same in groups.values()]


def _text(name: str) -> str:
    return package_path("reports", name).read_text(encoding="utf-8")
