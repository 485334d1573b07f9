"""The fallback for GPUs that the kernels were not made for: plain torch around `flex_attention`, which reads the pool where it lies.

Attention is two calls, over the pool's pages and over the pass' own tokens, merged by their logsumexp. Slower than the kernels, and no
graphs; but nothing in it depends on a soft-cap, a GPU's generation, or its vendor.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from guardrail.engine.cope.attention_cpu import Scoring
from guardrail.engine.cope.cuda.worklist import kept_slots, row_starts
from guardrail.engine.cope.head import AnswerHead
from guardrail.engine.cope.kv import PAGE, KVPool
from guardrail.engine.cope.packed_weights import PackedLayer, PackedWeights
from guardrail.engine.cope.rows import Plan
from guardrail.engine.cope.runner import Computed

_MOST_COMPILED = 64
_BLOCK = 128  # query tokens a block of the mask; passes are padded to whole blocks so that few shapes are compiled


class FlexRunner:
    """Runs plans with torch alone. `compiled`: let torch compile the attention (on a GPU; on the CPU it is for tests and runs eagerly)."""

    name = "flex"

    def __init__(
        self, weights: PackedWeights, pool: KVPool, head: AnswerHead, *, most_tokens: int = 1024, compiled: bool | None = None
    ) -> None:
        self.pool = pool
        self.most_tokens = most_tokens
        self._weights, self._head = weights, head
        compiled = pool.kv.is_cuda if compiled is None else compiled
        self._flex: Callable[..., Any] = _Compiled() if compiled else flex_attention

    @torch.inference_mode()
    def forward(self, planned: Plan) -> Computed:
        """Run one pass; see `Runner`. Raises ValueError for one that is too long."""
        if planned.tokens > self.most_tokens:
            raise ValueError(f"a pass of {planned.tokens} tokens does not fit; at most {self.most_tokens} run at a time")
        weights, device = self._weights, self.pool.kv.device
        size = _padded(planned.tokens)
        ids, positions = (torch.from_numpy(_filled(column, size)).to(device) for column in (planned.ids, planned.positions))
        hidden = F.embedding(ids, weights.embedding) * weights.embed_scale
        angles = positions.float()[:, None] * weights.inv_freq
        attention = _FlexAttention(planned, self.pool, self._flex)
        for number, layer in enumerate(weights.layers):
            hidden = self._layer(hidden, layer, (angles.cos(), angles.sin()), lambda *own, n=number, s=layer.scoring: attention(n, s, *own))
        hidden = self._norm(hidden[: planned.tokens], weights.final_norm)
        logits, log_total, probe = self._head(hidden, torch.from_numpy(planned.reads).to(device))
        return Computed(logits.cpu().numpy(), log_total.cpu().numpy(), None if probe is None else probe.cpu().numpy(), size)

    def _layer(
        self, hidden: Tensor, layer: PackedLayer, turn: tuple[Tensor, Tensor], attend: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor:
        weights = self._weights
        qkv = layer.qkv(self._norm(hidden, layer.before_attention)).view(len(hidden), -1, weights.head_dim).transpose(0, 1)
        query, key, value = torch.split(qkv, [weights.heads, weights.kv_heads, weights.kv_heads])
        attended = attend(_turned(query, turn), _turned(key, turn), value).transpose(0, 1).reshape(len(hidden), -1)
        hidden = hidden + self._norm(layer.o(attended), layer.after_attention)
        gate, up = layer.gate_up(self._norm(hidden, layer.before_mlp)).chunk(2, dim=-1)
        return hidden + self._norm(layer.down(F.gelu(gate, approximate="tanh") * up), layer.after_mlp)

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        wide = hidden.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self._weights.eps) * weight).to(hidden.dtype)


class _Compiled:
    """`flex_attention`, compiled once for each padded length, kind of keys and window: more often than torch allows unasked, after
    which it would write out whole score matrices.
    """

    def __init__(self) -> None:
        plain: Callable[..., Any] = flex_attention
        self._compiled = torch.compile(plain, dynamic=False)

    def __call__(self, *tensors: Tensor, **settings: Any) -> Any:
        with torch._dynamo.config.patch(recompile_limit=_MOST_COMPILED):  # noqa: SLF001  (the documented place)
            return self._compiled(*tensors, **settings)


@dataclass(frozen=True, slots=True)
class _Masks:
    resident: BlockMask | None
    own: BlockMask


class _FlexAttention:
    """Attention of one pass."""

    def __init__(self, planned: Plan, pool: KVPool, flex: Callable[..., Any]) -> None:
        device = pool.kv.device
        self._planned, self._pool, self._flex = planned, pool, flex
        slots = kept_slots(planned)
        self._kept = torch.from_numpy(np.flatnonzero(slots >= 0)).to(device)
        self._slots = torch.from_numpy(slots[slots >= 0].astype(np.int64)).to(device)
        self._length = int(planned.positions.max()) + 1
        self._masks: dict[int | None, _Masks] = {}

    def __call__(self, number: int, scoring: Scoring, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[heads, T, head_dim] from query [heads, T, head_dim], key and value [kv heads, T, head_dim]; keeps what stays."""
        layer = self._pool.kv[number]
        layer[0][:, self._slots] = key[:, self._kept]
        layer[1][:, self._slots] = value[:, self._kept]
        masks = self._masks_for(scoring.window)
        found, weight = self._attend(query, (key, value), masks.own, scoring)
        if masks.resident is None:
            return found
        earlier, earlier_weight = self._attend(query, (layer[0], layer[1]), masks.resident, scoring)
        share = torch.sigmoid(earlier_weight - weight).unsqueeze(-1)  # a token that sees nothing resident has weight -inf there
        return torch.where(share > 0, earlier.float() * share, 0.0).add(found.float() * (1.0 - share)).to(query.dtype)

    def _attend(self, query: Tensor, own: tuple[Tensor, Tensor], mask: BlockMask, scoring: Scoring) -> tuple[Tensor, Tensor]:
        cap = scoring.softcap

        def capped(score: Tensor, *_: Tensor) -> Tensor:
            return score if cap is None else cap * torch.tanh(score / cap)

        key, value = (tensor.unsqueeze(0) for tensor in own)
        found, extra = self._flex(
            query.unsqueeze(0).contiguous(), key.contiguous(), value.contiguous(), score_mod=capped, block_mask=mask, scale=scoring.scale,
            enable_gqa=query.shape[0] != key.shape[1], return_aux=AuxRequest(lse=True),
        )  # fmt: skip
        return found[0], extra.lse[0]

    def _masks_for(self, window: int | None) -> _Masks:
        window = window if window is not None and window < self._length else None
        if window not in self._masks:
            self._masks[window] = _masks(self._planned, self._pool, window)
        return self._masks[window]


def _masks(planned: Plan, pool: KVPool, window: int | None) -> _Masks:
    device = pool.kv.device
    size = _padded(planned.tokens)
    reach = window if window is not None else 1 << 30
    own_starts = np.arange(size)
    own_starts[: planned.tokens] = row_starts(planned)
    starts = torch.from_numpy(own_starts).to(device)

    def own(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key >= starts[query]) & (key <= query) & (key > query - reach)

    blocks = range(size // _BLOCK)
    mask_own = _block_mask(
        [np.arange(own_starts[block * _BLOCK] // _BLOCK, block + 1) for block in blocks], (size, size, _BLOCK), own, device
    )
    begins, counts = _pages_of(planned, pool)
    seen = begins >= 0
    if not seen.any():
        return _Masks(None, mask_own)
    padding = len(begins) - 1  # a row that sees nothing
    rows = torch.from_numpy(_filled(planned.row_of.astype(np.int64), size, padding)).to(device)
    positions = torch.from_numpy(_filled(planned.positions, size)).to(device)
    first, count = (torch.from_numpy(table).to(device) for table in (begins, counts))

    def resident(_batch: Tensor, _head: Tensor, query: Tensor, slot: Tensor) -> Tensor:
        row, page, place = rows[query], slot // PAGE, slot % PAGE
        return (place < count[row, page]) & (first[row, page] + place > positions[query] - reach)

    row_of = _filled(planned.row_of.astype(np.int64), size, padding).reshape(-1, _BLOCK)
    lists = [np.flatnonzero(seen[np.unique(row_of[block])].any(axis=0)) for block in blocks]
    return _Masks(_block_mask(lists, (size, pool.pages * PAGE, PAGE), resident, device), mask_own)


def _block_mask(
    lists: list[NDArray[np.int64]], lengths: tuple[int, int, int], visible: Callable[..., Tensor], device: torch.device
) -> BlockMask:
    """A mask whose query block i sees the key blocks lists[i]; `lengths`: queries, keys, keys a block."""
    queries, keys, width = lengths
    counts = np.array([len(found) for found in lists], np.int32)
    indices = np.zeros((len(lists), keys // width), np.int32)
    for row, found in zip(indices, lists, strict=True):
        row[: len(found)] = found
    return BlockMask.from_kv_blocks(
        torch.from_numpy(counts).to(device)[None, None], torch.from_numpy(indices).to(device)[None, None],
        BLOCK_SIZE=(_BLOCK, width), mask_mod=visible, seq_lengths=(queries, keys),
    )  # fmt: skip


def _pages_of(planned: Plan, pool: KVPool) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Where each page begins in each row's sequence (-1: not in it) and how many of its slots count; [rows, pages].

    One more row than there are at least, and as many as a pass of this length ever has, so that few shapes are compiled; the last sees
    nothing.
    """
    rows = max(16, _padded(planned.tokens) // 8, 1 << len(planned.rows).bit_length())
    begins = np.full((rows, pool.pages), -1, np.int32)
    counts = np.zeros((rows, pool.pages), np.int32)
    for number, row in enumerate(planned.rows):
        begin = 0
        for span in row.chain:
            offsets = np.arange(0, span.length, PAGE)
            pages = span.pages[: len(offsets)]
            begins[number, pages] = begin + offsets
            counts[number, pages] = np.minimum(PAGE, span.length - offsets)
            begin += span.length
    return begins, counts


def _turned(heads: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cosine, sine = turn
    low, high = heads.float().chunk(2, dim=-1)
    return torch.cat([low * cosine - high * sine, high * cosine + low * sine], dim=-1).to(heads.dtype)


def _padded(tokens: int) -> int:
    """Whole blocks, a power of two of them."""
    return _BLOCK << max(0, (tokens - 1) // _BLOCK).bit_length()


def _filled(values: NDArray[np.int64], size: int, padding: int = 0) -> NDArray[np.int64]:
    filled = np.full(size, padding, np.int64)
    filled[: len(values)] = values
    return filled
