"""README and the pages beside it say what the registries hold."""

import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from infinitevl_bench.files import package_path
from infinitevl_bench.records import Record, measured_records
from infinitevl_bench.reports.build import shows_the_same
from infinitevl_bench.reports.claims import CLAIMS, judge_all
from infinitevl_bench.reports.figures import drawn_from
from infinitevl_bench.reports.published import published_records
from infinitevl_bench.reports.readme_figure import THEMES, readme_figure
from infinitevl_bench.reports.verdicts import claims_table, found_so_far

README = package_path("README.md")
PAGES = (README, *(package_path(*parts) for parts in (("CONTRIBUTING.md",), ("SECURITY.md",), ("docs", "cluster.md"))))
RESULTS = package_path("docs", "results.md")


def test_the_claim_table_is_what_the_shipped_records_say() -> None:
    verdicts = judge_all([*published_records(), *measured_records(None)])
    table = claims_table(verdicts)
    text = README.read_text(encoding="utf-8")
    found = found_so_far(verdicts)
    assert found in text, f"put this into README.md, below its claim table:\n{found}"
    assert table in text, f"put this into README.md, in the place of its claim table:\n{table}"
    assert [row.split(" |")[0].strip("| ") for row in table.splitlines()[2:]] == list(CLAIMS)


def test_the_accuracies_of_multi_query_recall_are_those_of_the_shipped_records() -> None:
    records = [r for r in measured_records(None) if r.artifact == "mqar" and r.scale == "tiny"]
    scores = {
        (r.benchmark, r.extra["width"], r.mixer, r.pattern, bool(r.extra["variant"] in ("", "bare"))): f"{r.value:.1f}"
        for r in records
        if r.metric == "score"
    }
    text = " ".join(RESULTS.read_text(encoding="utf-8").split())
    arms = {
        "Gated DeltaNet": ("gated_deltanet", "L", True),
        "linear attention with convolution, norm and gate": ("linear_attention", "L", False),
        "bare linear attention": ("linear_attention", "L", True),
        "full attention": ("none", "F", True),
        "sliding window of 16": ("none", "S", True),
    }
    for name, arm in arms.items():
        assert f"| {name} | {scores['MQAR', 32, *arm]} | {scores['MQAR', 64, *arm]} |" in text
    seen = [scores["MQAR-vision", 128, *arm] for arm in arms.values()]
    said = "Gated DeltaNet {}, dressed linear attention {}, bare {}, full attention {}, sliding window {}."
    assert said.format(*seen) in text
    chosen = [r for r in records if r.metric == "validation_score" and r.benchmark == "MQAR-vision"]
    best = max(r.value for r in chosen if r.mixer == "gated_deltanet")
    assert f"Gated DeltaNet answered {best:.1f} %" in text


def test_what_is_said_of_c1_to_c3_is_what_the_shipped_records_say() -> None:
    cells = [r for r in measured_records(None) if (r.artifact, r.scale, r.steps) == ("ablation", "small", 1000)]
    tested = [r for r in cells if r.extra.get("role") == "test"]
    text = " ".join(RESULTS.read_text(encoding="utf-8").split())

    def of(metric: str, mixer: str, pattern: str, variant: str, benchmark: str | None = None) -> list[Record]:
        arm = (metric, mixer, pattern, variant)
        found = [r for r in tested if (r.metric, r.mixer, r.pattern, r.extra["variant"]) == arm]
        return [r for r in found if benchmark in (None, r.benchmark)]

    text_rich = ("DocVQA", "TextVQA", "OCRBench")
    scores = {name: fmean(r.value for r in of("score", "mamba2", "SLLL", "", name)) for name in text_rich}
    assert "({:.1f}, {:.1f} and {:.1f} % on DocVQA's, TextVQA's and OCRBench's".format(*scores.values()) in text
    guesses = [fmean(r.value for r in of("page_value", "mamba2", "SLLL", "", name)) for name in text_rich]
    assert "where that is right in {:.0f}, {:.0f} and {:.0f} %".format(*guesses) in text

    dressed = "conv_size=4, gate=True, norm=True"
    arms = [("mamba2", ""), ("linear_attention", dressed), ("gla", "conv_size=0"), ("gla", "")]
    failed = []
    for mixer, variant in arms:
        learnt: dict[int | None, list[bool]] = {}
        for record in of("learnt", mixer, "SLLL", variant):
            learnt.setdefault(record.seed, []).append(record.benchmark in (*text_rich, "ChartQA") and record.value > 0)
        failed.append((sum(not any(one) for one in learnt.values()), len(learnt)))
    assert failed == [(5, 5), (5, 5), (5, 5), (3, 5)], "results.md says that these do not converge either"

    more = [of("score", "gated_deltanet", pattern, "")[0].extra["unmatched"] for pattern in ("L", "SLLLLLLL")]
    shares = [re.search(r"holds ([\d.]+)% more", str(one)) for one in more]
    assert [one and one.group(1) for one in shares] == ["10.0", "5.0"]
    assert "ratios 0 and 1/8 hold 10.0 and 5.0 % more decoder parameters" in text


def test_every_file_that_is_linked_is_there() -> None:
    for page in (*PAGES, RESULTS, package_path("docs", "python.md")):
        for link in re.findall(r"(?:\]\(|src(?:set)?=\")([^)#\"]+)[)\"]", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_figure_shows_the_shipped_records() -> None:
    for name, data in readme_figure().items():
        there = package_path("docs", name).read_bytes()
        assert shows_the_same(name, there, data), "python -m infinitevl_bench.reports.readme_figure draws it anew"
        assert f"docs/{name}" in README.read_text(encoding="utf-8")
        assert THEMES[name].ink.lower().encode() in there.lower()
        # The check is one: other numbers are another figure.
        digest = drawn_from(there)
        assert digest is not None
        assert not shows_the_same(name, there.replace(digest.encode(), digest[::-1].encode()), data)


def commands_of(page: Path) -> list[list[str]]:
    """Our own command lines in the code blocks of a page, each from the command's name on."""
    blocks = re.findall(r"(?ms)^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"))
    code = "\n".join(text for language, text in blocks if language in ("", "bash", "console"))
    found = []
    for line in code.splitlines():
        for call in re.findall(r"(?:infinitevl-bench|-m infinitevl_bench\.cli) ([^#&|'\n]+)", line):
            found.append([word.strip('"') for word in call.split()])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_on_a_page_exists(page: Path) -> None:
    import typer
    from infinitevl_bench.cli import app

    for words in commands_of(page):
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands"):
            assert words[0] in command.commands, words
            command, words = command.commands[words[0]], words[1:]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, words
    assert page.name == "SECURITY.md" or commands_of(page)


def test_what_the_page_on_clusters_calls_exists() -> None:
    from accelerate.commands.launch import launch_command_parser
    from infinitevl_bench.ablations.studies import get_plan

    text = package_path("docs", "cluster.md").read_text(encoding="utf-8")
    launches = re.findall(r"accelerate launch (.+?) -m infinitevl_bench\.cli", text)
    assert len(launches) >= 6
    for arguments in launches:
        given = launch_command_parser().parse_args([*arguments.replace("$SLURM_NODEID", "1").split(), "script.py"])
        assert given.config_file is None or package_path(given.config_file).is_file()
    for line in text.splitlines():
        named = re.findall(r"--arm (\w+)", line) + (re.findall(r"\w+", line) if line.startswith("arms=(") else [])
        assert {arm for arm in named if arm != "arms"} <= set(get_plan("mixer_choice").arms)


def test_every_command_in_the_readme_is_one_of_ours() -> None:
    import typer
    from infinitevl_bench.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    named = set(re.findall(r"infinitevl-bench ([a-z]+)", README.read_text(encoding="utf-8")))
    assert named <= set(commands)
    assert set(commands) <= named
