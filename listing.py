"""The `list` command: what the registries hold."""

from collections.abc import Callable, Iterable

from rich.table import Table

from .printing import PlainConsole

Rows = tuple[tuple[str, ...], Iterable[tuple[str, ...]]]


def print_listing(what: str) -> None:
    """Print one of `LISTINGS` as a table."""
    headings, rows = LISTINGS[what]()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    PlainConsole().print(table)


def _mixers() -> Rows:
    from .models.presets import get_preset
    from .models.registry import get_mixer, mixer_names

    config = get_preset("infinitevl-4b").text_config
    rows = []
    for name in mixer_names():
        mixer = get_mixer(name)
        module_doc = (__import__(mixer.__module__, fromlist=["_"]).__doc__ or "").strip()
        rows.append((name, f"{mixer.state_elements(config):,}", module_doc.splitlines()[0] if module_doc else ""))
    return ("mixer", "state a layer at 4B, elements", "what it is"), rows


def _benchmarks() -> Rows:
    from .eval.benchmarks import ALL, SUITES

    rows = [
        (
            benchmark.name,
            benchmark.dataset,
            next(
                (suite for suite, names in SUITES.items() if benchmark.name in names),
                "none: not in the paper" if benchmark.answers else "no answers: submission file",
            ),
            benchmark.artifact,
            benchmark.family,
        )
        for benchmark in ALL.values()
    ]
    return ("benchmark", "VLMEvalKit's name", "suite", "artifact", "synthetic twin drawn by"), rows


def _presets() -> Rows:
    from .models.accounting import size_of
    from .models.presets import get_preset, preset_names

    rows = []
    for name in preset_names():
        config = get_preset(name)
        size = size_of(config, context=32768)
        rows.append(
            (
                name,
                config.text_config.pattern,
                f"{size.parameters:,}",
                f"{size.state_elements:,}",
                f"{size.cache_elements:,}",
            )
        )
    return ("preset", "pattern", "parameters", "state elements", "cache elements at 32k tokens"), rows


def _artifacts() -> Rows:
    from .reports.artifacts import ARTIFACTS, artifact_title

    return ("artifact", "what it is"), [(name, artifact_title(name)) for name in ARTIFACTS]


LISTINGS: dict[str, Callable[[], Rows]] = {
    "mixers": _mixers,
    "benchmarks": _benchmarks,
    "presets": _presets,
    "artifacts": _artifacts,
}
