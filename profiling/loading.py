"""Loading and evaluating a checkpoint of full size: load time, peak memory against the weights, samples a second.

    python -m infinitevl_bench.profiling.loading --out reports/measured/loading.jsonl

Random weights of the published geometry are written once, in the published format and in shards, and read back as a
user's would be. What bounds loading is the disk and the copy to the device; what bounds peak memory is whether a second
copy is ever held (the aim: at most 1.1 times the weights; on a CPU, of the process beyond what it held before). The
evaluation is of synthetic DocVQA pages with the shipped tokenizer, within the paper's picture sizes, one question at a
time, by captured steps and eager, and batched: with random weights its scores say nothing, its samples a second do.
Load time is the median of several loads from a warm page cache, each in turn freed.
"""

import argparse
import gc
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from ..errors import UserError
from ..eval.runner import Asking, evaluate
from ..models.checkpoints import new_model
from ..models.convert import save_infinite_vl
from ..models.device import device_name, resolve_device
from ..models.hybrid import HybridVLForConditionalGeneration
from ..models.loading import open_checkpoint
from ..models.presets import get_preset, preset_names
from ..models.processor import load_processor
from ..models.published import PIXEL_LIMITS
from ..records import Record, RunFolder, RunSpec, environment, ship_records
from ..scratch import ScratchFolder

REPETITIONS = 3
QUESTIONS = 200
NOTE = "random weights: scores say nothing, speed does"


def measure(
    preset: str, folder: Path, runs: Path, *, device: str, questions: int, batch_sizes: Sequence[int], shard_bytes: int
) -> Iterator[list[Record]]:
    """Measure loading and evaluation of a preset with random weights.

    Args:
        preset: A name in `models.presets` with Gated DeltaNet and sliding windows.
        folder: Where its weights are written; they are kept if they are there already.
        runs: Where predictions go.
        device: cpu or cuda.
        questions: Synthetic DocVQA questions of each evaluation.
        batch_sizes: Questions at a time, one evaluation each; the last ones may take long, and captured steps,
            which are quick, come first.
        shard_bytes: Largest shard.

    Yields:
        Records as they are found: of load time (s), peak memory over the weights (a ratio) and samples/s.
    """
    if not folder.exists():
        _write_weights(preset, folder, device, shard_bytes)
    checkpoint = open_checkpoint(folder)
    weights, text = checkpoint.nbytes, checkpoint.config.text_config
    shared: dict[str, Any] = {
        "artifact": "loading", "model": preset, "source": "measured", "device": device_name(device),
        "mixer": text.mixer if text.linear_layers else None, "pattern": text.pattern,
        "run_id": RunSpec(kind="profile", arguments={"what": "loading", "preset": preset, "device": device}).id,
        "extra": {"weights": "random", "weight_bytes": weights, "note": NOTE},
    }  # fmt: skip
    seconds, ratios = [], []
    for _ in range(REPETITIONS):
        elapsed, peak = _load_once(folder, device)
        seconds.append(elapsed)
        ratios.append(peak / weights)
    yield [
        _record(
            _noted(shared, fastest_s=min(seconds), slowest_s=max(seconds)), "load_s", median(seconds), "s", REPETITIONS
        ),
        _record(shared, "load_peak_over_weights", max(ratios), "ratio", REPETITIONS),
    ]
    model = HybridVLForConditionalGeneration.from_pretrained(folder, dtype="auto", device_map={"": device}).eval()
    for size, graph in [(1, True), *((size, False) for size in sorted(batch_sizes, reverse=True))]:
        arguments = {"what": "loading", "preset": preset, "batch_size": size, "questions": questions, "graph": graph}
        yield _evaluate(model, RunSpec(kind="profile", arguments=arguments), runs, shared)


def _evaluate(model: Any, spec: RunSpec, runs: Path, shared: dict[str, Any]) -> list[Record]:
    questions, size, graph = (spec.arguments[name] for name in ("questions", "batch_size", "graph"))
    processor = load_processor(min_pixels=PIXEL_LIMITS[0], max_pixels=PIXEL_LIMITS[1])
    asking = Asking(batch_size=size, blind=False, graph=graph)
    # The first call compiles kernels; it is left out.
    evaluate(model, processor, "DocVQA", data="synthetic", limit=size, data_root=runs / "data", asking=asking)
    with RunFolder(runs, spec) as folder:
        (folder.path / "predictions-DocVQA-synthetic.jsonl").unlink(missing_ok=True)
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        result = evaluate(
            model, processor, "DocVQA", data="synthetic", limit=questions, folder=folder, data_root=runs / "data",
            asking=asking,
        )  # fmt: skip
        elapsed = time.perf_counter() - start
        tokens = sum(row["tokens"] for row in result.predictions)
        answering = sum(row["latency_ms"] for row in result.predictions) / 1000.0
        own = shared | {"benchmark": "DocVQA", "split": "synthetic", "seed": 0}
        own = _noted(
            own, batch_size=size, graph=graph, answer_tokens=tokens, answering_s=round(answering, 2),
            min_pixels=PIXEL_LIMITS[0], max_pixels=PIXEL_LIMITS[1],
        )  # fmt: skip
        records = [_record(own, "samples_per_s", questions / elapsed, "samples/s", questions)]
        if model.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated()
            records.append(_record(own, "eval_peak_bytes", float(peak), "B", questions))
        folder.finish(records)
    return records


def _load_once(folder: Path, device: str) -> tuple[float, int]:
    """Seconds and peak bytes of one load: on the device, or for a CPU in the process beyond what it held before."""
    gc.collect()
    before = 0
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = _resident_bytes()
    start = time.perf_counter()
    model = HybridVLForConditionalGeneration.from_pretrained(folder, dtype="auto", device_map={"": device})
    if device == "cuda":
        torch.cuda.synchronize()
    elapsed = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() - before if device == "cuda" else _peak_resident_bytes() - before
    del model
    return elapsed, peak


def _write_weights(preset: str, folder: Path, device: str, shard_bytes: int) -> None:
    config, processor = get_preset(preset), load_processor()
    # Pages are read with the shipped tokenizer, so its tokens must mean pictures to the model.
    config.image_token_id, config.video_token_id = processor.image_token_id, processor.video_token_id
    for name in ("vision_start", "vision_end"):
        setattr(config, f"{name}_token_id", processor.tokenizer.convert_tokens_to_ids(f"<|{name}|>"))
    with torch.device(device):
        model = new_model(config, seed=0, dtype=torch.bfloat16)
    save_infinite_vl(model, None, folder, "Random weights, to measure loading with.", shard_bytes=shard_bytes)
    del model
    gc.collect()


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def _peak_resident_bytes() -> int:
    """The most that this process has held; a load after a larger one is judged by that."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _noted(shared: dict[str, Any], **notes: Any) -> dict[str, Any]:
    return shared | {"extra": shared["extra"] | notes}


def _record(shared: dict[str, Any], metric: str, value: float, unit: str, n: int) -> Record:
    return Record(**shared, metric=metric, value=value, unit=unit, n=n)


def _tell(records: Sequence[Record]) -> None:
    for record in records:
        batch = f" batch {record.extra['batch_size']}" if "batch_size" in record.extra else ""
        batch += " by captured steps" if record.extra.get("graph") else ""
        line = f"{record.model} on {record.device}: {record.metric}{batch} {record.value:.4g} {record.unit}"
        print(line, flush=True)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure from the command line, print a line a record, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="infinitevl-4b", choices=preset_names())
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--shard-bytes", type=int, default=2_000_000_000)
    parser.add_argument("--out", type=Path, default=Path("loading.jsonl"), help="the records, as JSON lines")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    chosen = parser.parse_args(arguments)
    disable_progress_bar()
    records: list[Record] = []
    device = resolve_device(chosen.device)
    told = environment(device_name(device))
    with ScratchFolder() as scratch:
        try:
            for found in measure(
                chosen.preset, scratch / chosen.preset, chosen.runs, device=device,
                questions=chosen.questions, batch_sizes=chosen.batch_size, shard_bytes=chosen.shard_bytes,
            ):  # fmt: skip
                records += found
                _tell(found)
                ship_records(chosen.out, records, {str(records[0].run_id): told})
        except UserError as error:
            raise SystemExit(f"infinitevl-bench: {error}") from None


if __name__ == "__main__":
    main()
