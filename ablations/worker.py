"""A worker process of a grid: ``python -m infinitevl_bench.ablations.worker CELLS.json RUNS NUMBER``."""

import json
import os
import signal
import sys
from pathlib import Path

from ..errors import UserError
from ..records import RunHeldError, RunSpec


def main() -> int:
    """Run every cell that is neither finished nor held by another process; start at a place of one's own."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    request, runs, number = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    specs = [RunSpec.model_validate(row) for row in json.loads(request.read_text(encoding="utf-8"))]
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    from .cell import run_cell

    for spec in specs[number:] + specs[:number]:
        if (runs / spec.id / "result.json").exists():
            continue
        try:
            run_cell(spec, runs)
        except RunHeldError:
            continue
        except UserError as error:
            print(error)  # noqa: T201 - the parent shows the last line of this log
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
