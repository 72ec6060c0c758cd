"""README and the pages beside it say what the registries hold."""

import re

from infinitevl_bench.files import package_path
from infinitevl_bench.records import measured_records
from infinitevl_bench.reports.claims import CLAIMS, judge_all
from infinitevl_bench.reports.published import published_records
from infinitevl_bench.reports.verdicts import claims_table, found_so_far

README = package_path("README.md")


def test_the_claim_table_is_what_the_shipped_records_say() -> None:
    verdicts = judge_all([*published_records(), *measured_records(None)])
    table = claims_table(verdicts)
    text = README.read_text(encoding="utf-8")
    found = found_so_far(verdicts)
    assert found in text, f"put this into README.md, below its claim table:\n{found}"
    assert table in text, f"put this into README.md, in the place of its claim table:\n{table}"
    assert [row.split(" |")[0].strip("| ") for row in table.splitlines()[2:]] == list(CLAIMS)


def test_every_file_that_is_linked_is_there() -> None:
    for page in (
        README,
        package_path("CONTRIBUTING.md"),
        package_path("SECURITY.md"),
        package_path("docs", "python.md"),
    ):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_command_in_the_readme_is_one_of_ours() -> None:
    import typer
    from infinitevl_bench.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    named = set(re.findall(r"infinitevl-bench ([a-z]+)", README.read_text(encoding="utf-8")))
    assert named <= set(commands)
    assert set(commands) <= named
