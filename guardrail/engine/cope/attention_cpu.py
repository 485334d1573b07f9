"""Exact attention over any mix of resident spans and new tokens, in tiles that merge by plain sums.

Where scores are soft-capped they lie in [-cap, cap], so `exp` neither overflows nor vanishes in fp32: the softmax needs no maximum, and
partial results over different keys merge by adding numerators and denominators. Without a soft-cap each tile is weighed against a running
maximum instead (Milakov & Gimelshein 2018, arXiv 1805.02867). Plain torch: the same code runs on a GPU, where it is an oracle.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from guardrail.engine.cope.kv import KVPool
from guardrail.engine.cope.rows import Plan
from guardrail.engine.cope.tiles import Block, Cut, Tiling, all_queries, blocks, kept, read_queries
from guardrail.engine.onednn import linear

_LARGEST_CAP = 64.0  # e^64 * 8,192 keys * values of thousands still fit fp32
_LOWEST = -1e30  # the running maximum before any key was seen; finite, so that differences with it are defined
_CPU_TILES = Tiling(queries=256, pairs=1 << 17, fewest=512)
_GPU_TILES = Tiling(queries=2048, pairs=1 << 23, fewest=4096)


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a layer scores: `scale` times the dot product, then `softcap * tanh(score / softcap)`; `window` keys are seen, self included."""

    scale: float
    softcap: float | None = None
    window: int | None = None


class PackedAttention:
    """Attention of one pass: its tiles are laid out once and serve every layer. Keys and values lie in `pool`, in its dtype."""

    def __init__(self, planned: Plan, pool: KVPool, tiling: Tiling | None = None) -> None:
        self._plan = planned
        self._pool = pool
        self._device = pool.kv.device
        self._tiling = tiling or (_CPU_TILES if self._device.type == "cpu" else _GPU_TILES)
        self._length = int(planned.positions.max()) + 1
        self._blocks: dict[tuple[int | None, bool], tuple[Block, ...]] = {}
        self._kept = kept(planned, self._device)

    def store(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Write kept tokens' keys and values, [kv heads, T, head_dim] each, to the slots that their spans reserved."""
        if self._kept is not None:
            places, slots = self._kept.places, self._kept.slots
            self._pool.kv[layer, 0][:, slots] = key[:, places].to(self._pool.kv.dtype)
            self._pool.kv[layer, 1][:, slots] = value[:, places].to(self._pool.kv.dtype)

    def attend(self, layer: int, query: Tensor, own: tuple[Tensor, Tensor], scoring: Scoring, *, reading: bool = False) -> Tensor:
        """[Q, heads * head_dim] fp32 from query [kv heads, Q, heads of each, head_dim] and the pass' own keys and values, [kv heads, T,
        head_dim] each. The queries are all tokens in packed order, or with `reading` those at which answers are read.
        """
        # Query heads that share a key head lie side by side in `query`: any run of tokens is one matrix for each key head.
        merged: _Merged = _Capped(query.float(), scoring) if _max_free(scoring) else _Running(query.float(), scoring)
        resident = (self._pool.kv[layer, 0], self._pool.kv[layer, 1])
        for block in self._laid_out(scoring.window, reading):
            keys, values = (_take(tensor, block.keys) for tensor in (own if block.own else resident))
            for cut in block.cuts:
                merged.add(cut, keys, values)
        return merged.result().transpose(0, 1).reshape(query.shape[1], -1)

    def _laid_out(self, window: int | None, reading: bool) -> tuple[Block, ...]:
        if window is not None and window >= self._length:
            window = None  # nothing is far enough away to be hidden: all layers share one layout
        if (window, reading) not in self._blocks:
            queries = read_queries(self._plan) if reading else all_queries(self._plan)
            found = blocks(self._plan, queries, window=window, tiling=self._tiling, device=self._device)
            self._blocks[window, reading] = found
        return self._blocks[window, reading]


def _max_free(scoring: Scoring) -> bool:
    return scoring.softcap is not None and scoring.softcap <= _LARGEST_CAP


def _take(tensor: Tensor, places: slice | Tensor) -> Tensor:
    taken = tensor[:, places] if isinstance(places, slice) else tensor.index_select(1, places)
    return taken.float()


class _Merged(Protocol):
    """Numerators and denominators of a softmax over keys that come tile by tile, in any order."""

    def add(self, cut: Cut, keys: Tensor, values: Tensor) -> None:
        """Count keys and values, [kv heads, keys, head_dim] fp32, for the queries of a cut."""
        ...

    def result(self) -> Tensor:
        """Shaped like the queries."""
        ...


class _Capped:
    """No maximum: partial results are summed. `tanh` is written with `sigmoid` and `exp` as `exp2`, which torch runs several times faster
    on a CPU: exp(cap * tanh(x)) = 2^(2 cap log2(e) sigmoid(2x) - cap log2(e)).
    """

    def __init__(self, queries: Tensor, scoring: Scoring) -> None:
        assert scoring.softcap is not None  # chosen by `_max_free`
        self._queries = queries * (2.0 * scoring.scale / scoring.softcap)
        self._cap = scoring.softcap * math.log2(math.e)
        self._lowest = torch.tensor(-self._cap)  # on the CPU: torch takes it as a plain number on any device
        self._sums = torch.zeros_like(self._queries)
        self._weights = queries.new_zeros(queries.shape[:3])

    def add(self, cut: Cut, keys: Tensor, values: Tensor) -> None:
        tokens = slice(cut.start, cut.stop)
        _, count, groups, size = (queries := self._queries[:, tokens]).shape
        places = zip(
            queries.unbind(), keys.unbind(), values.unbind(), self._weights[:, tokens].unbind(), self._sums[:, tokens].unbind(), strict=True
        )
        # Head by head: a head's scores stay in a core's cache from one operation to the next.
        for query, key, value, total, found in places:
            weights = linear(query.view(-1, size), key)
            torch.add(self._lowest, weights.sigmoid_(), alpha=2.0 * self._cap, out=weights).exp2_()
            if cut.hidden is not None:
                weights.view(count, groups, -1).masked_fill_(cut.hidden, 0.0)
            total.add_(weights.sum(-1).view(count, groups))
            found.add_(linear(weights, value.t()).view(count, groups, size))

    def result(self) -> Tensor:
        return self._sums.div_(self._weights.unsqueeze(-1))


class _Running:
    """With a running maximum: what was summed before is scaled down when a larger score turns up."""

    def __init__(self, queries: Tensor, scoring: Scoring) -> None:
        self._queries = queries * scoring.scale
        self._softcap = scoring.softcap
        self._sums = torch.zeros_like(self._queries)
        self._weights = queries.new_zeros(queries.shape[:3])
        self._largest = queries.new_full(queries.shape[:3], _LOWEST)

    def add(self, cut: Cut, keys: Tensor, values: Tensor) -> None:
        heads, size = keys.shape[0], keys.shape[2]
        queries = self._queries[:, cut.start : cut.stop]
        scores = torch.bmm(queries.reshape(heads, -1, size), keys.transpose(1, 2)).view(*queries.shape[:3], -1)
        if self._softcap is not None:
            scores.div_(self._softcap).tanh_().mul_(self._softcap)
        if cut.hidden is not None:
            scores.masked_fill_(cut.hidden, -math.inf)
        before = self._largest[:, cut.start : cut.stop]
        largest = torch.maximum(before, scores.amax(-1))
        shrink = (before - largest).exp_()
        weights = scores.sub_(largest.unsqueeze(-1)).exp_()
        self._weights[:, cut.start : cut.stop].mul_(shrink).add_(weights.sum(-1))
        found = torch.bmm(weights.view(heads, -1, weights.shape[-1]), values).view(queries.shape)
        self._sums[:, cut.start : cut.stop].mul_(shrink.unsqueeze(-1)).add_(found)
        self._largest[:, cut.start : cut.stop] = largest

    def result(self) -> Tensor:
        return self._sums.div_(self._weights.unsqueeze(-1))
