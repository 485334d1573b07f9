"""Engines for tests: one on a tiny Gemma-2, and one on a runner that scores by arithmetic, fast, with faults on demand."""

import asyncio
import math
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tiny_models import head_of, pool_for

from guardrail.engine.cope.composing import Parts
from guardrail.engine.cope.engine import LocalEngine, Vigils
from guardrail.engine.cope.flat import FlatRunner
from guardrail.engine.cope.kv import PAGE, KVPool, KVShape
from guardrail.engine.cope.messages import Ask, EngineInfo, Prefix, Priority
from guardrail.engine.cope.packed_weights import PackedWeights
from guardrail.engine.cope.prefixes import PrefixStore
from guardrail.engine.cope.reference import ReferenceRunner
from guardrail.engine.cope.rows import Plan
from guardrail.engine.cope.runner import Computed, Runner
from guardrail.engine.cope.settings import EngineSettings
from guardrail.engine.cope.streams import StreamStore

VOCABULARY = 512
INFO = EngineInfo("test", "sha256:aa", "", "float32", 8192)
QUIET = Vigils(canary_s=1e6, close_s=5.0)
POISON, NO_NUMBER = 500, 501  # ids at which the arithmetic runner raises, or gives NaN


class SumRunner:
    """Logits are (0, x) with x a hash of every token of the row's prompt: it reads them from the KV pages as a model would.

    `before` is called with the rows of each pass; what it raises is the pass's fault. `seconds` a pass takes at least.
    """

    name = "sum"

    def __init__(self, pages: int = 256, most_tokens: int = 8192) -> None:
        shape = KVShape(1, 1, 1)
        self.pool = KVPool(shape, budget_bytes=pages * PAGE * 8)
        self.most_tokens = most_tokens
        self.seconds = 0.0
        self.passes: list[Plan] = []
        self.before: Callable[[Plan], None] = lambda planned: None
        self.drift = 0.0

    def forward(self, planned: Plan) -> Computed:
        """Write each kept token's id as its key, and sum up what stands in the pages of a row's chain and in the row."""
        self.passes.append(planned)
        if self.seconds:
            time.sleep(self.seconds)
        self.before(planned)
        if (planned.ids == POISON).any():
            raise ValueError("a poisoned row")
        keys = self.pool.kv[0, 0, 0, :, 0].numpy()
        logits = np.zeros((len(planned.reads), 2), np.float32)
        for number, row in enumerate(planned.rows):
            if row.keep and row.into is not None:
                keys[row.into.slots(row.into.length, row.into.length + row.keep)] = row.tokens[: row.keep]
            if row.read:
                seen = [keys[span.slots(0, span.length)] for span in row.chain]
                ids = np.concatenate([*seen, row.tokens])
                logits[planned.read_rows.index(number), 1] = score_of(ids) + self.drift
        return Computed(logits, np.full(len(logits), 20.0, np.float32), None, planned.tokens)


def score_of(ids: Sequence[int] | np.ndarray) -> float:
    """The arithmetic runner's logit of a whole prompt, in (-3, 3); NaN where an id asks for it."""
    ids = np.asarray(ids, np.int64)
    return math.nan if (ids == NO_NUMBER).any() else float((ids * (np.arange(len(ids)) % 97 + 1)).sum() % 601) / 100 - 3


@dataclass
class Rig:
    """An engine, its parts, and its prefixes' tokens."""

    engine: LocalEngine
    parts: Parts
    prefixes: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def pool(self) -> KVPool:
        return self.parts.runner.pool

    def prefix(self, key: str, length: int, **named: Any) -> Prefix:
        """A random policy."""
        generator = np.random.default_rng(zlib.crc32(key.encode()))
        self.prefixes[key] = generator.integers(3, 490, length, dtype=np.int32)
        return Prefix(key, self.prefixes[key], **named)

    async def prepare(self, *prefixes: Prefix, seconds: float = 20.0) -> None:
        await self.engine.prepare(list(prefixes), deadline=time.monotonic() + seconds)

    async def settled(self) -> None:
        """Once the engine's thread has nothing to do and has said how it is."""
        done = threading.Event()
        for _ in range(2):
            done.clear()
            self.engine._loop.post(done.set)
            await asyncio.to_thread(done.wait, 5.0)
        await asyncio.sleep(0.02)

    def resident_pages(self) -> int:
        """Pages that resident policies own."""
        return self.parts.prefixes.counters.resident_bytes // self.pool.page_bytes


@contextmanager
def stopped(runner: SumRunner) -> Iterator[None]:
    """Meanwhile no pass ends."""
    release = threading.Event()

    def before(planned: Plan) -> None:
        release.wait(30)

    runner.before = before
    try:
        yield
    finally:
        runner.before = lambda planned: None
        release.set()


def ask(prefix: str, tokens: Sequence[int] | np.ndarray, *, seconds: float = 20.0, **named: Any) -> Ask:
    """A question with a deadline so many seconds from now."""
    return Ask(prefix, np.asarray(tokens, np.int32), time.monotonic() + seconds, **({"priority": Priority.INPUT} | named))


def parts_of(runner: Runner, *, host_pages: int = 0, stream_pages: int | None = None) -> Parts:
    """A runner with its stores."""
    pool = runner.pool
    prefixes = PrefixStore(pool, host_bytes=host_pages * pool.page_bytes)
    streams = StreamStore(prefixes, budget_bytes=(pool.pages // 2 if stream_pages is None else stream_pages) * pool.page_bytes)
    return Parts(runner, prefixes, streams)


def settings_of(**named: Any) -> EngineSettings:
    """Small batches, so that tests see several."""
    return replace(EngineSettings("tiny", batch_tokens=512, prefill_chunk=128), **named)


@asynccontextmanager
async def running(parts: Parts, *, vigils: Vigils = QUIET, **named: Any) -> AsyncIterator[Rig]:
    """An open engine, closed afterwards, all within a minute."""
    async with asyncio.timeout(60):
        engine = await LocalEngine(parts, INFO, settings_of(**named), vocabulary=VOCABULARY, vigils=vigils).open()
        try:
            yield Rig(engine, parts)
        finally:
            await engine.aclose()


def tiny_parts(model: Any, *, pages: int = 256, flat: bool = False, **named: Any) -> Parts:
    """The reference runner over a tiny model, or the fast one."""
    pool, head = pool_for(model, pages), head_of(model)
    runner: Runner = FlatRunner(PackedWeights.from_gemma2(model), pool, head) if flat else ReferenceRunner(model, pool, head)
    return parts_of(runner, **named)
