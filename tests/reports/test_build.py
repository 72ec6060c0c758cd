"""The report: all its files, the same bytes every time, nothing from a record that a reader's browser would run."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from infinitevl_bench import records as records_module
from infinitevl_bench.environment import without_paths
from infinitevl_bench.errors import UserError
from infinitevl_bench.records import Record, RunFolder, RunSpec, measured_records
from infinitevl_bench.reports import build, figures
from infinitevl_bench.reports.artifacts import ARTIFACTS, make_artifact
from infinitevl_bench.reports.build import FIGURES, FORMATS, report_command
from infinitevl_bench.reports.claims import CLAIMS
from infinitevl_bench.reports.page import breakable, shell_code
from infinitevl_bench.reports.provenance import provenance_of

NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux has a /proc, which takes no folder")
NASTY = "<script>alert('x')</script> & 50%_off\" onload=\"y"
VOID = {"meta", "link", "br", "img", "source", "wbr", "input", "hr"}
DRAWN_FROM_NOTHING = {"fig1", "fig4_latency", "fig4_streaming"}


class Page(HTMLParser):
    """Checks the nesting of a page and collects what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def run_with(runs: Path, records: list[Record], number: int = 0) -> Path:
    """A finished run that holds some records."""
    spec = RunSpec(kind="ablate", arguments={"number": number})
    with RunFolder(runs, spec) as folder:
        folder.write_environment("a <processor>")
        folder.finish([record.model_copy(update={"run_id": spec.id}) for record in records])
    return folder.path


@pytest.fixture
def runs(tmp_path: Path, make: SimpleNamespace) -> Path:
    run_with(tmp_path / "runs", make.cells({("gla", "SLLL"): [40.0]}, scale="tiny"))
    run_with(tmp_path / "runs", make.cells({("gated_deltanet", "SLLL"): [50.0, 51.0]}, scale="tiny"), 1)
    return tmp_path / "runs"


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_without_any_run_the_published_report_is_whole(tmp_path: Path) -> None:
    answer = report_command(tmp_path / "no runs", tmp_path / "out", None, None, False)
    expected = {"index.html", "claims.md"}
    expected |= {name + FORMATS[kind] for name in ARTIFACTS for kind in ("md", "latex", "csv")}
    expected |= {name + FORMATS[kind] for name in DRAWN_FROM_NOTHING for kind in FIGURES}
    files = files_in(tmp_path / "out")
    assert set(files) == expected
    assert all(files.values())
    assert files["fig1.png"].startswith(b"\x89PNG")
    lines = answer.splitlines()
    assert lines[-1] == str((tmp_path / "out" / "index.html").resolve())
    assert f"{len(measured_records(None)):,} measured records of 0 runs" in lines[0]
    assert f"{len(CLAIMS)} no data" in answer
    assert b"Nothing has been measured yet" in files["index.html"]
    assert not (tmp_path / "no runs").exists()


def test_the_same_records_give_the_same_bytes(tmp_path: Path, runs: Path) -> None:
    for out in ("one", "two"):
        report_command(runs, tmp_path / out, None, None, False)
    one = files_in(tmp_path / "one")
    assert one == files_in(tmp_path / "two")
    for name, data in one.items():
        assert str(tmp_path).encode() not in data, name
        assert b"matplotlib v" not in data.lower(), name
        assert b"matplotlib version" not in data.lower(), name
        assert not re.search(rb"dc:date|CreationDate|/Producer", data), name


def test_check_writes_nothing_and_names_what_differs(tmp_path: Path, runs: Path, make: SimpleNamespace) -> None:
    out = tmp_path / "out"
    formats = ["md", "csv", "svg"]
    with pytest.raises(UserError, match=rf"no report in {out} to check; write it with `.* --out {out}`") as error:
        report_command(runs, out, ["table3"], formats, True)
    assert error.value.exit_code == 1
    assert not out.exists()
    out.mkdir()
    with pytest.raises(UserError, match=r"table3\.md.*; write it with"):
        report_command(runs, out, ["table3"], formats, True)
    assert list(out.iterdir()) == []
    report_command(runs, out, ["table3"], formats, False)
    assert "4 files agree" in report_command(runs, out, ["table3"], formats, True)
    (out / "table3.csv").write_text("changed")
    with pytest.raises(UserError) as error:
        report_command(runs, out, ["table3"], formats, True)
    assert "1 of the report's files" in str(error.value)
    assert "table3.csv" in str(error.value)
    assert (out / "table3.csv").read_text() == "changed"
    report_command(runs, out, ["table3"], formats, False)
    run_with(runs, make.cells({("mamba2", "SLLL"): [45.0]}, scale="tiny"), 2)
    with pytest.raises(UserError, match=r"table3\.csv, table3\.md, table3\.svg"):
        report_command(runs, out, ["table3"], formats, True)


def test_check_asks_for_the_same_numbers_not_the_same_matplotlib(
    tmp_path: Path, runs: Path, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, names, formats = tmp_path / "out", ["table3"], ["html", *FIGURES]
    report_command(runs, out, names, formats, False)
    style = figures._style
    monkeypatch.setattr(figures, "_style", lambda theme: style(theme) | {"font.size": 9.5})
    assert "files agree" in report_command(runs, out, names, formats, True)
    run_with(runs, make.cells({("mamba2", "SLLL"): [45.0]}, scale="tiny"), 2)
    with pytest.raises(UserError, match=r"index\.html.*table3\.pdf, table3\.png, table3\.svg"):
        report_command(runs, out, names, formats, True)
    report_command(runs, out, names, formats, False)
    (out / "index.html").write_bytes((out / "index.html").read_bytes().replace(b"Gated", b"Grated", 1))
    with pytest.raises(UserError, match=r"1 of the report's files.*index\.html"):
        report_command(runs, out, names, formats, True)


def test_check_names_figures_that_are_cut_off(tmp_path: Path, runs: Path) -> None:
    out, names = tmp_path / "out", ["table3"]
    report_command(runs, out, names, list(FIGURES), False)
    for kind in FIGURES:
        whole = (out / f"table3.{kind}").read_bytes()
        (out / f"table3.{kind}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"3 of the report's files.*table3\.pdf, table3\.png, table3\.svg"):
        report_command(runs, out, names, list(FIGURES), True)


def test_the_report_takes_no_torch(tmp_path: Path, runs: Path) -> None:
    script = (
        "import sys, pathlib\nfrom infinitevl_bench.reports.build import report_command\n"
        "report_command(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), None, ['md', 'html'])\n"
        "assert not {'torch', 'transformers', 'vlmeval'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(runs), str(tmp_path / "out")], check=True)
    assert (tmp_path / "out" / "index.html").stat().st_size > 10_000


def test_a_figure_that_records_no_longer_give_goes(tmp_path: Path, runs: Path) -> None:
    out = tmp_path / "out"
    report_command(runs, out, ["table3"], ["svg"], False)
    assert (out / "table3.svg").exists()
    with pytest.raises(UserError, match=r"table3\.svg"):
        report_command(tmp_path / "none", out, ["table3"], ["svg"], True)
    report_command(tmp_path / "none", out, ["table3"], ["svg"], False)
    assert not (out / "table3.svg").exists()


@pytest.mark.parametrize(
    ("artifacts", "formats", "expected"),
    [
        (["table1"], ["latex"], {"table1.tex"}),
        (["table1", "fig1"], ["md", "csv"], {"table1.md", "table1.csv", "fig1.md", "fig1.csv", "claims.md"}),
        (["fig4_latency"], ["png", "svg"], {"fig4_latency.png", "fig4_latency.svg"}),
    ],
)
def test_artifacts_and_formats_limit_the_files(
    tmp_path: Path, artifacts: list[str], formats: list[str], expected: set[str]
) -> None:
    answer = report_command(tmp_path / "runs", tmp_path / "out", artifacts, formats, False)
    assert set(files_in(tmp_path / "out")) == expected
    assert answer.splitlines()[-1] == str((tmp_path / "out").resolve())


def test_the_page_is_whole_whatever_artifacts_are_named(tmp_path: Path) -> None:
    report_command(tmp_path / "runs", tmp_path / "out", ["table1"], ["html"], False)
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    for name in (*ARTIFACTS, *CLAIMS):
        assert f'id="{name}"' in text
    assert set(files_in(tmp_path / "out")) == {"index.html"}


@pytest.mark.parametrize(
    ("artifacts", "formats", "words"),
    [(["tabel3"], None, "did you mean table3"), (None, ["bmp"], "unknown format 'bmp'"), ([], ["htm"], "html")],
)
def test_unknown_names_are_refused(
    tmp_path: Path, artifacts: list[str] | None, formats: list[str] | None, words: str
) -> None:
    with pytest.raises(UserError, match=words) as error:
        report_command(tmp_path / "runs", tmp_path / "out", artifacts, formats, False)
    assert error.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_broken_files_are_named(tmp_path: Path, runs: Path) -> None:
    folder = next(runs.glob("ablate-*"))
    (folder / "env.json").write_text("{")
    with pytest.raises(UserError, match=r"env\.json cannot be read") as error:
        report_command(runs, tmp_path / "out", None, ["html"], False)
    assert error.value.exit_code == 1
    (folder / "env.json").write_text("[]")
    with pytest.raises(UserError, match=r"env\.json does not describe"):
        report_command(runs, tmp_path / "out", None, ["html"], False)
    (folder / "result.json").write_text('{"records": [{"artifact": 3}]}')
    with pytest.raises(UserError, match=r"result\.json"):
        report_command(runs, tmp_path / "out", None, ["md"], False)


@pytest.mark.parametrize("check", [False, True])
def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path, check: bool) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="is a file, not a folder; name another with --out"):
        report_command(tmp_path / "runs", tmp_path / "out", ["table1"], ["md"], check)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("out", ["file/report", pytest.param("/proc/report", marks=NEEDS_PROC)])
def test_a_place_that_takes_no_folder_is_refused_before_the_records_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(build, "measured_records", read.append)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="with --out"):
        report_command(tmp_path / "runs", tmp_path / out, None, None, False)
    assert read == []


@NEEDS_PROC
@pytest.mark.parametrize("out", ["/proc/report", "/proc"])
def test_a_check_does_not_advise_to_write_where_nothing_can_be(runs: Path, out: str) -> None:
    with pytest.raises(UserError, match=r"no report can be written there either, so name .* with --out$") as error:
        report_command(runs, Path(out), ["table3"], ["md"], True)
    assert error.value.exit_code == 1


def test_a_refused_report_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(UserError, match="is a file, not a folder of runs"):
        report_command(tmp_path / "runs", tmp_path / "new" / "out", ["table1"], ["md"], False)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_nothing_in_a_record_becomes_markup(tmp_path: Path, make: SimpleNamespace) -> None:
    records = [
        *make.cells({(NASTY, "SLLL"): [50.0, 51.0]}, scale="small"),
        *make.losses(NASTY),
        make.evaluated(NASTY, "ChartQA", 31.0, dataset="ChartQA_TEST", device=NASTY),
        *make.curve(NASTY, "latency_ms", "ms", "context", {1024: 4.0, 2048: 5.0}, NASTY),
    ]
    run_with(tmp_path / "runs", records)
    report_command(tmp_path / "runs", tmp_path / "out", None, None, False)
    files = files_in(tmp_path / "out")
    page = Page(files["index.html"].decode())
    assert len(page.all("script")) == 1
    assert not any("onload" in attributes for _, attributes in page.tags)
    assert any(NASTY in text for tag, text in page.texts if tag == "th")
    for name, data in files.items():
        if name.endswith((".md", ".svg")):
            assert b"<script" not in data, name
    tex = files["table2.tex"].decode()
    assert r"\& 50\%\_off" in tex
    assert not re.search(r"(?<!\\)[%_]", tex.replace("tab:", "")), "an unescaped % or _"


def test_the_page_needs_nothing_else_and_is_well_formed(tmp_path: Path, runs: Path) -> None:
    report_command(runs, tmp_path / "out", None, ["html"], False)
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
    assert not re.search(r"https?:|url\(|@import", text)
    identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    for link in page.all("a"):
        assert (link["href"] or "").removeprefix("#") in identities
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert len(page.all("figcaption")) == len(page.all("figure")) == len(page.all("img")) > len(DRAWN_FROM_NOTHING)
    assert any(attributes.get("name") == "viewport" for attributes in page.all("meta"))
    # A verdict for each claim, its rule and its command; every row of a result says its source.
    assert sum((attributes.get("class") or "").startswith("verdict ") for attributes in page.all("span")) == len(CLAIMS)
    for row in page.all("tr"):
        if "data-source" in row:
            assert row["data-source"] in ("published", "measured", "baseline")
    words = " ".join(" ".join(piece for _, piece in page.texts).split())
    for claim in CLAIMS.values():
        assert claim.text in words
        assert claim.rule in words
    assert "synthetic" in words


def test_the_page_tells_where_runs_ran(tmp_path: Path, runs: Path) -> None:
    folder = next(runs.glob("ablate-*"))
    environment = {
        "device": "a <card>", "git": {"commit": "abc123", "dirty": True}, "packages": {"torch": "2.11.0"},
        "command": ["infinitevl-bench", "ablate", "--runs", "/home/someone/runs"], "python": "3.11.9",
    }  # fmt: skip
    (folder / "env.json").write_text(json.dumps(environment))
    report_command(runs, tmp_path / "out", None, ["html"], False)
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    for words in (folder.name, "a &lt;card&gt;", "abc123 with local changes", "torch 2.11.0", "…/runs"):
        assert words in text, words
    assert "someone" not in text


def test_a_run_without_its_folder_is_known_by_its_records(tmp_path: Path, make: SimpleNamespace) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "env.json").write_text('{"device": "elsewhere"}')
    (tmp_path / "runs").mkdir()
    records = [
        make.evaluated("a", "ChartQA", 1.0, run_id="../outside"),
        make.evaluated("a", "ChartQA", 1.0, run_id=None),
    ]
    (found,) = provenance_of(tmp_path / "runs", records)
    assert (found.run, found.found, found.device, found.splits) == ("../outside", False, "a card", "official")
    assert provenance_of(None, []) == []


def test_the_package_brings_the_environments_of_the_runs_whose_records_it_brings(
    tmp_path: Path, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_module, "SHIPPED", tmp_path)
    shipped = {"a-run": {"device": "a card", "packages": {"torch": "2.11.0"}, "command": ["bench", "decode"]}}
    (tmp_path / "profile.environments.json").write_text(json.dumps(shipped))
    (found,) = provenance_of(None, [make.evaluated("a", "ChartQA", 1.0, run_id="a-run")])
    assert (found.found, found.packages, found.command) == (True, (("torch", "2.11.0"),), "bench decode")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/runs", "…/runs"), ("--out=/tmp/a/b", "--out=…/b"), ("runs/one", "runs/one"), ("1/4", "1/4"),
        ("~/secret/model", "…/model"), ("org/model", "org/model"), ("../x", "../x"), (r"C:\Users\me\runs", "…/runs"),
        ("DocVQA", "DocVQA"),
    ],
)  # fmt: skip
def test_absolute_paths_are_shortened(text: str, expected: str) -> None:
    assert without_paths(text) == expected


def test_commands_can_be_copied_from_the_page() -> None:
    command = 'infinitevl-bench ablate --mixer gla --swa-ratio 1/4 --note "<b>"'
    plain = re.sub(r"<[^>]+>", "", shell_code(command)).replace("&#34;", '"').replace("&lt;", "<").replace("&gt;", ">")
    assert plain == command


def test_commands_can_be_copied_from_the_markdown_files(tmp_path: Path) -> None:
    report_command(tmp_path / "runs", tmp_path / "out", None, ["md", "latex"], False)
    texts = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    wanted = [(f"{name}.md", one.command) for name in ARTIFACTS for one in make_artifact(name, ()).missing]
    wanted += [("claims.md", claim.command) for claim in CLAIMS.values()]
    commands = [(name, command) for name, command in wanted if command]
    assert any("_" in command for _, command in commands)
    for name, command in commands:
        assert f": `{command}`\n" in texts[name]
    # Nowhere else does a command stand, where it would be escaped.
    for name, text in texts.items():
        assert not re.search(r"infinitevl-bench [a-z]", re.sub("`[^`]*`", "", text)), name


def test_long_names_may_break_once() -> None:
    assert breakable("AI2D_TEST_NO_MASK") == "AI2D_TEST_<wbr>NO_MASK"
    assert breakable("<b>") == "&lt;b&gt;"
