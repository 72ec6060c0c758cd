"""The registry of benchmarks, and whose data is taken."""

import subprocess
import sys
from pathlib import Path

import pytest
from infinitevl_bench.data.families import FAMILIES
from infinitevl_bench.errors import UserError
from infinitevl_bench.eval.benchmarks import ALL, BENCHMARKS, SUITES, Benchmark, find_benchmark, find_suite
from infinitevl_bench.eval.sources import choose_split, official_path
from infinitevl_bench.eval.vlmevalkit import dataset_class
from infinitevl_bench.reports.published import benchmark_columns


def test_every_column_of_the_paper_has_one_benchmark() -> None:
    for artifact in ("table1", "table2"):
        columns = [benchmark.column for benchmark in BENCHMARKS.values() if benchmark.artifact == artifact]
        assert columns == benchmark_columns(artifact)


def test_every_benchmark_has_a_twin_and_all_families_draw_one() -> None:
    assert {benchmark.family for benchmark in ALL.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", ["DocVQA", "docvqa", "DocVQA_VAL"])
def test_all_names_of_a_benchmark_find_it(name: str) -> None:
    assert find_benchmark(name).name == "DocVQA"


def test_a_split_without_answers_is_found_under_its_own_name_only() -> None:
    for name, public in (("DocVQA_TEST", "DocVQA"), ("MMBench_TEST_EN", "MMBench")):
        assert find_benchmark(name).name == name
        assert not find_benchmark(name).answers
        assert find_benchmark(public).dataset != name
        assert find_benchmark(public).answers


def test_suites_are_the_papers_tables() -> None:
    for name, table in (("general", "table1"), ("text-rich", "table2")):
        assert [find_benchmark(one).column for one in SUITES[name]] == benchmark_columns(table)
    assert SUITES["video"] == ("Video-MME", "LongVideoBench")
    assert SUITES["paper"] == SUITES["general"] + SUITES["text-rich"] + SUITES["video"]
    assert not {name for suite in SUITES.values() for name in suite if not ALL[name].answers}
    with pytest.raises(UserError, match="did you mean general"):
        find_suite("genral")


@pytest.mark.parametrize("benchmark", ALL.values(), ids=lambda benchmark: benchmark.name)
def test_checksums_are_vlmevalkits(benchmark: Benchmark, first_import: object) -> None:
    official = dataset_class(benchmark)
    assert benchmark.md5 == (official.MD5 if benchmark.video else official.DATASET_MD5[benchmark.dataset])
    assert benchmark.dataset in official.supported_datasets()


def test_no_two_benchmarks_share_a_name() -> None:
    names = [{b.name.lower(), b.dataset.lower(), b.twin.lower()} for b in ALL.values()]
    assert len(set().union(*names)) == sum(map(len, names))


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown benchmark 'DocVKA'; did you mean DocVQA"):
        find_benchmark("DocVKA")


def test_auto_takes_the_official_file_only_where_it_is(no_official_files: Path) -> None:
    docvqa = find_benchmark("DocVQA")
    assert choose_split(docvqa, "auto") == "synthetic"
    assert official_path(docvqa) == no_official_files / "DocVQA_VAL.tsv"
    official_path(docvqa).write_text("")
    assert choose_split(docvqa, "auto") == "official"
    assert choose_split(docvqa, "synthetic") == "synthetic"


@pytest.mark.usefixtures("no_official_files")
@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("DocVQA", "real", "auto, official or synthetic"),
        ("DocVQA", "official", r"no official DocVQA_VAL at .*LMUData/DocVQA_VAL\.tsv"),
        ("Video-MME", "official", r"no official Video-MME at .*LMUData/Video-MME/Video-MME\.tsv"),
    ],
)
def test_missing_data_is_named(name: str, data: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_split(find_benchmark(name), data)


def test_without_lmudata_the_home_folder_is_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in (None, str(tmp_path / "absent")):
        monkeypatch.delenv("LMUData", raising=False)
        if value:
            monkeypatch.setenv("LMUData", value)
        assert official_path(find_benchmark("MME")) == tmp_path / "LMUData" / "MME.tsv"


def test_names_are_checked_before_anything_heavy_is_imported() -> None:
    code = (
        "import sys, infinitevl_bench.eval.command\n"
        "heavy = {'torch', 'transformers', 'vlmeval', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
