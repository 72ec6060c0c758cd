"""Training throughput at the settings of stage 2: claim C8 and its bar of figure 1.

The vision tower and the head (with it the embedding, which is the same matrix) are frozen; every decoder layer trains,
in bfloat16 on an accelerator, by AdamW, with gradient checkpointing. Half of each sequence is the visual tokens of
images, which go through the tower as they would in training. Weights are random: speed does not depend on them.

What bounds it. Per token 6 operations a weight (and 2 more that checkpointing does again, which MFU does not count);
attention to everything adds 6·T·width a layer and token on average, a window at most twice its length, a state next to
nothing. So the hybrid's advantage grows with the length, and is small where weights are what a step is made of.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..errors import UserError
from ..models.fast.vision import FastVisionTower
from ..records import Record
from .models import Profiled
from .request import Request
from .session import MATCHED, OUT_OF_MEMORY, Cell, Session
from .streaming import FRAME_SIZE, grid_of
from .timing import Samples, time_steps

CONTEXTS = {"cuda": (8192, 32768, 2048, 16384), "cpu": (128, 512)}
QUICK_CONTEXTS = {"cuda": (8192, 32768), "cpu": (128,)}
HEADLINE_CONTEXT = 8192
"""The context of stage 2."""

STEPS, WARMUPS = 6, 2
METRIC = "training_tokens_per_day"
LOSS_CHUNK = 2048
"""Tokens whose logits stand in memory at a time."""

LEARNING_RATE = 2e-5
SECONDS_PER_DAY = 86_400


def training_cells(request: Request, models: Mapping[str, list[str]], device: str) -> list[Cell]:
    """Every length of every model, length by length, so that both are measured soon after one another."""
    contexts = request.contexts or (QUICK_CONTEXTS if request.quick else CONTEXTS)[device]
    return [Cell("training", model, "eager", {"context": context}) for context in contexts for model in models]


def measure_training(session: Session, cell: Cell) -> list[Record]:
    """One cell: tokens a second and a day, MFU, and peak memory."""
    profiled = session.model(cell.model)
    context = int(cell.arguments["context"])
    size = FRAME_SIZE[session.device]
    images = context // 2 // _tokens_per_image(profiled, size)
    notes: dict[str, Any] = {"images": images, "image_size": size, "training_backend": training_backend(profiled)}
    headline = context == HEADLINE_CONTEXT
    artifact = "fig1" if headline else "training"
    if session.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        samples, losses = train(session, profiled, context, images, size)
    except torch.OutOfMemoryError:
        session.drop()
        return [
            session.record(
                profiled, cell, artifact, METRIC, 0.0, "tokens/day", protocol=MATCHED, context=context,
                status=OUT_OF_MEMORY, **notes,
            )
        ]  # fmt: skip
    if not all(math.isfinite(loss) for loss in losses):
        raise UserError(f"no speed of {cell.label} is recorded: its losses are {losses}; report it", 1)
    work = profiled.work.training(context, session.batch, images, size)
    per_day = SECONDS_PER_DAY * 1000 * session.batch * context
    interval = samples.interval_ms
    peak = torch.cuda.max_memory_allocated() / 1e9 if session.device == "cuda" else None
    shared: dict[str, Any] = {"peak_memory_gb": peak, "first_loss": losses[0], "last_loss": losses[-1], **notes}
    session.drop()
    return [
        session.record(
            profiled, cell, artifact, METRIC, per_day / samples.median_ms, "tokens/day",
            protocol=MATCHED, samples=samples, work=work, context=context,
            interval=None if interval is None else (per_day / interval[1], per_day / interval[0]), **shared,
        )
    ]  # fmt: skip


def training_backend(profiled: Profiled) -> str:
    """What computes the mixers' recurrence in training; "" without mixers."""
    text = profiled.config.text_config
    if not text.linear_layers:
        return ""
    mixer = profiled.model.model.language_model.layers[text.linear_layers[0]].self_attn
    return str(mixer.training_backend())


def train(session: Session, profiled: Profiled, context: int, images: int, size: int) -> tuple[Samples, list[float]]:
    """Some steps on random tokens and images, the same in every step; their times, and the losses."""
    model = profiled.model
    language = model.model.language_model
    language.layers.requires_grad_(True)
    language.train()
    # transformers calls it by another name in newer releases.
    name = "activation_checkpointing_enable"
    getattr(language, name if hasattr(language, name) else "gradient_checkpointing_enable")({"use_reentrant": False})
    trained = [parameter for parameter in language.layers.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, fused=session.device == "cuda")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, profiled.config.text_config.vocab_size, (session.batch, context), generator=generator)
    ids = ids.to(session.device)
    grid = grid_of(profiled.config, size)
    tower = FastVisionTower(model.model.visual, grid)
    vision = profiled.config.vision_config
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    pixels = torch.randn(session.batch * images, grid[0] * grid[1], width, generator=generator)
    pixels = pixels.to(session.device, session.dtype)
    positions = torch.arange(context, device=session.device).expand(3, session.batch, context)
    losses: list[Tensor] = []

    def step() -> None:
        embeddings = model.get_input_embeddings()(ids)
        if images:
            seen = tower(pixels).view(session.batch, -1, embeddings.shape[-1])
            embeddings = torch.cat([seen.to(embeddings.dtype), embeddings[:, seen.shape[1] :]], dim=1)
        hidden = language(inputs_embeds=embeddings, position_ids=positions, use_cache=False).last_hidden_state
        loss = chunked_loss(hidden, model.lm_head.weight, ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())

    samples = time_steps(step, session.device, STEPS, WARMUPS)
    return samples, [float(loss) for loss in losses]


def chunked_loss(hidden: Tensor, head: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of the next token, `LOSS_CHUNK` tokens at a time, so that never all logits stand in memory.

    Args:
        hidden: ``[B, T, D]``, after the last norm.
        head: ``[vocabulary, D]``.
        ids: ``[B, T]``.
    """
    hidden, targets = hidden[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    total = hidden.new_zeros((), dtype=torch.float32)
    for part, target in zip(hidden.split(LOSS_CHUNK), targets.split(LOSS_CHUNK), strict=True):
        total = total + checkpoint(_summed_loss, part, head, target, use_reentrant=False)
    return total / targets.numel()


def _summed_loss(hidden: Tensor, head: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, head).float(), target, reduction="sum")


def _tokens_per_image(profiled: Profiled, size: int) -> int:
    rows, columns = grid_of(profiled.config, size)
    return rows * columns // profiled.config.vision_config.spatial_merge_size**2
