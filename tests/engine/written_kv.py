"""A runner without a model: what it writes for a token tells its place and all tokens before it, so that a wrong page shows."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from guardrail.engine.cope.kv import PAGE, KVPool, KVShape, KVSpan
from guardrail.engine.cope.prefixes import Filling, PrefixStore
from guardrail.engine.cope.rows import Plan
from guardrail.engine.cope.runner import Computed, execute

SHAPE = KVShape(layers=2, heads=1, head_dim=2)
_PRIME = 1_000_003  # below 2^24: exact in fp32


def pool_of(pages: int) -> KVPool:
    return KVPool(SHAPE, budget_bytes=pages * PAGE * SHAPE.bytes_per_token(torch.float32))


def written(tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """What a sequence leaves behind at each of its places."""
    places = np.arange(len(tokens), dtype=np.int64)
    return (np.cumsum((tokens.astype(np.int64) + 1) * (places * 7919 + 13)) % _PRIME).astype(np.float32)


def holds(span: KVSpan, before: NDArray[np.int32] | None = None) -> bool:
    """Does the pool hold what this span's tokens leave behind, after those of the spans before it?"""
    before = np.zeros(0, np.int32) if before is None else before
    assert span.first == len(before)
    assert len(span.tokens) == span.length <= len(span.pages) * PAGE
    expected = written(np.concatenate([before, span.tokens]))[len(before) :]
    found = span.pool.kv[:, :, :, torch.as_tensor(span.slots(0, span.length))].numpy()
    return bool((found == expected[:, None] + _marks()[:, :, None, None, None]).all())


def _marks() -> NDArray[np.float32]:
    return np.arange(2 * SHAPE.layers, dtype=np.float32).reshape(SHAPE.layers, 2)


class Failure(Exception):
    """The runner's own."""


class WritingRunner:
    """Writes what rows keep, after it has checked that their chains hold what they should. `fails`: its next passes raise half-way."""

    name = "writing"
    most_tokens = 1 << 20

    def __init__(self, pool: KVPool) -> None:
        self.pool = pool
        self.fails = 0

    def forward(self, planned: Plan) -> Computed:
        for row in planned.rows:
            before = np.zeros(0, np.int32)
            for span in row.chain:
                assert holds(span, before)
                before = np.concatenate([before, span.tokens])
            if row.into is not None and row.keep:
                assert row.into.first + row.into.length == len(before)
                slots = torch.as_tensor(row.into.slots(row.into.length, row.into.length + row.keep))
                values = written(np.concatenate([before, row.tokens]))[len(before) : len(before) + row.keep]
                marked = values[:, None] + _marks()[:, :, None, None, None]
                self.pool.kv[:, :, :, slots] = torch.from_numpy(np.broadcast_to(marked, (*_marks().shape, 1, row.keep, 2)).copy())
            if self.fails:
                self.fails -= 1
                raise Failure
        reads = len(planned.reads)
        return Computed(np.zeros((reads, 2), np.float32), np.ones(reads, np.float32), None, planned.tokens)


def fill(store: PrefixStore, key: str, *, runner: WritingRunner | None = None, chunk: int = 100) -> Filling:
    """To the end, a pass a chunk."""
    runner = runner or WritingRunner(store.pool)
    filling = store.fill(key)
    while not filling.done and (row := filling.row(chunk)) is not None:
        execute(runner, [row])
        filling.settle()
    return filling


def owned_as_booked(pool: KVPool, spans: Iterable[KVSpan]) -> bool:
    """Is each page owned by just the spans that lie on it, and by as many?"""
    owners = np.zeros(pool.pages, np.int32)
    for span in spans:
        owners[span.pages] += 1
    return bool((owners == pool.ownership()).all()) and pool.used_pages == np.count_nonzero(owners)
