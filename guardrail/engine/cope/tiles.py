"""Which queries meet which keys in a pass: cut into tiles once for a plan, used by every layer."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guardrail.engine.cope.kv import KVSpan
from guardrail.engine.cope.rows import Plan, Row


@dataclass(frozen=True, slots=True)
class Tiling:
    """Bounds of one tile: `queries` tokens, and keys so that queries times keys is about `pairs`, `fewest` keys at least.

    Small enough for a tile's scores to stay in cache, large enough for matrix products to run well.
    """

    queries: int
    pairs: int
    fewest: int

    def keys(self, queries: int) -> int:
        """Most keys of one tile that many queries see."""
        return max(self.fewest, self.pairs // min(queries, self.queries))


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """Tokens of a pass that attend: those of row i are [starts[i], starts[i + 1]); `positions` in their sequences."""

    starts: NDArray[np.int64]
    positions: NDArray[np.int64]


def all_queries(planned: Plan) -> Queries:
    """Every token of the pass."""
    return Queries(planned.starts, planned.positions)


def read_queries(planned: Plan) -> Queries:
    """Only the tokens at which answers are read: all that the last layer needs."""
    reading = np.zeros(len(planned.rows) + 1, np.int64)
    reading[1:][list(planned.read_rows)] = 1
    return Queries(np.cumsum(reading), planned.positions[planned.reads])


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """Packed queries [start, stop) of a block; `hidden` [queries, 1, keys] is True where a key must not be seen, None: all are."""

    start: int
    stop: int
    hidden: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Keys side by side and the queries that see them: pool slots (a slice where consecutive), or the pass' own packed tokens (`own`)."""

    keys: slice | Tensor
    own: bool
    cuts: tuple[Cut, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """Packed tokens whose keys and values stay, and the pool slots they go to."""

    places: slice | Tensor
    slots: slice | Tensor


def blocks(planned: Plan, queries: Queries, *, window: int | None, tiling: Tiling, device: torch.device) -> tuple[Block, ...]:
    """Every pair of a query and a key that it sees, exactly once. Key k is seen from position q iff q - window < k <= q."""
    cutter = _Cutter(queries.positions, window, tiling, device)
    return tuple(_blocks(planned, queries.starts, cutter))


def kept(planned: Plan, device: torch.device) -> Kept | None:
    """What a pass leaves resident, or None. Slices where both sides are one run (a policy's prefill), else index tensors."""
    rows = [(row, int(start)) for row, start in zip(planned.rows, planned.starts, strict=False) if row.into is not None and row.keep]
    if not rows:
        return None
    places = np.concatenate([np.arange(start, start + row.keep) for row, start in rows])
    slots = np.concatenate([_slots(row) for row, _ in rows])
    return Kept(_packed(places, device), _packed(slots, device))


def _slots(row: Row) -> NDArray[np.int64]:
    assert row.into is not None  # its caller asked for rows that keep
    return row.into.slots(row.into.length, row.into.length + row.keep)


def _packed(places: NDArray[np.int64], device: torch.device) -> slice | Tensor:
    if bool((np.diff(places) == 1).all()):  # the ends alone say nothing: pages come in any order
        return slice(int(places[0]), int(places[-1]) + 1)
    return torch.from_numpy(places).to(device)


@dataclass(frozen=True, slots=True)
class _Cutter:
    positions: NDArray[np.int64]
    window: int | None
    tiling: Tiling
    device: torch.device

    def cut(self, queries: tuple[int, int], first: int, keys: NDArray[np.int64], *, own: bool) -> Iterator[Block]:
        """Blocks of `keys` (slots or packed places), the first of which stands at position `first`, seen from packed queries."""
        if queries[0] == queries[1]:
            return
        most = self.tiling.keys(queries[1] - queries[0])
        for low in range(0, len(keys), most):
            high = min(low + most, len(keys))
            starts = range(queries[0], queries[1], self.tiling.queries)
            cuts = [self._cut(start, min(start + self.tiling.queries, queries[1]), first + low, first + high) for start in starts]
            if seen := tuple(cut for cut in cuts if cut is not None):
                yield Block(_packed(keys[low:high], self.device), own, seen)

    def _cut(self, start: int, stop: int, low: int, high: int) -> Cut | None:
        positions = self.positions[start:stop]
        nearest, farthest = int(positions.min()), int(positions.max())
        window = self.window or farthest + 1
        if farthest < low or nearest - window >= high - 1:
            return None
        if nearest >= high - 1 and farthest - window < low:
            return Cut(start, stop, None)
        at, keys = positions[:, None], np.arange(low, high)[None]
        hidden = (keys > at) | (keys <= at - window)
        return Cut(start, stop, torch.from_numpy(hidden[:, None]).to(self.device))


def _blocks(planned: Plan, starts: NDArray[np.int64], cutter: _Cutter) -> Iterator[Block]:
    for group in planned.groups:
        if group.span is not None and group.span.length:
            yield from cutter.cut((int(starts[group.first]), int(starts[group.last])), 0, _resident(group.span), own=False)
        for number in range(group.first, group.last):
            row, queries = planned.rows[number], (int(starts[number]), int(starts[number + 1]))
            position = row.chain[0].length if row.chain else 0
            for span in row.chain[1:]:
                yield from cutter.cut(queries, position, _resident(span), own=False)
                position += span.length
            places = np.arange(int(planned.starts[number]), int(planned.starts[number + 1]))
            yield from cutter.cut(queries, position, places, own=True)


def _resident(span: KVSpan) -> NDArray[np.int64]:
    return span.slots(0, span.length)
