"""A grid of two small cells, for the tests of what trains one."""

from typing import Any

from infinitevl_bench.ablations.study import Study
from infinitevl_bench.records import RunSpec

OPTIONS: dict[str, Any] = {
    "mixers": ["gla", "linear_attention"],
    "ratios": ["1/2"],
    "patterns": None,
    "scale": "tiny",
    "seeds": 1,
    "recipes": ["scratch"],
    "match": None,
    # A row and a checkpoint every step, so that a kill finds both.
    "overrides": {"steps": 6, "batch_size": 4, "log_every": 1, "checkpoint_every_seconds": 1e-9},
    "questions": 2,
    "pages": 12,
    "jobs": 1,
    "device": "cpu",
}


def cells() -> list[RunSpec]:
    changes = {"mixer": OPTIONS["mixers"], "pattern": ["SL"], "seed": [0], "recipe": OPTIONS["recipes"]}
    options = {name: OPTIONS[name] for name in ("scale", "match", "overrides", "questions", "pages")}
    return Study(baseline={"mixer": "gla", "pattern": "SL"}, changes=changes, **options).cells("cpu")
