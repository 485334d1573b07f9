"""Device code of attention over a planned work list: resident tiles of the KV pool and the pass' own new tokens.

A program is one block of packed query tokens, one key head and one share ("split") of what that block sees. Query heads that share a key
head stand in the rows of one matrix. Soft-capped scores lie in [-cap, cap], so `exp` needs no maximum: programs write plain sums, and
splits merge by adding them in a fixed order. Resident tiles and own tokens have a loop each, because one loop with a branch is not
pipelined by the compiler. `worklist` makes the lists, `launch` calls these.

No literal may lie outside fp32's normal range: Triton 3.6 makes 1e-38, and then all it touches, fp64.
"""

import triton
import triton.language as tl


@triton.jit
def weigh(query, keys, slope, height):
    """exp(cap * tanh(score / cap)): `slope` is 2 log2(e) scale / cap, `height` log2(e) cap. One division, two powers of two, no maximum."""
    scores = tl.dot(query, tl.trans(keys), input_precision="ieee")
    return tl.exp2(height - 2.0 * height / (1.0 + tl.exp2(scores * slope)))


@triton.jit
def add_tile(query, keys, values, seen, sums, total, slope, height):
    """Count one tile of keys and values where `seen` [rows, tile]."""
    weights = tl.where(seen, weigh(query, keys, slope, height), 0.0)
    total += tl.sum(weights, 1)
    sums = tl.dot(weights.to(values.dtype), values, sums, input_precision="ieee")
    return sums, total


@triton.jit
def attend(
    qkv, pool, entries, programs, positions, row_starts, out, numerators, denominators,
    tokens, splits, slope, height, window, value_stride, head_stride,
    heads: tl.constexpr, shared: tl.constexpr, size: tl.constexpr, block: tl.constexpr, tile: tl.constexpr,
    windowed: tl.constexpr, direct: tl.constexpr,
):  # fmt: skip
    """Grid (blocks * splits, heads). qkv and pool as `rotate_and_keep` left them.

    entries [E, 4]: first slot, its position, how many of the tile's slots count, visible block rows (first | stop << 8). programs
    [blocks * splits, 4]: first and last entry, first and last own token. row_starts [T]: packed place of the row's first token.
    `direct` (one split): out [T, heads * shared * size]. Else numerators [blocks * splits, heads, block * shared, size] and
    denominators without the last dimension, fp32.
    """
    program = tl.program_id(0)
    head = tl.program_id(1)
    wide: tl.constexpr = heads * (shared + 2) * size
    rows = tl.arange(0, block * shared)
    local = rows // shared
    token = (program // splits) * block + local
    inside = token < tokens
    lane = tl.arange(0, size)[None, :]
    step = tl.arange(0, tile)
    column = ((head * shared + rows % shared) * size)[:, None] + lane
    query = tl.load(qkv + token[:, None] * wide + column, mask=inside[:, None], other=0.0)
    row_start = tl.load(row_starts + token, mask=inside, other=1 << 30)
    oldest = tl.load(positions + token, mask=inside, other=0) - window
    sums = tl.zeros([block * shared, size], tl.float32)
    total = tl.zeros([block * shared], tl.float32)
    resident = pool + head.to(tl.int64) * head_stride
    for entry in range(tl.load(programs + 4 * program), tl.load(programs + 4 * program + 1)):
        slot = tl.load(entries + 4 * entry).to(tl.int64)
        first = tl.load(entries + 4 * entry + 1)
        there = step < tl.load(entries + 4 * entry + 2)
        visible = tl.load(entries + 4 * entry + 3)
        place = resident + slot * size + step[:, None] * size + lane
        keys = tl.load(place, mask=there[:, None], other=0.0)
        values = tl.load(place + value_stride, mask=there[:, None], other=0.0)
        seen = ((local >= (visible & 255)) & (local < (visible >> 8)))[:, None] & there[None, :]
        if windowed:
            seen = seen & ((first + step)[None, :] > oldest[:, None])
        sums, total = add_tile(query, keys, values, seen, sums, total, slope, height)
    stop = tl.load(programs + 4 * program + 3)
    for own in range(tl.load(programs + 4 * program + 2), stop, tile):
        other = own + step
        place = qkv + other[:, None] * wide + (heads * shared + head) * size + lane
        keys = tl.load(place, mask=(other < stop)[:, None], other=0.0)
        values = tl.load(place + heads * size, mask=(other < stop)[:, None], other=0.0)
        seen = (other[None, :] >= row_start[:, None]) & (other[None, :] <= token[:, None]) & (other < stop)[None, :]
        if windowed:
            seen = seen & (other[None, :] > (token - window)[:, None])
        sums, total = add_tile(query, keys, values, seen, sums, total, slope, height)
    if direct:
        found = sums * (1.0 / tl.maximum(total, 1e-30))[:, None]
        tl.store(out + token[:, None] * (heads * shared * size) + column, found.to(out.dtype.element_ty), mask=inside[:, None])
    else:
        partial = (program * heads + head) * (block * shared) + rows
        tl.store(numerators + partial[:, None] * size + lane, sums)
        tl.store(denominators + partial, total)


@triton.jit
def merge(
    numerators, denominators, rows, out, scales,
    heads: tl.constexpr, shared: tl.constexpr, size: tl.constexpr, block: tl.constexpr, splits: tl.constexpr,
    part: tl.constexpr, gather: tl.constexpr, fp8: tl.constexpr,
):  # fmt: skip
    """Add a token's splits and divide: out [R, heads * shared * size], of token `rows[r]` with `gather`, else of token r.

    Grid (R, heads / part): one program for `part` key heads, for all of them with `fp8`. A token that sees nothing (padding) gives 0.
    """
    row = tl.program_id(0)
    token = tl.load(rows + row).to(tl.int32) if gather else row
    some = tl.program_id(1) * part * shared + tl.arange(0, part * shared)
    lane = tl.arange(0, size)[None, :]
    program = (token // block) * splits + tl.arange(0, splits)
    within = (token % block) * shared + some % shared
    partial = (program[:, None] * heads + (some // shared)[None, :]) * (block * shared) + within[None, :]
    sums = tl.sum(tl.load(numerators + partial[:, :, None] * size + lane[None, :, :]), 0)
    total = tl.sum(tl.load(denominators + partial), 0)
    found = sums * (1.0 / tl.maximum(total, 1e-30))[:, None]
    place = out + row.to(tl.int64) * (heads * shared * size) + some[:, None] * size + lane
    if fp8:
        scale = tl.maximum(tl.max(tl.max(tl.abs(found), 1), 0) / 448.0, 1e-12)
        tl.store(scales + row, scale)
        found = found / scale
    tl.store(place, found.to(out.dtype.element_ty))
