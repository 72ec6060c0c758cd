"""The registry of benchmarks, and whose data is taken."""

import subprocess
import sys
from pathlib import Path

import pytest
from infinitevl_bench.data.families import FAMILIES
from infinitevl_bench.errors import UserError
from infinitevl_bench.eval.benchmarks import BENCHMARKS, find_benchmark
from infinitevl_bench.eval.sources import choose_split, official_path
from infinitevl_bench.reports.published import benchmark_columns


def test_every_column_of_the_paper_has_one_benchmark() -> None:
    for artifact in ("table1", "table2"):
        columns = [benchmark.column for benchmark in BENCHMARKS.values() if benchmark.artifact == artifact]
        assert columns == benchmark_columns(artifact)


def test_twins_are_drawn_by_known_families() -> None:
    families = {benchmark.name: benchmark.family for benchmark in BENCHMARKS.values() if benchmark.family}
    assert families == {
        "MMStar": "shapes",
        "RealWorldQA": "shapes",
        "ChartQA": "charts",
        "TextVQA": "scene_text",
        "DocVQA": "documents",
        "OCRBench": "transcription",
    }
    assert set(families.values()) == set(FAMILIES)


@pytest.mark.parametrize("name", ["DocVQA", "docvqa", "DocVQA_VAL", "docvqa_test"])
def test_all_names_of_a_benchmark_find_it(name: str) -> None:
    assert find_benchmark(name).name == "DocVQA"


def test_no_two_benchmarks_share_a_name() -> None:
    names = [{b.name.lower(), b.dataset.lower(), b.column.lower(), b.twin.lower()} for b in BENCHMARKS.values()]
    assert len(set().union(*names)) == sum(map(len, names))


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown benchmark 'DocVKA'; did you mean DocVQA\?"):
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
        ("MMMU", "auto", r"no synthetic twin, and there is no official file at .*MMMU_DEV_VAL\.tsv"),
        ("MMMU", "synthetic", "no synthetic twin"),
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
