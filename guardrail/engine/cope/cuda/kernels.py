"""Device code between the matrix products of a Gemma-2 layer: three kernels where a plain module launches dozens.

Everything is computed in fp32 and rounded once, where a value is stored, except that a norm's output is rounded before it is added to
the residual, as the model does. With `fp8`, what feeds the next product is stored as e4m3 with one scale a row (largest magnitude / 448).
Pointers come first, then numbers, then compile-time constants. `launch` calls these.
"""

import triton
import triton.language as tl


@triton.jit
def store_row(values, place, scales, row, seen, fp8: tl.constexpr):
    """Store one row, fp32, at `place`; with `fp8` divided by its scale, which goes to `scales[row]`."""
    if fp8:
        scale = tl.maximum(tl.max(tl.abs(values), 0) / 448.0, 1e-12)
        tl.store(scales + row, scale)
        values = values / scale
    tl.store(place, values.to(place.dtype.element_ty), mask=seen)


@triton.jit
def add_rms(
    hidden, delta, rows, out, normed, scales, post, pre, epsilon,
    width: tl.constexpr, block: tl.constexpr, add: tl.constexpr, gather: tl.constexpr, fp8: tl.constexpr,
):  # fmt: skip
    """out = hidden + rms(delta) * post; normed = rms(out) * pre. One program a row.

    hidden [T, width] is read at `rows[r]` with `gather`, else at r; delta, out, normed [R, width]; scales [R]; post, pre [width] fp32.
    Without `add` only `normed` is written.
    """
    row = tl.program_id(0).to(tl.int64)
    source = tl.load(rows + row).to(tl.int64) if gather else row
    column = tl.arange(0, block)
    seen = column < width
    kept = tl.load(hidden + source * width + column, mask=seen, other=0.0)
    values = kept.to(tl.float32)
    if add:
        step = tl.load(delta + row * width + column, mask=seen, other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(step * step, 0) / width + epsilon)
        rounded = (step * scale * tl.load(post + column, mask=seen, other=0.0)).to(kept.dtype)
        kept = (values + rounded.to(tl.float32)).to(kept.dtype)
        tl.store(out + row * width + column, kept, mask=seen)
        values = kept.to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 0) / width + epsilon)
    normal = values * scale * tl.load(pre + column, mask=seen, other=0.0)
    store_row(normal, normed + row * width + column, scales, row, seen, fp8)


@triton.jit
def rotate_and_keep(
    qkv, pool, positions, slots, angles, value_stride, head_stride,
    heads: tl.constexpr, shared: tl.constexpr, size: tl.constexpr,
):  # fmt: skip
    """Rotate queries and keys where they lie, and copy kept tokens' keys and values to the pool. One program a token and key head.

    qkv [T, heads * (shared + 2), size]: query heads, `shared` of them for each of `heads` key heads, then key heads, then value heads.
    pool [2, heads, slots, size] (one layer; strides given); slots [T], -1: not kept; angles [positions, size] fp32: cosines, then sines.
    """
    token = tl.program_id(0)
    head = tl.program_id(1)
    half: tl.constexpr = size // 2
    lane = tl.arange(0, half)
    row = qkv + token.to(tl.int64) * (heads * (shared + 2) * size)
    turn = angles + tl.load(positions + token) * size + lane
    cosine = tl.load(turn)
    sine = tl.load(turn + half)
    queries = row + (head * shared + tl.arange(0, shared))[:, None] * size + lane[None, :]
    low = tl.load(queries).to(tl.float32)
    high = tl.load(queries + half).to(tl.float32)
    tl.store(queries, (low * cosine[None, :] - high * sine[None, :]).to(qkv.dtype.element_ty))
    tl.store(queries + half, (high * cosine[None, :] + low * sine[None, :]).to(qkv.dtype.element_ty))
    key = row + (heads * shared + head) * size + lane
    low = tl.load(key).to(tl.float32)
    high = tl.load(key + half).to(tl.float32)
    turned_low = (low * cosine - high * sine).to(qkv.dtype.element_ty)
    turned_high = (high * cosine + low * sine).to(qkv.dtype.element_ty)
    tl.store(key, turned_low)
    tl.store(key + half, turned_high)
    slot = tl.load(slots + token).to(tl.int64)
    if slot >= 0:
        kept = pool + head.to(tl.int64) * head_stride + slot * size + lane
        tl.store(kept, turned_low)
        tl.store(kept + half, turned_high)
        value = key + heads * size
        tl.store(kept + value_stride, tl.load(value))
        tl.store(kept + value_stride + half, tl.load(value + half))


@triton.jit
def gated(gate_up, row, column, seen, width: tl.constexpr):
    """gelu(gate) * up at some columns of a row, fp32; gelu by its tanh form, written x * sigmoid(2z)."""
    place = gate_up + row * (2 * width) + column
    gate = tl.load(place, mask=seen, other=0.0).to(tl.float32)
    up = tl.load(place + width, mask=seen, other=0.0).to(tl.float32)
    inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
    return gate / (1.0 + tl.exp(-2.0 * inner)) * up


@triton.jit
def geglu(gate_up, out, scales, width: tl.constexpr, block: tl.constexpr, fp8: tl.constexpr):
    """out [T, width] = gelu(gate) * up of gate_up [T, 2 * width]. One program a row and block; with `fp8` the block is the whole row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    seen = column < width
    values = gated(gate_up, row, column, seen, width)
    store_row(values, out + row * width + column, scales, row, seen, fp8)
