"""Device code of the answer head: how much of the whole vocabulary's weight stands behind an answer, without keeping a single logit.

The final soft-cap bounds logits to [-cap, cap], so their exponentials can be summed as they are: one pass over the output embeddings, a
tile of words a program, leaves one number a read row and tile.
"""

import triton
import triton.language as tl


@triton.jit
def soften(logits, cap):
    """cap * tanh(logits / cap)."""
    return cap - 2.0 * cap / (1.0 + tl.exp(logits * (2.0 / cap)))


@triton.jit
def exp_sums(
    states, words, sums, reads, count, cap,
    width: tl.constexpr, block: tl.constexpr, tile: tl.constexpr, step: tl.constexpr,
):  # fmt: skip
    """sums[t, r] = sum over tile t's words of exp(capped logit): states [reads, width], words [count, width], sums [tiles, reads] fp32.

    Grid (tiles, reads / block); `step` divides `width`.
    """
    part = tl.program_id(0)
    word = part * tile + tl.arange(0, tile)
    row = tl.program_id(1) * block + tl.arange(0, block)
    lane = tl.arange(0, step)
    left = states + row[:, None] * width + lane[None, :]
    right = words + word.to(tl.int64)[:, None] * width + lane[None, :]
    logits = tl.zeros([block, tile], tl.float32)
    for place in range(0, width, step):
        some = tl.load(left + place, mask=(row < reads)[:, None], other=0.0)
        weights = tl.load(right + place, mask=(word < count)[:, None], other=0.0)
        logits = tl.dot(some, tl.trans(weights), logits, input_precision="ieee")
    weight = tl.where((word < count)[None, :], tl.exp(soften(logits, cap)), 0.0)
    tl.store(sums + part.to(tl.int64) * reads + row, tl.sum(weight, 1), mask=row < reads)


@triton.jit
def answer(
    states, rows, sums, out, reads, tiles, cap,
    width: tl.constexpr, block: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    """out [reads, 3] fp32: the capped logits of "0" and "1" from rows [2, width] fp32, and the logarithm of the sums. One program a row.

    The vocabulary's product carries the model's rounding, the two logits do not: the whole is never less than the two together.
    """
    row = tl.program_id(0)
    column = tl.arange(0, block)
    seen = column < width
    state = tl.load(states + row * width + column, mask=seen, other=0.0).to(tl.float32)
    zero = soften(tl.sum(state * tl.load(rows + column, mask=seen, other=0.0), 0), cap)
    one = soften(tl.sum(state * tl.load(rows + width + column, mask=seen, other=0.0), 0), cap)
    weight = tl.zeros([chunk], tl.float32)
    for start in range(0, tiles, chunk):
        tile = start + tl.arange(0, chunk)
        weight += tl.load(sums + tile.to(tl.int64) * reads + row, mask=tile < tiles, other=0.0)
    two = tl.exp(zero) + tl.exp(one)
    tl.store(out + row * 3, zero)
    tl.store(out + row * 3 + 1, one)
    tl.store(out + row * 3 + 2, tl.log(tl.maximum(tl.sum(weight, 0), two)))
