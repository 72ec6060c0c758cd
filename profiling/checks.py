"""What must hold of a model before a speed of it is recorded, in the same run.

    a decoder that replays graphs gives the logits of the model's own forward pass
    after hundreds of replays, every slot of a full window is attended to, and no slot that holds nothing
    a stream of frames leaves the states, keys and values that one pass over the same frames leaves

The second is tested by writing huge values into one slot at a time: where it is read, the logits change.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..models.fast.slots import KeyValueSlots, StateSlots
from ..models.graph import GraphedDecoder
from ..models.streaming import StreamingSession
from .eager import EagerDecoder
from .models import Profiled

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 1e-2}
"""Relative RMS difference of two right ways to compute the same, through all layers, by type."""

NOISE_FACTOR = 2
"""In 16 bit both are compared with the model in float32, and the fast path may be this many times as far from it as the
model's own forward pass in 16 bit is."""

CHECKED_TOKENS, CHECKED_STEPS = 96, 8
CHECK_CHUNK = 32
POISONED_SLOTS = 5
POISON, NOTICED = 1e4, 1e-2
"""A value written into a slot, and the least relative change of the logits by it; a window's share of it is still 1."""

REPLAYS = 200
"""Steps that a graph is replayed before its window is tested."""


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Root mean square of a − b over that of b."""
    return float((a.float() - b.float()).norm() / b.float().norm().clamp(min=1e-12))


def check_decoder(profiled: Profiled, use_graph: bool) -> dict[str, float]:
    """Compare the replayed decoder with the model, and test its window.

    Returns:
        Differences of the logits after a prefill, and after the last of some steps, for a record.

    Raises:
        UserError: With exit code 1, if a figure of this model would stand on a wrong result.
    """
    vocabulary = min(1000, profiled.config.text_config.vocab_size)
    device = profiled.model.lm_head.weight.device
    total = CHECKED_TOKENS + CHECKED_STEPS
    ids = torch.randint(0, vocabulary, (1, total), generator=torch.Generator().manual_seed(0)).to(device)
    decoder = GraphedDecoder(profiled.model, max_length=4 * total, chunk=CHECK_CHUNK, use_graph=use_graph)
    eager = EagerDecoder(profiled)
    prefilled = decoder.prefill(ids[:, :CHECKED_TOKENS]).clone(), eager.prefill(ids[:, :CHECKED_TOKENS])
    for place in range(CHECKED_TOKENS, total):
        step = ids[:, place : place + 1]
        stepped = decoder.decode(step), eager.decode(step)
    found: dict[str, float] = {}
    bounds: dict[str, float] = {}
    exact = exact_logits(profiled, ids)
    for what, (fast, own), place in (("prefill", prefilled, CHECKED_TOKENS - 1), ("decode", stepped, total - 1)):
        truth, noise = (own, 0.0) if exact is None else (exact[:, place], relative_difference(own, exact[:, place]))
        found |= {f"check_{what}": relative_difference(fast, truth), f"check_{what}_own": noise}
        bounds[f"check_{what}"] = max(TOLERANCE[profiled.model.lm_head.weight.dtype], NOISE_FACTOR * noise)
    for what, bound in bounds.items():
        # A NaN compares false with everything, so the condition is that of being right.
        if not found[what] <= bound:
            raise UserError(
                f"no speed of {profiled.name} is recorded: its fast path differs from its forward pass by "
                f"{found[what]:.1e} ({what}, at most {bound:.0e}); run tests/models/test_graph.py and report it",
                1,
            )
    check_window(profiled, use_graph)
    return {name: float(f"{value:.3g}") for name, value in found.items()}


@torch.no_grad()
def exact_logits(profiled: Profiled, ids: Tensor) -> Tensor | None:
    """Logits ``[B, T, vocabulary]`` of the model in float32, by a copy that is thrown away; None if it is no less."""
    exact = _in_float32(profiled.model)
    return None if exact is None else exact(input_ids=ids, use_cache=False).logits


def _in_float32(model: Any) -> Any:
    """A copy of the model in float32; None if it is no less itself."""
    return copy.deepcopy(model).float() if model.lm_head.weight.dtype in (torch.bfloat16, torch.float16) else None


def check_window(profiled: Profiled, use_graph: bool) -> None:
    """Poison single slots after hundreds of replays, and look for the poison in the logits.

    Raises:
        UserError: With exit code 1, if a slot that should be attended to is not, or one that should not is.
    """
    text = profiled.config.text_config
    window = text.sliding_window or 0
    start = 3 * window + 17
    room = start + REPLAYS + 64
    decoder = GraphedDecoder(profiled.model, max_length=room, use_graph=use_graph)
    decoder.set_length(start)
    token = torch.zeros(1, 1, dtype=torch.long, device=profiled.model.lm_head.weight.device)
    for _ in range(REPLAYS if use_graph and token.device.type == "cuda" else CHECKED_STEPS):
        decoder.decode(token)
    for index, slots in enumerate(decoder.cache.layers):
        if not isinstance(slots, KeyValueSlots) or index > text.layer_types.index(text.layer_types[index]):
            # One layer of each kind tells.
            continue
        seen = decoder.cache.length
        size = slots.values.shape[2]
        spread = [int(place) for place in torch.linspace(1, min(size, seen) - 1, POISONED_SLOTS).tolist()]
        attended = {(seen + place) % size for place in spread} if slots.window else set(spread)
        for slot in sorted(attended):
            _expect(profiled, decoder, slots, slot, token, reached=True)
        if slots.window is None:
            _expect(profiled, decoder, slots, size - 1, token, reached=False)


def _expect(
    profiled: Profiled, decoder: GraphedDecoder, slots: KeyValueSlots, slot: int, token: Tensor, *, reached: bool
) -> None:
    undo = _one_step_back(decoder)
    plain = decoder.decode(token).clone()
    undo()
    value = slots.values[:, :, slot].clone()
    slots.values[:, :, slot] = POISON
    difference = relative_difference(decoder.decode(token), plain)
    slots.values[:, :, slot] = value
    undo()
    if (difference > NOTICED) != reached:
        raise UserError(
            f"no speed of {profiled.name} is recorded: after {decoder.cache.length} tokens its decoder "
            f"{'does not attend' if reached else 'attends'} to slot {slot} of {slots.values.shape[2]}; "
            "run tests/models/test_graph.py and report it",
            1,
        )


def _one_step_back(decoder: GraphedDecoder) -> Callable[[], None]:
    """Remember what one step will overwrite: states, and one slot a layer. A whole cache may be gigabytes."""
    seen = decoder.cache.length
    parts: list[Tensor] = []
    for layer in decoder.cache.layers:
        if isinstance(layer, KeyValueSlots):
            place = seen % layer.keys.shape[2]
            parts += [layer.keys[:, :, place], layer.values[:, :, place]]
        else:
            parts += [tensor for tensor in (layer.conv, layer.recurrent) if tensor is not None]
    before = [part.clone() for part in parts]

    def back() -> None:
        for part, value in zip(parts, before, strict=True):
            part.copy_(value)
        decoder.set_length(seen)

    return back


@torch.no_grad()
def check_stream(
    profiled: Profiled, session: StreamingSession, patches: Tensor, grid: tuple[int, int], first_ids: Tensor
) -> dict[str, float]:
    """Compare what three frames leave in the last layer of each kind with what one pass over them leaves.

    Args:
        profiled: The model.
        session: A fresh stream of it.
        patches: One frame, cut into patches.
        grid: Rows and columns of patches.
        first_ids: ``[1, T]``, the tokens before the first frame.

    Raises:
        UserError: With exit code 1, if they differ.
    """
    frames = 3
    varied = [patches * (1 + number / 4) for number in range(frames)]
    for frame in varied:
        session.push_patches(frame, grid)
    model, config = profiled.model, profiled.config
    tokens = grid[0] * grid[1] // config.vision_config.spatial_merge_size**2
    pictures = torch.full((1, frames * tokens), config.video_token_id, device=first_ids.device)
    ids = torch.cat([first_ids, pictures], dim=1)
    video = torch.cat(varied)
    own = _one_pass(model, ids, video, [frames, *grid])
    exact = _in_float32(model)
    truth = own if exact is None else _one_pass(exact, ids, video.float(), [frames, *grid])
    del exact
    found: dict[str, float] = {}
    for index in _last_of_each_kind(config.text_config.layer_types):
        slots = session.decoder.cache.layers[index]
        if isinstance(slots, StateSlots) and slots.recurrent is None:
            continue
        ours, expected = _remembered(slots, truth.layers[index], ids.shape[1])
        noise = relative_difference(_of_transformers(own.layers[index]), expected)
        difference = relative_difference(ours, expected)
        bound = max(TOLERANCE[model.lm_head.weight.dtype], NOISE_FACTOR * noise)
        if not difference <= bound:
            raise UserError(
                f"no speed of {profiled.name} is recorded: in layer {index} a stream leaves another state than one "
                f"pass, by {difference:.1e} (at most {bound:.0e}); run tests/models/test_streaming.py and report it",
                1,
            )
        found |= {f"check_stream_layer_{index}": difference, f"check_stream_layer_{index}_own": noise}
    return {name: float(f"{value:.3g}") for name, value in found.items()}


def _one_pass(model: Any, ids: Tensor, video: Tensor, grid: list[int]) -> Any:
    """transformers' cache after the model's own pass over a video of ``grid`` (frames, rows, columns)."""
    return model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=2 * (ids == model.config.video_token_id).long(),
        pixel_values_videos=video,
        video_grid_thw=torch.tensor([grid], device=ids.device),
        second_per_grid_ts=torch.tensor([1.0], device=ids.device),
        use_cache=True,
        logits_to_keep=1,
    ).past_key_values


def _last_of_each_kind(layer_types: Sequence[str]) -> list[int]:
    return sorted({layer_type: index for index, layer_type in enumerate(layer_types)}.values())


def _remembered(ours: KeyValueSlots | StateSlots, theirs: Any, tokens: int) -> tuple[Any, Tensor]:
    """The recurrent state of both, or the values of the tokens that transformers' cache still holds."""
    expected = _of_transformers(theirs)
    if isinstance(ours, StateSlots):
        return ours.recurrent, expected
    slots = torch.arange(tokens - expected.shape[2], tokens, device=ours.values.device) % ours.values.shape[2]
    return ours.values.index_select(2, slots), expected


def _of_transformers(layer: Any) -> Tensor:
    """What a layer of transformers' cache remembers: values ``[B, groups, T, K]``, or a state."""
    remembered = getattr(layer, "values", None)
    return remembered if isinstance(remembered, Tensor) else layer.recurrent_states[0]
