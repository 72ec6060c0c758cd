"""Time the stages at a model's full size, with random weights and generated data, through the loop that trains.

    python -m infinitevl_bench.training.full_size --context 8192

Layer distillation and tuning each take a few steps of one sequence: half of it visual tokens of pictures that go
through the vision tower, the rest text. Nothing is learnt and no checkpoint is written. Tokens/s is that of the median
step after the first ones; MFU counts the operations that the stage asks for, and not those that checkpointing does
again.

Operations a token, N counting weights: a frozen part costs 2 N where it is run, 4 N where a gradient passes through it
to something that trains, and what trains 6 N. Attention adds 4 · width of all heads · visible tokens to a forward pass,
and twice that to a backward one. The states' own arithmetic and the tower's attention are left out.
"""

import argparse
import math
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models.config import HybridVLConfig
from ..models.device import device_name, resolve_device
from ..models.hybrid import HybridVLForConditionalGeneration
from ..models.mixers.base import TokenMixer
from ..models.presets import get_preset, preset_names
from ..models.teacher import inherit
from ..records import Record, RunFolder, RunSpec, environment, ship_records
from ..scratch import ScratchFolder
from .batch import IGNORED, AnswerLoss, Batch, Objective
from .clock import METRICS
from .distill import LayerDistillation, share_frozen, train_mixers
from .loop import set_precision, train
from .packed import pack_samples
from .sft import train_decoder
from .stages import STAGES

NOMINAL_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0}
"""Dense bfloat16 rates by the makers' data sheets (SXM), which MFU is a share of; other devices have their matmul's."""

SIDE = {"cuda": 448, "cpu": 56}
MATMUL = {"cuda": 8192, "cpu": 1024}


class Part(NamedTuple):
    """Linear weights of a model, by what they belong to."""

    vision: int
    mixers: int
    attention: int
    mlp: int
    head: int


def parts_of(model: Any) -> Part:
    """Count the weights that tokens are multiplied with."""

    def count(*modules: nn.Module) -> int:
        linear = (one for module in modules for one in module.modules() if isinstance(one, nn.Linear))
        return sum(one.weight.numel() for one in linear)

    layers = model.model.language_model.layers
    mixers = [layer.self_attn for layer in layers if isinstance(layer.self_attn, TokenMixer)]
    return Part(
        count(model.model.visual),
        count(*mixers),
        count(*(layer.self_attn for layer in layers)) - count(*mixers),
        count(*(layer.mlp for layer in layers)),
        model.lm_head.weight.numel(),
    )


def attention_flops(config: HybridVLConfig, context: int) -> float:
    """Operations of a forward pass's attention over one sequence: scores and weighted values of all visible pairs."""
    text = config.text_config
    pairs = 0.0
    for layer_type in text.layer_types:
        if layer_type != "linear_attention":
            reach = min(context, text.sliding_window or context) if layer_type == "sliding_attention" else context
            pairs += reach * (reach + 1) / 2 + (context - reach) * reach
    return 4 * text.hidden_size * pairs


def stage_flops(stage: str, student: Any, teacher: Any, context: int, visual: int, answers: int) -> float:
    """Operations of one step of a stage over one sequence.

    Args:
        stage: "distill-layers" or "sft".
        student, teacher: the models.
        context: tokens of the sequence.
        visual: of which stand for pictures; the tower sees four patches for each.
        answers: tokens that the head is run for.
    """
    own = parts_of(student)
    tower = 2 * own.vision * 4 * visual
    if stage == "distill-layers":
        theirs = parts_of(teacher)
        forward = 2 * (theirs.attention + theirs.mlp) * context + attention_flops(teacher.config, context)
        layers = len(student.config.text_config.linear_layers) / student.config.text_config.num_hidden_layers
        # The gradient passes through the FFN to the mixer, and ends there.
        return tower + forward + (6 * own.mixers + 4 * layers * own.mlp) * context
    decoder = 6 * (own.mixers + own.attention + own.mlp) * context + 3 * attention_flops(student.config, context)
    return tower + decoder + 4 * own.head * answers


def generated_sample(config: HybridVLConfig, context: int, side: int, seed: int) -> dict[str, Tensor]:
    """A sequence of random text behind random pictures of ``side`` pixels, which make up half of it.

    Raises:
        UserError: if half of the context is less than a picture.
    """
    generator = torch.Generator().manual_seed(seed)
    vision, text = config.vision_config, config.text_config
    patches = side // vision.patch_size
    tokens = (patches // vision.spatial_merge_size) ** 2
    pictures = context // 2 // (tokens + 2)
    if pictures == 0:
        raise UserError(
            f"half of {context} tokens holds no picture of {side} pixels; use --context {2 * (tokens + 2)} or more"
        )
    picture = [config.vision_start_token_id, *[config.image_token_id] * tokens, config.vision_end_token_id]
    ordinary = min(text.bos_token_id, config.image_token_id, config.vision_start_token_id)
    words = torch.randint(0, ordinary, (context - pictures * len(picture),), generator=generator)
    ids = torch.cat([torch.tensor(picture * pictures, dtype=torch.long), words])
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {
        "input_ids": ids,
        # The last quarter is an answer.
        "labels": torch.where(torch.arange(context) < context * 3 // 4, IGNORED, ids),
        "mm_token_type_ids": (ids == config.image_token_id).long(),
        "pixel_values": torch.randn(pictures * patches**2, width, generator=generator),
        "image_grid_thw": torch.tensor([[1, patches, patches]]).repeat(pictures, 1),
    }


def measure(
    stage: str, objective: Objective, batches: list[Batch], steps: int, precision: str, device: str
) -> dict[str, Any]:
    """Run a stage's own loop for some steps; its rate, losses and peak memory."""
    changes: dict[str, Any] = {"steps": steps, "log_every": 1, "precision": precision, "batch_size": 1}
    arguments = STAGES[stage].training.model_copy(
        update=changes | {"checkpoint_every_seconds": None, "diverged_at": math.inf}
    )
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    spec = RunSpec(kind="profile", arguments={"stage": stage})
    with ScratchFolder() as scratch, RunFolder(scratch, spec) as folder:
        result = train(objective, lambda step: batches, arguments, folder, "generated", device=device)
        rows = folder.rows(METRICS)
    if result.status != "ok":
        raise UserError(f"no speed of {stage} is recorded: its loss is no number after {result.steps} steps", 1)
    # The first steps compile kernels and find their best settings.
    rates = [row["tokens_per_second"] for row in rows[steps // 2 :]]
    return {
        "stage": stage, "tokens_per_second": statistics.median(rates), "of_steps": rates,
        "losses": [row["loss"] for row in rows], "precision": precision,
        "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None,
    }  # fmt: skip


def matmul_tflops(device: str) -> float:
    """The rate of a square bfloat16 matrix product, in TFLOP/s: what this device gives at best."""
    size = MATMUL[device]
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(8):
        begun = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return 2 * size**3 / statistics.median(times[3:]) / 1e12


def main(arguments: list[str] | None = None) -> list[Record]:
    """Measure, print a line a stage, and write the records with their environment beside."""
    parser = argparse.ArgumentParser(prog="python -m infinitevl_bench.training.full_size", description=__doc__)
    parser.add_argument("--preset", default="infinitevl-4b", choices=preset_names())
    parser.add_argument("--mixer", default="gated_deltanet")
    parser.add_argument("--context", type=int, default=8192, help="tokens of the sequence")
    parser.add_argument("--steps", type=int, default=6, help="of each stage; the latter half is timed")
    parser.add_argument("--accumulate", type=int, default=1, help="sequences of a step, one after the other")
    parser.add_argument("--precision", default="bf16", choices=["no", "bf16", "pure_bf16"])
    parser.add_argument("--stage", action="append", choices=["distill-layers", "sft"], help="both without")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="also write the records to this .jsonl file")
    given = parser.parse_args(arguments)
    device = resolve_device(given.device)
    told = environment(device_name(device))
    config = get_preset(given.preset, mixer=given.mixer)
    student, teacher = (_random_model(one, device) for one in (config, get_preset(given.preset, pattern="F")))
    inherit(student, teacher)
    samples = [generated_sample(config, given.context, SIDE[device], number) for number in range(given.accumulate)]
    batches = [pack_samples([sample], student.model.get_rope_index) for sample in samples]
    visual = int(samples[0]["mm_token_type_ids"].sum())
    answers = int((samples[0]["labels"] != IGNORED).sum())
    name, rate = device_name(device), matmul_tflops(device)
    nominal = next((tflops for gpu, tflops in NOMINAL_TFLOPS.items() if gpu in name), rate)
    records: list[Record] = []
    for stage in given.stage or ["distill-layers", "sft"]:
        flops = stage_flops(stage, student, teacher, given.context, visual, answers)
        try:
            objective = _objective(stage, student, teacher, given.precision)
            row = measure(stage, objective, batches, given.steps, given.precision, device)
        except torch.OutOfMemoryError:
            row = {"stage": stage, "status": "out of memory", "precision": given.precision}
        else:
            reached = row["tokens_per_second"] / given.context * flops / 1e12
            row |= {"tflops": reached, "mfu": reached / nominal, "of_matmul_rate": reached / rate}
        row |= {
            "weights": "random", "preset": given.preset, "mixer": given.mixer, "context": given.context,
            "pattern": config.text_config.pattern,
            "accumulate": given.accumulate, "visual_tokens": visual, "flops_a_sequence": flops,
            "nominal_tflops": nominal, "matmul_tflops": rate, "device": name,
        }  # fmt: skip
        found = stage_records(row)
        records += found
        what = ", ".join(f"{record.metric} {record.value:.4g} {record.unit}" for record in found)
        print(f"{given.preset} on {name}, {stage}: {what or 'out of memory'}", flush=True)  # noqa: T201
        if given.out is not None and records:
            ship_records(given.out, records, {str(records[0].run_id): told})
    return records


def stage_records(row: dict[str, Any]) -> list[Record]:
    """What was measured of a stage as records: its rate, the share of the nominal one, and peak memory.

    Args:
        row: of `measure`, and what it was measured of; nothing is recorded of a stage that ran out of memory.
    """
    if row.get("status") is not None:
        return []
    lists = {name: " ".join(f"{one:.6g}" for one in row[name]) for name in ("of_steps", "losses")}
    kept = (
        "stage", "weights", "precision", "accumulate", "visual_tokens", "flops_a_sequence", "tflops",
        "nominal_tflops", "matmul_tflops", "of_matmul_rate",
    )  # fmt: skip
    asked = {name: row[name] for name in ("preset", "mixer", "context", "accumulate", "precision", "device")}
    shared: dict[str, Any] = {
        "artifact": "full_size", "model": row["preset"], "pattern": row["pattern"],
        "mixer": row["mixer"] if "L" in row["pattern"] else None, "source": "measured",
        "context": row["context"], "device": row["device"], "n": len(row["of_steps"]),
        "run_id": RunSpec(kind="profile", arguments={"what": "full_size"} | asked).id,
        "extra": {name: row[name] for name in kept} | lists,
    }  # fmt: skip
    values = {
        "tokens_per_second": (row["tokens_per_second"], "tokens/s"), "mfu": (row["mfu"], "ratio"),
        "training_peak_gb": (row["peak_memory_gb"], "GB"),
    }  # fmt: skip
    return [
        Record(**shared, metric=metric, value=value, unit=unit)
        for metric, (value, unit) in values.items()
        if value is not None
    ]


def _random_model(config: HybridVLConfig, device: str) -> Any:
    """A model made where it will be, in the type that it is held in: in the CPU's memory it would take minutes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    try:
        with torch.device(device):
            return HybridVLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)


def _objective(stage: str, student: Any, teacher: Any, precision: str) -> Objective:
    if stage == "sft":
        train_decoder(student)
        return AnswerLoss(student)
    train_mixers(student)
    objective = LayerDistillation(student, teacher)
    set_precision(objective, precision)
    share_frozen(student, teacher)
    return objective


if __name__ == "__main__":
    main()
