"""Qwen2.5-VL's vision tower on the fast path, for pictures of one size: the frames of a stream.

What depends on the size alone (the order of windows, positions, which patches attend to each other) is laid out once.
All windows of one size attend in one batched call instead of one call a window; the patch embedding is a matrix
product, which a convolution whose stride is its kernel is; q, k, v and gate, up are one product each; and the FFN's
width is padded with zeros to a multiple of 8, without which its products run at a third of their speed.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from .merge import merged
from .pointwise import add_rms_norm, fused, rms_norm, rotated_wide, swiglu

MULTIPLE = 8
"""Tensor cores want dimensions that are a multiple of this."""


class FastVisionTower:
    """The tower, for pictures with one grid of patches.

    Args:
        visual: the model's vision tower, on its device; its weights are shared but for the padded FFNs.
        grid: patches of a picture, rows and columns; both must be multiples of the tower's merge size.

    Raises:
        UserError: for a grid that does not divide.
    """

    def __init__(self, visual: Any, grid: tuple[int, int]) -> None:
        merge = visual.spatial_merge_size
        if grid[0] % merge or grid[1] % merge or min(grid) < merge:
            raise UserError(
                f"a picture of {grid[0]} × {grid[1]} patches does not divide into blocks of {merge} × {merge}; give "
                f"its sides in multiples of {merge * visual.patch_size} pixels"
            )
        self.visual = visual
        self.merge_unit = merge * merge
        device = visual.patch_embed.proj.weight.device
        self.patches = grid[0] * grid[1]
        rows, columns = _patch_positions(grid, merge)
        window_of = _windows(grid, merge, visual.window_size // visual.patch_size // merge)
        self.order = torch.argsort(window_of, stable=True).to(device)
        self.back = torch.argsort(self.order)
        positions = torch.stack([rows, columns]).view(2, -1, self.merge_unit)[:, self.order.cpu()].flatten(1)
        cos, sin = _angles(visual, positions.to(device))
        self.cos, self.sin = cos[None], sin[None]
        self.windows = _windows_by_size(window_of[self.order.cpu()], self.merge_unit, device)
        self.patch_weight = visual.patch_embed.proj.weight.flatten(1)
        self.blocks = [_Block(block) for block in visual.blocks]

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Patches of N pictures ``[N, patches, channels · 2 · 14 · 14]`` → visual tokens ``[N, patches / 4, D]``."""
        N = pixels.shape[0]
        x = F.linear(pixels.to(self.patch_weight.dtype), self.patch_weight)
        x = x.unflatten(1, (-1, self.merge_unit)).index_select(1, self.order).flatten(1, 2)
        cos, sin = self.cos.expand(N, -1, -1), self.sin.expand(N, -1, -1)
        norms = [*(block.norm1 for block in self.blocks), self.visual.merger.ln_q.weight]
        normed = fused(rms_norm, x, norms[0], self.blocks[0].eps)
        for number, block in enumerate(self.blocks):
            windows = None if number in self.visual.fullatt_block_indexes else self.windows
            mixed = block.attend(normed, cos, sin, windows)
            x, normed = fused(add_rms_norm, x, mixed, block.norm2, block.eps)
            added = block.feed_forward(normed)
            following = (
                self.blocks[number + 1].norm1 if number + 1 < len(self.blocks) else self.visual.merger.ln_q.weight
            )
            x, normed = fused(add_rms_norm, x, added, following, block.eps)
        tokens = self.visual.merger.mlp(normed.unflatten(1, (-1, self.merge_unit)).flatten(2))
        return tokens.index_select(1, self.back)


class _Block:
    """One block of the tower."""

    def __init__(self, block: Any) -> None:
        self.attention, self.mlp = block.attn, block.mlp
        self.norm1, self.norm2, self.eps = block.norm1.weight, block.norm2.weight, block.norm1.variance_epsilon
        self.heads = block.attn.num_heads
        gate, up, down = block.mlp.gate_proj, block.mlp.up_proj, block.mlp.down_proj
        padding = -gate.out_features % MULTIPLE
        if padding:
            rows = [F.pad(x.weight.detach(), (0, 0, 0, padding)) for x in (gate, up)]
            self.gate_and_up = torch.cat(rows)
            self.gate_and_up_bias = torch.cat([F.pad(x.bias.detach(), (0, padding)) for x in (gate, up)])
            self.down = F.pad(down.weight.detach(), (0, padding))
        else:
            self.gate_and_up = merged([gate.weight, up.weight])
            self.gate_and_up_bias = merged([gate.bias, up.bias])
            self.down = down.weight

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor, windows: list[tuple[Tensor, int]] | None) -> Tensor:
        """Attention ``[N, P, D]`` of all patches, or within windows."""
        N, P, D = x.shape
        q, k, v = self.attention.qkv(x).view(N, P, 3, self.heads, -1).unbind(2)
        q, k = fused(rotated_wide, q, cos, sin), fused(rotated_wide, k, cos, sin)
        if windows is None:
            o = _attention(q, k, v)
        elif len(windows) == 1:
            size = windows[0][1]
            o = _attention(*(y.reshape(-1, size, *y.shape[2:]) for y in (q, k, v))).view(N, P, self.heads, -1)
        else:
            o = torch.empty_like(q)
            for place, size in windows:
                parts = (y.index_select(1, place).reshape(-1, size, *y.shape[2:]) for y in (q, k, v))
                o.index_copy_(1, place, _attention(*parts).view(N, -1, *q.shape[2:]))
        return self.attention.proj(o.reshape(N, P, D))

    def feed_forward(self, x: Tensor) -> Tensor:
        """SwiGLU with biases."""
        return F.linear(
            fused(swiglu, F.linear(x, self.gate_and_up, self.gate_and_up_bias)), self.down, self.mlp.down_proj.bias
        )


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Of everything to everything, ``[N, P, H, K]``."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _patch_positions(grid: tuple[int, int], merge: int) -> tuple[Tensor, Tensor]:
    """Row and column of every patch, in the order of patches: block by block of merged ones."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    shape = (grid[0] // merge, merge, grid[1] // merge, merge)
    rows, columns = (x.reshape(shape).transpose(1, 2).flatten() for x in (rows, columns))
    return rows, columns


def _windows(grid: tuple[int, int], merge: int, side: int) -> Tensor:
    """The window that each merged block of patches is in, windows numbered row by row."""
    rows, columns = torch.meshgrid(
        torch.arange(grid[0] // merge) // side, torch.arange(grid[1] // merge) // side, indexing="ij"
    )
    return (rows * (int(columns.max()) + 1) + columns).flatten()


def _windows_by_size(window_of: Tensor, unit: int, device: torch.device) -> list[tuple[Tensor, int]]:
    """For each size of window, the places of its patches (in the order of windows), and the size in patches."""
    sizes = torch.bincount(window_of)
    size_of_block = sizes[window_of]
    found = []
    for size in sorted(set(sizes.tolist())):
        blocks = torch.nonzero(size_of_block == size).flatten()
        places = (blocks[:, None] * unit + torch.arange(unit)).flatten()
        found.append((places.to(device), size * unit))
    return found


def _angles(visual: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine ``[P, K]`` of the rotary angles at rows and columns ``[2, P]``, in float32."""
    frequency = visual.rotary_pos_emb.inv_freq.to(device=positions.device, dtype=torch.float32)
    angle = (positions.T[:, :, None].float() * frequency).flatten(1)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()
