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
from guardrail.engine.cope.tiles import Block, Cut, Tiling, blocks, kept

_LARGEST_CAP = 64.0  # e^64 * 8,192 keys * values of thousands still fit fp32
_LOWEST = -1e30  # the running maximum before any key was seen; finite, so that differences with it are defined
_CPU_TILES = Tiling(queries=128, keys=512)
_GPU_TILES = Tiling(queries=2048, keys=4096)


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
        self._blocks: dict[int | None, tuple[Block, ...]] = {}
        self._kept = kept(planned, self._device)

    def store(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Write kept tokens' keys and values, [kv heads, T, head_dim] each, to the slots that their spans reserved."""
        if self._kept is not None:
            places, slots = self._kept.places, self._kept.slots
            self._pool.kv[layer, 0][:, slots] = key[:, places].to(self._pool.kv.dtype)
            self._pool.kv[layer, 1][:, slots] = value[:, places].to(self._pool.kv.dtype)

    def attend(self, layer: int, query: Tensor, own: tuple[Tensor, Tensor], scoring: Scoring) -> Tensor:
        """[T, heads, head_dim] fp32 from query [heads, T, head_dim] and the pass' own keys and values, [kv heads, T, head_dim] each."""
        heads, tokens, size = query.shape
        # Query heads that share a key head become neighbouring queries: any run of tokens is one matrix for each key head.
        grouped = query.float().view(own[0].shape[0], -1, tokens, size).transpose(1, 2)
        merged: _Merged = _Capped(grouped, scoring) if _max_free(scoring) else _Running(grouped, scoring)
        resident = (self._pool.kv[layer, 0], self._pool.kv[layer, 1])
        for block in self._laid_out(scoring.window):
            keys, values = (_take(tensor, block.keys) for tensor in (own if block.own else resident))
            for cut in block.cuts:
                merged.add(cut, keys, values)
        return merged.result().permute(1, 0, 2, 3).reshape(tokens, heads, size)

    def _laid_out(self, window: int | None) -> tuple[Block, ...]:
        if window is not None and window >= self._length:
            window = None  # nothing is far enough away to be hidden: all layers share one layout
        if window not in self._blocks:
            self._blocks[window] = blocks(self._plan, window=window, tiling=self._tiling, device=self._device)
        return self._blocks[window]


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
        """[kv heads, T, groups, head_dim]."""
        ...


class _Capped:
    """No maximum: partial results are summed. `tanh` is written with `sigmoid`, and `exp` as `exp2`, which this path runs several times
    faster on a CPU: exp(cap * tanh(x)) = 2^(2 cap log2(e) sigmoid(2x) - cap log2(e))."""

    def __init__(self, queries: Tensor, scoring: Scoring) -> None:
        assert scoring.softcap is not None  # chosen by `_max_free`
        self._queries = queries * (2.0 * scoring.scale / scoring.softcap)
        self._cap = scoring.softcap * math.log2(math.e)
        self._sums = torch.zeros_like(self._queries)
        self._weights = queries.new_zeros(queries.shape[:3])

    def add(self, cut: Cut, keys: Tensor, values: Tensor) -> None:
        heads, size = keys.shape[0], keys.shape[2]
        queries = self._queries[:, cut.start : cut.stop]
        weights = torch.bmm(queries.reshape(heads, -1, size), keys.transpose(1, 2))
        weights.sigmoid_().mul_(2.0 * self._cap).sub_(self._cap).exp2_()
        if cut.hidden is not None:
            weights.view(*queries.shape[:3], -1).masked_fill_(cut.hidden, 0.0)
        self._weights[:, cut.start : cut.stop] += weights.sum(-1).view(queries.shape[:3])
        self._sums[:, cut.start : cut.stop] += torch.bmm(weights, values).view(queries.shape)

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
