"""Which program of the attention kernel reads which keys: a plan laid out as integer tables, made with numpy in well under a millisecond.

Packed query tokens are cut into blocks. What a block sees is a list of tiles of resident slots and a range of the pass' own tokens; the
list is cut into `splits` shares of equal length, one program each. The number of splits depends on the bucket alone, so that the shape
of a pass (and the order of its sums) is a matter of its length, never of what else is running.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guardrail.engine.cope.kv import PAGE
from guardrail.engine.cope.rows import Plan

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Tiling:
    """How attention is cut: `block` query tokens by `tile` keys (a page is whole tiles), `splits` programs a block and key head."""

    block: int
    tile: int
    splits: int
    warps: int = 8
    stages: int = 2


@dataclass(frozen=True, slots=True)
class WorkList:
    """`entries` [E, 4] and `programs` [blocks * splits, 4] as `attention.attend` reads them."""

    entries: Ints
    programs: Ints


@dataclass(frozen=True, slots=True)
class _Stretches:
    """Runs of packed tokens [start, stop) that see one span: its `length`, where it `begins` in the sequence, its pages in `pages`."""

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    length: NDArray[np.int64]
    begins: NDArray[np.int64]
    page: NDArray[np.int64]
    pages: NDArray[np.int64]


def tiling(tokens: int, heads: int, processors: int) -> Tiling:
    """For a bucket of `tokens`: wide blocks where there are tokens for them, and about one program for each of a GPU's processors.

    `heads` counts key heads. Compiled for sm_90a neither shape spills registers; wide blocks read keys half as often.
    """
    block, tile, stages = (64, 32, 3) if tokens >= 256 else (32, 64, 2)
    programs = -(-tokens // block) * heads
    splits = 1
    while splits < 16 and 2 * splits * programs <= processors:
        splits *= 2
    return Tiling(block, tile, splits, stages=stages)


def row_starts(planned: Plan) -> Ints:
    """[T]: the packed place of each token's row's first token."""
    return np.repeat(planned.starts[:-1], np.diff(planned.starts)).astype(np.int32)


def kept_slots(planned: Plan) -> Ints:
    """[T]: the pool slot that each token's keys and values go to, -1 where they are not kept."""
    slots = np.full(planned.tokens, -1, np.int32)
    for row, start in zip(planned.rows, planned.starts.tolist(), strict=False):
        if row.into is not None and row.keep:
            slots[start : start + row.keep] = row.into.slots(row.into.length, row.into.length + row.keep)
    return slots


def work_list(planned: Plan, shape: Tiling, *, blocks: int, window: int | None, base: int = 0) -> WorkList:
    """The list of one kind of layer (`window` None: every earlier key is seen) for a bucket of `blocks` query blocks.

    `base`: how many entries stand before this list's in the table that the programs point into.
    """
    entries, counts = _entries(planned, shape, blocks, window)
    first, stop = _own(planned, shape, blocks, window)
    own_tiles = -(-(stop - first) // shape.tile)
    ends = base + np.cumsum(counts)
    # Share s of a block covers places [cut[s], cut[s + 1]) of its entries followed by its own tiles.
    cut = (counts + own_tiles)[:, None] * np.arange(shape.splits + 1) // shape.splits
    entry = (ends - counts)[:, None] + np.minimum(cut, counts[:, None])
    own = np.minimum(first[:, None] + np.maximum(cut - counts[:, None], 0) * shape.tile, stop[:, None])
    programs = np.stack([entry[:, :-1], entry[:, 1:], own[:, :-1], own[:, 1:]], axis=-1)
    return WorkList(entries, programs.reshape(-1, 4).astype(np.int32))


def most_entries(tokens: int, shape: Tiling, longest: int) -> int:
    """No plan of `tokens` has a longer list: each row (a token at least) or block edge brings a chain of `longest` tokens in again.

    A chain of several spans can end each of them inside a tile; two beyond the whole tiles are counted.
    """
    return (tokens + -(-tokens // shape.block)) * (-(-longest // shape.tile) + 2)


def _entries(planned: Plan, shape: Tiling, blocks: int, window: int | None) -> tuple[Ints, NDArray[np.int64]]:
    """The tiles that each block sees, block by block, and how many each has."""
    runs = _stretches(planned)
    if not len(runs.start):
        return np.zeros((0, 4), np.int32), np.zeros(blocks, np.int64)
    first_block = runs.start // shape.block
    reached = (runs.stop - 1) // shape.block - first_block + 1
    run = np.repeat(np.arange(len(runs.start)), reached)
    block = first_block[run] + _ordinals(reached)
    low = np.maximum(runs.start[run], block * shape.block)
    high = np.minimum(runs.stop[run], (block + 1) * shape.block)
    skipped = np.zeros(len(run), np.int64)
    if window is not None:
        bounds = np.stack([low, high], axis=1).reshape(-1)
        nearest = np.minimum.reduceat(np.append(planned.positions, np.iinfo(np.int64).max), bounds)[::2]
        skipped = np.clip(nearest - window + 1 - runs.begins[run], 0, runs.length[run]) // shape.tile * shape.tile
    tiles = -(-(runs.length[run] - skipped) // shape.tile)
    order = np.argsort(block, kind="stable")
    tiles, run, block, skipped = tiles[order], run[order], block[order], skipped[order]
    visible = (low[order] - block * shape.block) | (high[order] - block * shape.block) << 8
    each = np.repeat(np.arange(len(run)), tiles)
    run, offset = run[each], skipped[each] + _ordinals(tiles) * shape.tile
    slot = runs.pages[runs.page[run] + offset // PAGE] * PAGE + offset % PAGE
    count = np.minimum(shape.tile, runs.length[run] - offset)
    entries = np.stack([slot, runs.begins[run] + offset, count, visible[each]], axis=1).astype(np.int32)
    return entries, np.bincount(block, weights=tiles, minlength=blocks).astype(np.int64)


def _stretches(planned: Plan) -> _Stretches:
    """Rows with the same policy stand together and see it as one run; what lies behind it in a chain belongs to its row."""
    found: list[tuple[int, int, int, int, int]] = []
    pages: list[NDArray[np.int64]] = []
    held = 0
    for group in planned.groups:
        if group.span is not None and group.span.length:
            found.append((group.start, group.stop, group.span.length, 0, held))
            pages.append(group.span.pages)
            held += len(group.span.pages)
    for number, row in enumerate(planned.rows):
        begins = row.chain[0].length if row.chain else 0
        for span in row.chain[1:]:
            if span.length:
                found.append((int(planned.starts[number]), int(planned.starts[number + 1]), span.length, begins, held))
                pages.append(span.pages)
                held += len(span.pages)
            begins += span.length
    start, stop, length, first, page = np.array(found, np.int64).reshape(-1, 5).T
    return _Stretches(start, stop, length, first, page, np.concatenate(pages) if pages else np.zeros(0, np.int64))


def _own(planned: Plan, shape: Tiling, blocks: int, window: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The range of the pass' own tokens that each block sees something of; empty behind the last token."""
    begin = np.arange(blocks) * shape.block
    stop = np.minimum(begin + shape.block, planned.tokens)
    used = begin < planned.tokens
    first = begin.copy()
    first[used] = np.repeat(planned.starts[:-1], np.diff(planned.starts))[begin[used]]
    if window is not None:
        first = np.maximum(first, begin - window + 1)
    return first, np.where(used, stop, first)


def _ordinals(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, …, counts[0] - 1, 0, 1, …, counts[1] - 1, and so on."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
