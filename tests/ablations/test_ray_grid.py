"""A grid on Ray: every cell once, failures tried again, finished cells not started; what cannot work is said first."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from infinitevl_bench.ablations import ray_grid
from infinitevl_bench.ablations.command import ablate_command
from infinitevl_bench.ablations.ray_grid import Cluster, check_cluster, run_on_ray
from infinitevl_bench.ablations.scales import SCALES
from infinitevl_bench.ablations.study import Study
from infinitevl_bench.errors import UserError
from infinitevl_bench.records import Record, RunFolder, RunSpec
from rich.console import Console

OPTIONS: dict[str, Any] = {
    "mixers": ["gla", "linear_attention"], "ratios": ["1/2", "0"], "patterns": None, "scale": "tiny", "seeds": 1,
    "recipes": ["scratch"], "match": None, "overrides": {"steps": 2, "batch_size": 4}, "questions": 2, "pages": 8,
    "jobs": None, "device": "cpu",
}  # fmt: skip


def cells(count: int = 4) -> list[RunSpec]:
    changes = {"mixer": ["gla", "mamba2"], "seed": list(range(count // 2))}
    return Study(baseline={"pattern": "SL"}, changes=changes).cells("cpu")


def test_a_grid_of_four_cells_is_trained_and_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'infinitevl-bench[ray]'")
    records = ablate_command(**OPTIONS, runs=tmp_path, ray="local")
    scored = {(r.mixer, r.pattern) for r in records if r.metric == "score"}
    assert scored == {(mixer, pattern) for mixer in OPTIONS["mixers"] for pattern in ("SL", "L")}
    assert sum(r.metric == "score" for r in records) == 4 * len(SCALES["tiny"].benchmarks)
    monkeypatch.setattr(ray_grid, "_run_tasks", None)  # calling it would fail
    assert ablate_command(**OPTIONS, runs=tmp_path, ray="local") == records


def test_a_killed_task_is_tried_again_and_a_users_mistake_is_not(tmp_path: Path, quiet: Console) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'infinitevl-bench[ray]'")
    specs = cells()
    dies, mistaken = specs[0].id, specs[1].id

    def run_cell(spec: RunSpec, runs: Path) -> None:
        with open(runs / f"{spec.id}.tries", "a", encoding="utf-8") as file:
            file.write("try\n")
        if spec.id == dies and (runs / f"{spec.id}.tries").read_text().count("try") == 1:
            os._exit(9)
        if spec.id == mistaken:
            raise UserError("mend your file")
        record = Record(artifact="ablation", metric="score", value=1.0, unit="%", model="tiny", source="measured")
        with RunFolder(runs, spec) as folder:
            folder.finish([record], status="ok")

    failure = run_on_ray(specs, specs, tmp_path, Cluster(), quiet, run_cell)
    assert str(failure) == "mend your file"
    tries = {spec.id: (tmp_path / f"{spec.id}.tries").read_text().count("try") for spec in specs}
    assert tries == {specs[0].id: 2, specs[1].id: 1, specs[2].id: 1, specs[3].id: 1}
    assert [RunFolder(tmp_path, spec).finished for spec in specs] == [True, False, True, True]


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        (Cluster("gpu-box"), "not local, auto, HOST:PORT"),
        (Cluster("ray://gpu-box:port"), "not local, auto, HOST:PORT"),
        (Cluster(gpus=1.5), "a share of one GPU, or whole ones"),
    ],
)
def test_a_cluster_that_makes_no_sense_is_refused(
    cluster: Cluster, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_grid, "find_spec", lambda name: object())
    with pytest.raises(UserError, match=words):
        check_cluster(cluster)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_that_does_not_answer_is_named(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_grid, "find_spec", lambda name: object())
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{unused.getsockname()[1]}"
        # Bound, but nobody listens.
        with pytest.raises(UserError, match=f"the Ray address {address} does not answer"):
            check_cluster(Cluster(address))


def test_a_share_of_gpus_without_ray_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give --ray local or a cluster's address with it"):
        ablate_command(**OPTIONS, runs=tmp_path, gpus_per_cell=0.5)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray_grid, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"infinitevl-bench\[ray\]"):
        ablate_command(**OPTIONS, runs=tmp_path, ray="local")
    assert not list(tmp_path.iterdir())
