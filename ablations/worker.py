"""A worker process of a grid: ``python -m infinitevl_bench.ablations.worker CELLS.json RUNS NUMBER MOST``.

It ends when its standard input does: whoever started it is gone then.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path

from safetensors import SafetensorError

from ..errors import UserError
from ..records import RunFolder, RunHeldError, RunSpec


def main() -> int:
    """Run the cells of the request, starting at a place of one's own."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    threading.Thread(target=_end_with_input, daemon=True).start()
    request, runs, number, most = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    specs = [RunSpec.model_validate(row) for row in json.loads(request.read_text(encoding="utf-8"))]
    return work(specs[number:] + specs[:number], runs, most)


def work(specs: list[RunSpec], runs: Path, most: int | None = None) -> int:
    """Run every cell that is neither finished nor held by another process; the exit code, its reason printed last.

    ``most`` is how many cells of a study may be trained side by side, so that some are left for other workers.
    """
    from .cell import run_cell
    from .exact import is_exact, run_together

    for place, spec in enumerate(specs):
        if RunFolder(runs, spec).finished:
            continue
        try:
            if is_exact(spec):
                run_together(specs[place:], runs, most)
            else:
                run_cell(spec, runs)
        except RunHeldError:
            continue
        except UserError as error:
            print(error)  # noqa: T201 - the parent shows the last line of this log
            return error.exit_code
        except (OSError, SafetensorError) as error:
            if os.environ.get("INFINITEVL_BENCH_DEBUG"):
                raise
            print(f"run {spec.id}: {error}; free some space, then call the same command again")  # noqa: T201
            return 1
    return 0


def _end_with_input() -> None:
    # The descriptor itself: a thread that waits in sys.stdin would hold up the end of the process.
    while os.read(0, 1024):
        pass
    os._exit(143)


if __name__ == "__main__":
    sys.exit(main())
