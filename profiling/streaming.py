"""Frames per second of a stream against the frames already watched: claim C5, figure 4 (right).

What bounds it. A frame of 448 × 448 pixels is 1.34 T operations in the vision tower, and 256 tokens in the decoder: two
operations a weight and token, and attention to what is remembered, which is fixed for the hybrid and grows with the
stream for the Transformer. Two passes bound by the matrix rate, one after the other.

The hybrid watches every frame, so the window is really full and its states are really carried. A model that keeps every
token is set to a length by counting: what its keys and values hold does not change how long they take to read.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..errors import UserError
from ..models.config import HybridVLConfig
from ..models.processor import load_processor
from ..models.streaming import BEFORE, StreamingSession
from ..records import Record
from .checks import check_stream
from .decode import ensure_checked
from .eager import EagerDecoder
from .floors import Work
from .models import Profiled, config_of
from .request import Request
from .session import OUT_OF_MEMORY, Cell, DoesNotFitError, Session, protocols_of
from .timing import Samples, time_steps

FRAMES = {"cuda": (5, 10, 20, 50, 100, 200, 290, 400, 600, 800, 1000), "cpu": (1, 5, 10, 20, 50)}
QUICK_FRAMES = {"cuda": (5, 10, 50, 290, 800), "cpu": (1, 10)}
FRAME_SIZE = {"cuda": 448, "cpu": 112}
TIMED_FRAMES = {"graph": 8, "eager": 5}
HEADLINE_FRAMES = 800


def stream_cells(request: Request, models: Mapping[str, list[str]], device: str) -> list[Cell]:
    """One curve of every model on every path.

    Raises:
        UserError: for several sequences, or a frame that a model's patches do not divide; before a model is made.
    """
    if request.batch != 1:
        raise UserError(f"a stream is one sequence, not {request.batch}; leave --batch out")
    frames = request.frames or (QUICK_FRAMES if request.quick else FRAMES)[device]
    size = FRAME_SIZE[device] if request.frame_size is None else request.frame_size
    for reference in models:
        config = config_of(reference)
        if config is not None:
            grid_of(config, size)
    return [
        Cell("stream", model, path, {"frames": list(frames), "frame_size": size})
        for model, paths in models.items()
        for path in paths
    ]


def grid_of(config: HybridVLConfig, size: int) -> tuple[int, int]:
    """Rows and columns of patches of a square frame.

    Raises:
        UserError: if the size does not divide into merged patches; it names those that do.
    """
    vision = config.vision_config
    side = vision.patch_size * vision.spatial_merge_size
    if size < side or size % side:
        near = max(1, size // side) * side
        raise UserError(f"a frame of {size} pixels does not divide by {side}; use --frame-size {near} or {near + side}")
    return size // vision.patch_size, size // vision.patch_size


def measure_stream(session: Session, cell: Cell) -> list[Record]:
    """One curve; a point that memory does not hold ends it, recorded as out of memory."""
    profiled = session.model(cell.model)
    ensure_checked(session, profiled, cell)
    size, points = int(cell.arguments["frame_size"]), sorted(int(point) for point in cell.arguments["frames"])
    grid = grid_of(profiled.config, size)
    vision = profiled.config.vision_config
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(grid[0] * grid[1], width, generator=generator).to(session.device, session.dtype)
    tokens = grid[0] * grid[1] // vision.spatial_merge_size**2
    steps = TIMED_FRAMES[cell.path]
    found: list[Record] = []
    try:
        session.require(profiled.work.cache_bytes((points[-1] + 2 * steps) * tokens))
        watch = _graphed if cell.path == "graph" else _eager
        run = watch(session, profiled, cell, patches, grid, points[-1] + 2 * steps)
        for point in points:
            samples = run(point, steps)
            found += _records(session, profiled, cell, size, tokens, point, samples)
    except (DoesNotFitError, torch.OutOfMemoryError) as reason:
        ended = next(point for point in points if not any(record.frames == point for record in found))
        found += [
            session.record(
                profiled, cell, "fig4_streaming", "streaming_fps", 0.0, "frames/s", protocol=protocol, frames=ended,
                status=OUT_OF_MEMORY, reason=str(reason).splitlines()[0],
            )
            for protocol in protocols_of(cell.path, profiled.full_attention)
        ]  # fmt: skip
    session.free_memory()
    return found


Watch = Callable[[int, int], Samples]


def _graphed(
    session: Session, profiled: Profiled, cell: Cell, patches: Tensor, grid: tuple[int, int], most: int
) -> Watch:
    processor = load_processor()
    tokens = grid[0] * grid[1] // profiled.config.vision_config.spatial_merge_size**2
    first = processor.tokenizer(BEFORE, return_tensors="pt", add_special_tokens=False)["input_ids"].to(session.device)
    room = first.shape[1] + (most + 8) * tokens
    checked = session.checked[cell.model]
    if not any(name.startswith("check_stream") for name in checked):
        trial = StreamingSession(profiled.model, processor, max_length=first.shape[1] + 8 * tokens)
        checked |= check_stream(profiled, trial, patches, grid, first)
    stream = StreamingSession(profiled.model, processor, max_length=room)
    stream.push_patches(patches, grid)

    def watch(point: int, steps: int) -> Samples:
        if profiled.full_attention:
            stream.decoder.set_length(first.shape[1] + point * tokens)
            stream.frames = point
        while stream.frames < point:
            stream.push_patches(patches, grid)
        return time_steps(lambda: stream.push_patches(patches, grid), session.device, steps, warmups=1)

    return watch


def _eager(
    session: Session, profiled: Profiled, cell: Cell, patches: Tensor, grid: tuple[int, int], most: int
) -> Watch:
    tokens = grid[0] * grid[1] // profiled.config.vision_config.spatial_merge_size**2
    eager = EagerDecoder(profiled)

    def watch(point: int, steps: int) -> Samples:
        eager.start_at(point * tokens)
        return time_steps(lambda: eager.push_patches(patches, grid), session.device, steps, warmups=2)

    return watch


def _records(
    session: Session, profiled: Profiled, cell: Cell, size: int, tokens: int, point: int, samples: Samples
) -> list[Record]:
    tower, layers = profiled.work.vision(size, size), profiled.work.prefill(tokens, point * tokens)
    floor = sum(work.floor_ms(session.ceilings) for work in (tower, layers))
    interval = samples.interval_ms
    rates = None if interval is None else (1000 / interval[1], 1000 / interval[0])
    artifacts = ["fig4_streaming", *(["fig1"] if point == HEADLINE_FRAMES else [])]
    return [
        session.record(
            profiled, cell, artifact, "streaming_fps", 1000 / samples.median_ms, "frames/s", protocol=protocol,
            samples=samples, frames=point, interval=rates, frame_size=size, tokens_per_frame=tokens,
            floor_ms=floor, ratio_to_floor=samples.median_ms / floor, flops=(tower + layers).flops,
            mfu=Work(0, (tower + layers).flops).mfu(samples.median_ms, session.ceilings),
            past="counted" if profiled.full_attention or cell.path == "eager" else "run",
        )
        for artifact in artifacts
        for protocol in protocols_of(cell.path, profiled.full_attention)
    ]  # fmt: skip
