"""The accelerate configurations that the package ships are ones that accelerate reads."""

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import FullyShardedDataParallelPlugin
from infinitevl_bench.records import package_path

CONFIGS = sorted(package_path("training", "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_it_and_leaves_the_precision_to_the_stage(path: Path) -> None:
    config = load_config_from_file(str(path))
    body = yaml.safe_load(path.read_text())
    assert config.num_processes == body["num_processes"]
    assert config.mixed_precision == "no"
    sharded = body.get("fsdp_config", {})
    fields = FullyShardedDataParallelPlugin.__dataclass_fields__
    names = {name.removeprefix("fsdp_") for name in sharded}
    spelled = {"version": "fsdp_version", "offload_params": "cpu_offload"}
    assert all(spelled.get(name, name) in fields for name in names)
    assert sharded.get("fsdp_version", 2) == 2


def test_one_gpu_many_and_a_cluster_are_there() -> None:
    assert [path.stem for path in CONFIGS] == ["ddp", "fsdp2", "fsdp2_cluster", "one_gpu"]
