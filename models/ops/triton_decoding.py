"""Triton kernels of a decode step: one token of one sequence through a layer in a handful of launches.

Each is called, documented and given its definition in plain torch by the module that is named in its docstring. This
file imports Triton at its top, so it is imported by those functions when they run a kernel, and by nothing else.
"""

import triton
import triton.language as tl


@triton.jit
def rotate_and_store(
    projected, cos, sin, seen, query, keys, values, S,
    H: tl.constexpr, G: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """`decode_attention`: turn q and k by their angles, put k and v into the next slot; grid (B, H + 2 G)."""
    b, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channels = tl.arange(0, K)
    source = projected + (b * (H + 2 * G) + part) * K
    x = tl.load(source + channels)
    if part < H + G:
        # The halves of a head change places, the first with its sign turned.
        other = tl.load(source + (channels + K // 2) % K).to(tl.float32)
        turned = tl.where(channels < K // 2, -other, other)
        c, s = tl.load(cos + b * K + channels).to(tl.float32), tl.load(sin + b * K + channels).to(tl.float32)
        x = (x.to(tl.float32) * c + turned * s).to(x.dtype)
    slot = tl.load(seen) % S
    if part < H:
        tl.store(query + (b * H + part) * K + channels, x)
    elif part < H + G:
        tl.store(keys + ((b * G + part - H) * S + slot) * K + channels, x)
    else:
        tl.store(values + ((b * G + part - H - G) * S + slot) * K + channels, x)


@triton.jit
def fold(q, k, v, allowed, scale, largest, total, o):
    """One block of keys into a running softmax of powers of two: ``scale`` holds the logarithm of e."""
    scores = tl.where(allowed, tl.dot(q, tl.trans(k), input_precision="ieee") * scale, -1e30)
    new_largest = tl.maximum(largest, tl.max(scores, 1))
    # Whoever has seen nothing yet has a largest score of −1e30; what it sums up then is worth nothing when merged.
    p = tl.exp2(scores - new_largest[:, None])
    shrink = tl.exp2(largest - new_largest)
    return (
        new_largest,
        total * shrink + tl.sum(p, 1),
        o * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee"),
    )


@triton.jit
def attend_piece(
    query, keys, values, seen, partial, weight, scale, S, pieces,
    G: tl.constexpr, HEADS: tl.constexpr, HEADS_PADDED: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`decode_attention`: softmax over one piece of the used slots, for the heads of a group; grid (B · G, pieces)."""
    group, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    heads, channels = tl.arange(0, HEADS_PADDED), tl.arange(0, K)
    row = group * HEADS + heads
    real = heads < HEADS
    q = tl.load(query + row[:, None] * K + channels[None, :], mask=real[:, None], other=0.0)
    used = tl.minimum(tl.load(seen).to(tl.int32) + 1, S)
    per_piece = tl.cdiv(tl.cdiv(used, pieces), BLOCK) * BLOCK
    begin = piece * per_piece
    end = tl.minimum(begin + per_piece, used)
    largest = tl.full([HEADS_PADDED], -1e30, tl.float32)
    total = tl.zeros([HEADS_PADDED], tl.float32)
    o = tl.zeros([HEADS_PADDED, K], tl.float32)
    for start in range(begin, end, BLOCK):
        slot = start + tl.arange(0, BLOCK)
        inside = slot < end
        at = (group * S + slot[:, None]) * K + channels[None, :]
        k = tl.load(keys + at, mask=inside[:, None], other=0.0)
        v = tl.load(values + at, mask=inside[:, None], other=0.0)
        largest, total, o = fold(q, k, v, inside[None, :] & real[:, None], scale, largest, total, o)
    place = row * pieces + piece
    tl.store(partial + place[:, None] * K + channels[None, :], o, mask=real[:, None])
    tl.store(weight + place * 2, largest, mask=real)
    tl.store(weight + place * 2 + 1, total, mask=real)


@triton.jit
def attend_chunk_piece(
    query, key, value, keys, values, seen, partial, weight, scale, T, S, pieces,
    G: tl.constexpr, H: tl.constexpr, K: tl.constexpr, WINDOW: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`chunk_attention`: softmax of some queries over a piece of the used slots, or, in the last piece, over the new
    tokens; grid (query blocks, B · H, pieces + 1)."""
    bh, piece = tl.program_id(1).to(tl.int64), tl.program_id(2)
    b, h = bh // H, bh % H
    group = b * G + h // (H // G)
    t, channels = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T), tl.arange(0, K)
    real = t < T
    q = tl.load(query + ((b * T + t[:, None]) * H + h) * K + channels[None, :], mask=real[:, None], other=0.0)
    n = tl.load(seen)
    largest = tl.full([BLOCK_T], -1e30, tl.float32)
    total = tl.zeros([BLOCK_T], tl.float32)
    o = tl.zeros([BLOCK_T, K], tl.float32)
    if piece < pieces:
        used = tl.minimum(n, S).to(tl.int32)
        per_piece = tl.cdiv(tl.cdiv(used, pieces), BLOCK) * BLOCK
        begin = piece * per_piece
        end = tl.minimum(begin + per_piece, used)
        # The newest token in a ring stands before slot n mod S; a slot behind that is older by a whole round.
        head = (n % S).to(tl.int32)
        group_keys, group_values = keys + group * S * K, values + group * S * K
        for start in range(begin, end, BLOCK):
            slot = start + tl.arange(0, BLOCK)
            inside = slot < end
            at = slot[:, None] * K + channels[None, :]
            k = tl.load(group_keys + at, mask=inside[:, None], other=0.0)
            v = tl.load(group_values + at, mask=inside[:, None], other=0.0)
            if WINDOW > 0:
                age = head - 1 - slot
                age = tl.where(age < 0, age + S, age)
                allowed = inside[None, :] & (t[:, None] + 1 + age[None, :] < WINDOW)
            else:
                allowed = inside[None, :] & real[:, None]
            largest, total, o = fold(q, k, v, allowed, scale, largest, total, o)
    else:
        for start in range(0, tl.minimum(T, (tl.program_id(0) + 1) * BLOCK_T), BLOCK):
            j = start + tl.arange(0, BLOCK)
            at = ((b * T + j[:, None]) * G + h // (H // G)) * K + channels[None, :]
            k = tl.load(key + at, mask=(j < T)[:, None], other=0.0)
            v = tl.load(value + at, mask=(j < T)[:, None], other=0.0)
            allowed = (j[None, :] <= t[:, None]) & real[:, None]
            if WINDOW > 0:
                allowed = allowed & (t[:, None] - j[None, :] < WINDOW)
            largest, total, o = fold(q, k, v, allowed, scale, largest, total, o)
    place = (bh * T + t) * (pieces + 1) + piece
    tl.store(partial + place[:, None] * K + channels[None, :], o, mask=real[:, None])
    tl.store(weight + place * 2, largest, mask=real)
    tl.store(weight + place * 2 + 1, total, mask=real)


@triton.jit
def merge_pieces(partial, weight, output, T, pieces, H: tl.constexpr, K: tl.constexpr, PIECES_PADDED: tl.constexpr):
    """The pieces of one head and token together, into ``[B, T, H, K]``; grid (B · H · T)."""
    row = tl.program_id(0).to(tl.int64)
    piece, channels = tl.arange(0, PIECES_PADDED), tl.arange(0, K)
    there = piece < pieces
    largest = tl.load(weight + (row * pieces + piece) * 2, mask=there, other=-1e30)
    total = tl.load(weight + (row * pieces + piece) * 2 + 1, mask=there, other=0.0)
    # The weight of a piece in which nothing was seen comes out as zero.
    share = tl.exp2(largest - tl.max(largest, 0))
    at = (row * pieces + piece[:, None]) * K + channels[None, :]
    o = tl.load(partial + at, mask=there[:, None], other=0.0)
    o = tl.sum(o * share[:, None], 0) / tl.sum(total * share, 0)
    bh, t = row // T, row % T
    tl.store(output + (((bh // H) * T + t) * H + bh % H) * K + channels, o)


@triton.jit
def matrix_vector(
    x, matrix, output, norm, bias, residual, conv_state, filters, N, convolved, eps,
    COLUMNS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, NORM: tl.constexpr,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, SWIGLU: tl.constexpr, CONV: tl.constexpr, CONV_PADDED: tl.constexpr,
):  # fmt: skip
    """`matrix_vector`: rows of the matrix times the vector, with what is around it; grid (row blocks)."""
    rows = (tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
    inside = rows < N
    columns = tl.arange(0, BLOCK_COLUMNS)
    products = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    up_products = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    squares = tl.zeros([BLOCK_COLUMNS], tl.float32)
    for start in range(0, COLUMNS, BLOCK_COLUMNS):
        column = start + columns
        there = column < COLUMNS
        value = tl.load(x + column, mask=there, other=0.0).to(tl.float32)
        if NORM:
            squares += value * value
            value = value * tl.load(norm + column, mask=there, other=0.0).to(tl.float32)
        at = rows[:, None] * COLUMNS + column[None, :]
        mask = inside[:, None] & there[None, :]
        w = tl.load(matrix + at, mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)
        products += w * value[None, :]
        if SWIGLU:
            up = tl.load(
                matrix + N.to(tl.int64) * COLUMNS + at, mask=mask, other=0.0, eviction_policy="evict_first"
            )  # fmt: skip
            up_products += up.to(tl.float32) * value[None, :]
    y = tl.sum(products, 1)
    up_y = tl.sum(up_products, 1)
    if NORM:
        scale = tl.rsqrt(tl.sum(squares, 0) / COLUMNS + eps)
        y = y * scale
        up_y = up_y * scale
    if BIAS:
        y += tl.load(bias + rows, mask=inside, other=0.0).to(tl.float32)
    if SWIGLU:
        y = y * tl.sigmoid(y) * up_y
    if CONV > 0:
        # The first rows are channels of short convolutions: each program owns the past of its channels.
        channel = inside & (rows < convolved)
        tap = tl.arange(0, CONV_PADDED)
        past_at = rows[:, None] * (CONV - 1) + tap[None, :]
        there = channel[:, None] & (tap < CONV - 1)[None, :]
        past = tl.load(conv_state + past_at, mask=there, other=0.0)
        weight = tl.load(filters + rows[:, None] * CONV + tap[None, :], mask=there, other=0.0)
        newest = tl.load(filters + rows * CONV + CONV - 1, mask=channel, other=0.0).to(tl.float32)
        new = y.to(output.dtype.element_ty)
        mixed = tl.sum(past.to(tl.float32) * weight.to(tl.float32), 1) + new.to(tl.float32) * newest
        # Several threads hold the same value: all have to have read the past before one of them overwrites it.
        tl.debug_barrier()
        tl.store(conv_state + past_at - 1, past, mask=there & (tap > 0)[None, :])
        tl.store(conv_state + rows * (CONV - 1) + CONV - 2, new, mask=channel)
        y = tl.where(channel, mixed * tl.sigmoid(mixed), y)
    if RESIDUAL:
        y += tl.load(residual + rows, mask=inside, other=0.0).to(tl.float32)
    tl.store(output + rows, y, mask=inside)


@triton.jit
def delta_rule_step(
    projected, A_log, dt_bias, state, output,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """`delta_step`: one step for a block of one head's value channels; grid (H, V / BLOCK_V)."""
    h, block = tl.program_id(0), tl.program_id(1)
    keys, values = tl.arange(0, K), block * BLOCK_V + tl.arange(0, BLOCK_V)
    q = tl.load(projected + h * K + keys).to(tl.float32)
    k = tl.load(projected + H * K + h * K + keys).to(tl.float32)
    v = tl.load(projected + 2 * H * K + h * V + values).to(tl.float32)
    scalars = 2 * H * K + 2 * H * V
    a = tl.load(projected + scalars + h).to(tl.float32) + tl.load(dt_bias + h).to(tl.float32)
    b = tl.load(projected + scalars + H + h).to(tl.float32)
    q = q * tl.rsqrt(tl.sum(q * q, 0) + 1e-6) * (K**-0.5)
    k = k * tl.rsqrt(tl.sum(k * k, 0) + 1e-6)
    # softplus, linear where its exponential would not fit.
    rate = tl.where(a > 20.0, a, tl.log(1.0 + tl.exp(tl.minimum(a, 20.0))))
    decay = tl.exp(-tl.exp(tl.load(A_log + h).to(tl.float32)) * rate)
    at = state + h * K * V + keys[:, None] * V + values[None, :]
    S = tl.load(at) * decay
    # A state smaller than the program is held more than once: read by all before it is written.
    tl.debug_barrier()
    written = tl.sigmoid(b) * (v - tl.sum(S * k[:, None], 0))
    S += k[:, None] * written[None, :]
    tl.store(at, S)
    tl.store(output + h * V + values, tl.sum(S * q[:, None], 0))


@triton.jit
def delta_rule_inputs(
    projected, past, filters, A_log, dt_bias, query, key, value, log_decay, beta, T, WIDTH,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, CONV: tl.constexpr,
):  # fmt: skip
    """`delta_inputs`: convolve, normalise and gate one token of one head; grid (B · T, H)."""
    token, h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    b, t = token // T, token % T
    C: tl.constexpr = 2 * H * K + H * V
    keys, values = tl.arange(0, K), tl.arange(0, V)
    q_channel, k_channel, v_channel = h * K + keys, H * K + h * K + keys, 2 * H * K + h * V + values
    q, k, v = tl.zeros([K], tl.float32), tl.zeros([K], tl.float32), tl.zeros([V], tl.float32)
    for i in tl.static_range(CONV):
        # Inputs before the first token are those that were kept of the past, oldest first.
        source = t - (CONV - 1) + i
        in_k, in_v = source + 0 * keys, source + 0 * values
        row = projected + (b * T + source) * WIDTH
        old = past + b * C * (CONV - 1) + source + CONV - 1
        for_q = tl.load(row + q_channel, mask=in_k >= 0, other=0.0)
        for_k = tl.load(row + k_channel, mask=in_k >= 0, other=0.0)
        for_v = tl.load(row + v_channel, mask=in_v >= 0, other=0.0)
        old_q = tl.load(old + q_channel * (CONV - 1), mask=in_k < 0, other=0.0)
        old_k = tl.load(old + k_channel * (CONV - 1), mask=in_k < 0, other=0.0)
        old_v = tl.load(old + v_channel * (CONV - 1), mask=in_v < 0, other=0.0)
        q += (for_q + old_q).to(tl.float32) * tl.load(filters + q_channel * CONV + i).to(tl.float32)
        k += (for_k + old_k).to(tl.float32) * tl.load(filters + k_channel * CONV + i).to(tl.float32)
        v += (for_v + old_v).to(tl.float32) * tl.load(filters + v_channel * CONV + i).to(tl.float32)
    q, k, v = q * tl.sigmoid(q), k * tl.sigmoid(k), v * tl.sigmoid(v)
    q = q * tl.rsqrt(tl.sum(q * q, 0) + 1e-6) * (K**-0.5)
    k = k * tl.rsqrt(tl.sum(k * k, 0) + 1e-6)
    at = token * H + h
    tl.store(query + at * K + keys, q)
    tl.store(key + at * K + keys, k)
    tl.store(value + at * V + values, v)
    scalars = projected + token * WIDTH + C + H * V
    a = tl.load(scalars + h).to(tl.float32) + tl.load(dt_bias + h).to(tl.float32)
    rate = tl.where(a > 20.0, a, tl.log(1.0 + tl.exp(tl.minimum(a, 20.0))))
    tl.store(log_decay + at, -tl.exp(tl.load(A_log + h).to(tl.float32)) * rate)
    tl.store(beta + at, tl.sigmoid(tl.load(scalars + H + h).to(tl.float32)))
