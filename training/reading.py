"""A vision tower with linear heads that name what stands in each cell, and its loss: the model of `vision_tower`."""

import json
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.glyphs import CLASSES, NOTHING
from ..records import package_path

TOWER: dict[str, Any] = {
    "depth": 6, "hidden_size": 160, "intermediate_size": 480, "num_heads": 5, "patch_size": 14, "spatial_merge_size": 2,
    "temporal_patch_size": 2, "tokens_per_second": 2, "window_size": 112, "out_hidden_size": 128,
    "fullatt_block_indexes": [1, 3, 5],
}  # fmt: skip


def new_tower() -> Any:
    """A tower of the shipped geometry with random weights."""
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

    # At this width the usual deviation of 0.02 would start every block near zero.
    return Qwen2_5_VisionTransformerPretrainedModel(Qwen2_5_VLVisionConfig(**TOWER, initializer_range=0.05))


@cache
def _pixel_statistics() -> tuple[list[float], list[float]]:
    path = package_path("models", "assets", "tokenizer", "preprocessor_config.json")
    settings = json.loads(path.read_text(encoding="utf-8"))
    return settings["image_mean"], settings["image_std"]


def patches_of(pictures: Tensor) -> Tensor:
    """Cut pictures in grey levels into patches ``[B, P, 1176]``, as the processor does.

    Args:
        pictures: ``[B, height, width, 3]``, or the two frames of a moment of a video, ``[B, 2, height, width, 3]``.
    """
    *_, height, width, _ = pictures.shape
    side, merge, frames = TOWER["patch_size"], TOWER["spatial_merge_size"], TOWER["temporal_patch_size"]
    if pictures.ndim == 4:
        pictures = pictures.unsqueeze(1).expand(-1, frames, -1, -1, -1)
    mean, deviation = (pictures.new_tensor(values, dtype=torch.float32) for values in _pixel_statistics())
    pixels = (pictures.float() / 255 - mean) / deviation
    rows, columns = height // (side * merge), width // (side * merge)
    pixels = pixels.view(-1, frames, rows, merge, side, columns, merge, side, 3)
    return pixels.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(len(pixels), rows * columns * merge**2, -1)


class _Frame(NamedTuple):
    """Rotary factors ``[P, K]`` of the patches of a picture, and which pairs ``[P, P]`` share a window."""

    cosine: Tensor
    sine: Tensor
    windows: Tensor


@cache
def _frame(height: int, width: int, device: torch.device) -> _Frame:
    rows, columns = height // TOWER["patch_size"], width // TOWER["patch_size"]
    merge, head = TOWER["spatial_merge_size"], TOWER["hidden_size"] // TOWER["num_heads"]
    grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1)
    places = grid.view(rows // merge, merge, columns // merge, merge, 2).transpose(1, 2).reshape(-1, 2)
    frequencies = 10000.0 ** (-torch.arange(0, head // 2, 2) / (head // 2))
    angles = (places[:, :, None] * frequencies).flatten(1).repeat(1, 2)
    window = places // (TOWER["window_size"] // TOWER["patch_size"])
    together = (window[:, None] == window[None]).all(dim=-1)
    return _Frame(angles.cos().to(device), angles.sin().to(device), together.to(device))


def batched_features(tower: Any, pictures: Tensor) -> Tensor:
    """The tower's features ``[B, cells, D]`` of pictures of one size, as `patches_of` takes them.

    The same function as the tower's own forward, which attends to one window after another: in training that would be
    thousands of small kernels a step.
    """
    B, *_, height, width, _ = pictures.shape
    frame = _frame(height, width, pictures.device)
    projection = tower.patch_embed.proj.weight
    hidden = F.linear(patches_of(pictures), projection.flatten(1))
    for number, block in enumerate(tower.blocks):
        mask = None if number in TOWER["fullatt_block_indexes"] else frame.windows
        hidden = hidden + _attend(block.attn, block.norm1(hidden), frame, mask)
        hidden = hidden + block.mlp(block.norm2(hidden))
    return tower.merger(hidden).view(B, -1, TOWER["out_hidden_size"])


def _attend(attention: Any, hidden: Tensor, frame: _Frame, mask: Tensor | None) -> Tensor:
    B, P, _ = hidden.shape
    query, key, value = attention.qkv(hidden).view(B, P, 3, TOWER["num_heads"], -1).permute(2, 0, 3, 1, 4).unbind(0)

    def turned(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return (x * frame.cosine + torch.cat((-second, first), dim=-1) * frame.sine).to(value.dtype)

    mixed = F.scaled_dot_product_attention(turned(query), turned(key), value, attn_mask=mask)
    return attention.proj(mixed.transpose(1, 2).reshape(B, P, -1))


class Reader(nn.Module):
    """The tower with its linear heads; ``forward`` gives features ``[B, cells, D]`` and logits, one per column."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = new_tower()
        self.heads = nn.Linear(TOWER["out_hidden_size"], sum(CLASSES))

    def forward(self, pictures: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See pictures ``[B, height, width, 3]`` of one size."""
        features = batched_features(self.tower, pictures).float()
        return features, self.name(features)

    def name(self, features: Tensor) -> tuple[Tensor, ...]:
        """Logits ``[…, classes]`` of each column from features ``[…, D]``."""
        return self.heads(F.rms_norm(features, features.shape[-1:])).float().split(CLASSES, dim=-1)


def reading_loss(features: Tensor, logits: tuple[Tensor, ...], targets: Tensor) -> Tensor:
    """Cross-entropy summed over the columns, and a weak pull of the features to a mean of 0 and an RMS of 1."""
    parts = []
    for column, scores in enumerate(logits):
        wanted = targets[..., column].flatten()
        total = F.cross_entropy(scores.flatten(0, -2), wanted, ignore_index=NOTHING, reduction="sum")
        parts.append(total / (wanted != NOTHING).sum().clamp(min=1))
    scale = (features.square().mean(dim=-1) - 1).square().mean() + features.mean(dim=(0, 1)).square().mean()
    return torch.stack(parts).sum() + 0.05 * scale
