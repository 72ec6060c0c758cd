"""Triton kernels of what stands around a recurrence: short convolution, unit length, norm and gate of heads.

Each is called, documented and given its definition in plain torch by the module that is named in its docstring. All
read what they are given once and write their results once; arithmetic is in float32. This file imports Triton at its
top, so it is imported by those functions when they run a kernel, and by nothing else. Triton launches on the current
device, which need not be that of its arguments, so they launch within `torch.cuda.device_of`.
"""

import triton
import triton.language as tl


@triton.jit
def convolve(
    x, filters, places, dy, y, T, S, C,
    W: tl.constexpr, PACKED: tl.constexpr, ACTIVATION: tl.constexpr, GRADIENT: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """`short_convolution`: T outputs of S ≥ T inputs, or the gradient before SiLU; grid (T blocks, C blocks, B)."""
    t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    b = tl.program_id(2).to(tl.int64)
    if PACKED:
        place = tl.load(places + t, mask=t < T, other=0)
    z = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    for i in tl.static_range(W):
        source = t + (S - T) - (W - 1) + i
        there = (source >= 0) & (t < T)
        if PACKED:
            there = there & (place >= W - 1 - i)
        at = (b * S + source)[:, None] * C + c[None, :]
        tap = tl.load(x + at, mask=there[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)
        z += tap * tl.load(filters + c * W + i, mask=c < C, other=0.0).to(tl.float32)[None, :]
    at = (b * T + t)[:, None] * C + c[None, :]
    inside = (t < T)[:, None] & (c < C)[None, :]
    if ACTIVATION:
        sigmoid = tl.sigmoid(z)
        if GRADIENT:
            z = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32) * sigmoid * (1.0 + z * (1.0 - sigmoid))
        else:
            z = z * sigmoid
    tl.store(y + at, z, mask=inside)


@triton.jit
def convolve_backward(
    x, filters, places, dz, dx, partial, T, S, C,
    W: tl.constexpr, PACKED: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """`short_convolution`: from the gradient before SiLU to those of the inputs and, for each block of inputs, of the
    filters; grid (S blocks, C blocks, B)."""
    s = tl.program_id(0).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    b = tl.program_id(2).to(tl.int64)
    at = (b * S + s)[:, None] * C + c[None, :]
    inside = (s < S)[:, None] & (c < C)[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    row = (b * tl.num_programs(0) + tl.program_id(0)) * W
    gradient = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
    for i in tl.static_range(W):
        # The token that reads this input by tap i.
        t = s - (S - T) + (W - 1) - i
        there = (t >= 0) & (t < T) & (s < S)
        if PACKED:
            there = there & (tl.load(places + t, mask=there, other=0) >= W - 1 - i)
        at_t = (b * T + t)[:, None] * C + c[None, :]
        g = tl.load(dz + at_t, mask=there[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)
        gradient += g * tl.load(filters + c * W + i, mask=c < C, other=0.0).to(tl.float32)[None, :]
        tl.store(partial + (row + i) * C + c, tl.sum(g * value, 0), mask=c < C)
    tl.store(dx + at, gradient, mask=inside)


@triton.jit
def normalise(x, y, rows, scale, K: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """`unit_length` of rows of K channels; grid (row blocks)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    k = tl.arange(0, BLOCK_K)
    at = row[:, None] * K + k[None, :]
    inside = (row < rows)[:, None] & (k < K)[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(value * value, 1) + 1e-6) * scale
    tl.store(y + at, value * factor[:, None], mask=inside)


@triton.jit
def normalise_backward(x, dy, dx, rows, scale, K: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """`unit_length`, from the gradient of its result to that of what went in; grid (row blocks)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    k = tl.arange(0, BLOCK_K)
    at = row[:, None] * K + k[None, :]
    inside = (row < rows)[:, None] & (k < K)[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(value * value, 1) + 1e-6)
    along = tl.sum(value * g, 1) * factor * factor
    tl.store(dx + at, (g - value * along[:, None]) * (factor * scale)[:, None], mask=inside)


@triton.jit
def norm_and_gate(
    o, gate, weight, y, rows, eps,
    V: tl.constexpr, GATED: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """`head_norm` of rows of V channels; grid (row blocks)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    v = tl.arange(0, BLOCK_V)
    at = row[:, None] * V + v[None, :]
    inside = (row < rows)[:, None] & (v < V)[None, :]
    value = tl.load(o + at, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + v, mask=v < V, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(value * value, 1) / V + eps)
    result = value * factor[:, None] * w[None, :]
    if GATED:
        g = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
        result = result * g * tl.sigmoid(g)
    tl.store(y + at, result, mask=inside)


@triton.jit
def norm_and_gate_backward(
    o, gate, weight, dy, do, dgate, partial, rows, eps, blocks,
    V: tl.constexpr, GATED: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """`head_norm`, from the gradient of its result to those of what went in and, for each program, of the weight;
    ``blocks`` row blocks a program, grid (programs)."""
    v = tl.arange(0, BLOCK_V)
    w = tl.load(weight + v, mask=v < V, other=0.0).to(tl.float32)
    of_weight = tl.zeros([BLOCK_V], tl.float32)
    for block in range(blocks):
        row = (tl.program_id(0).to(tl.int64) * blocks + block) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        at = row[:, None] * V + v[None, :]
        inside = (row < rows)[:, None] & (v < V)[None, :]
        value = tl.load(o + at, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        factor = tl.rsqrt(tl.sum(value * value, 1) / V + eps)
        normed = value * factor[:, None]
        if GATED:
            x = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
            sigmoid = tl.sigmoid(x)
            of_gate = g * normed * w[None, :] * sigmoid * (1.0 + x * (1.0 - sigmoid))
            tl.store(dgate + at, of_gate, mask=inside)
            g = g * x * sigmoid
        of_weight += tl.sum(g * normed, 0)
        g = g * w[None, :]
        along = tl.sum(g * normed, 1) / V
        tl.store(do + at, (g - normed * along[:, None]) * factor[:, None], mask=inside)
    tl.store(partial + tl.program_id(0) * V + v, of_weight, mask=v < V)
