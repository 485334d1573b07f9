"""An engine that scores by arithmetic on token ids: it keeps the Protocol's promises and needs no torch. Also a process of its own."""

import asyncio
import gc
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np

from guardrail.engine.cope.messages import Ask, EngineInfo, Health, Prefix, Read, Told
from guardrail.engine.cope.process.host import run
from guardrail.engine.cope.process.orders import Reporter, read_orders
from guardrail.engine.cope.settings import EngineSettings
from guardrail.errors import ClassifierError, GuardrailError

STUCK = -1
"""The first token of an ask that is answered only by its deadline, or by `release`."""

POISON = -2
FATAL = -3
HANGING = -4

INFO = EngineInfo("stand-in", "sha256:aa", "", "float32", 8192)


def tokens(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


class StandIn:
    """Answers depend on prefix and tokens; a prefix that was not prepared is an error."""

    def __init__(self, info: EngineInfo = INFO) -> None:
        self.info = info
        self.prefixes: dict[str, Prefix] = {}
        self.streams: dict[str, int] = {}
        self.forgotten: list[str] = []
        self.stuck = 0
        self.cancelled = 0
        self.asked: list[Ask] = []
        self.alive = True
        self.arrived = asyncio.Event()
        self.released = asyncio.Event()
        self.taken_back = asyncio.Event()

    async def prepare(self, prefixes: list[Prefix], *, deadline: float) -> None:
        if deadline <= time.monotonic():
            raise ClassifierError("timeout", "the deadline has passed")
        for prefix in prefixes:
            if len(prefix.tokens) > self.info.longest:
                raise ClassifierError("too_long", f"{len(prefix.tokens)} tokens, {self.info.longest} fit")
            self.prefixes[prefix.key] = prefix

    async def ask(self, asks: list[Ask]) -> list[Told | ClassifierError]:
        self.asked += asks
        return [await self._answer(ask) for ask in asks]

    async def _answer(self, ask: Ask) -> Told | ClassifierError:
        if ask.tokens[0] == STUCK:
            self.stuck += 1
            self.arrived.set()
            try:
                async with asyncio.timeout(ask.deadline - time.monotonic()):
                    await self.released.wait()
            except TimeoutError:
                return ClassifierError("timeout", "stuck until the deadline")
            except asyncio.CancelledError:
                self.cancelled += 1
                self.taken_back.set()
                raise
        if ask.tokens[0] == POISON:
            raise RuntimeError("poisoned")
        if ask.tokens[0] == FATAL:
            self.alive = False
        if ask.tokens[0] == HANGING:
            time.sleep(1000)
        if ask.prefix not in self.prefixes:
            return ClassifierError("not_prepared", f"{ask.prefix} is not prepared")
        kept = 0
        if ask.stream is not None:
            kept, self.streams[ask.stream] = self.streams.get(ask.stream, 0), ask.keep
        return told(self.prefixes[ask.prefix].tokens, ask.tokens, run=len(ask.tokens) - min(kept, ask.keep), probe=ask.probe * ask.keep)

    def forget(self, stream: str) -> None:
        self.streams.pop(stream, None)
        self.forgotten.append(stream)

    def health(self) -> Health:
        resident = len(self.prefixes)
        return Health(self.alive, 0.0, 0, 1.0, len(self.asked), 0, 9, resident, 0, 0, len(self.streams), str(os.getpid()))

    async def aclose(self) -> None:
        self.alive = False


def told(prefix: Sequence[int], asked: Sequence[int], *, run: int | None = None, probe: int = 0) -> Told:
    """What the stand-in says."""
    mixed = sum((place + 1) * int(token) for place, token in enumerate([*prefix, *asked])) / 7
    return Told(
        Read(mixed, -mixed, abs(mixed) + 0.1, len(asked), tuple(place / 3 for place in range(probe))), len(asked) if run is None else run
    )


async def opened(settings: EngineSettings) -> StandIn:
    if settings.model == "missing":
        raise GuardrailError("there is no model `missing`; run `guardrail model merge`")
    print("what is printed here must not be taken for a report")
    return StandIn()


@asynccontextmanager
async def no_defects() -> AsyncIterator[None]:
    """What goes wrong inside a callback is only logged by asyncio; here it fails the test."""
    found: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    yield
    gc.collect()  # futures whose exception nobody saw complain when they go
    await asyncio.sleep(0)
    assert found == []


if __name__ == "__main__":
    reporter = Reporter()
    run(read_orders(sys.stdin.buffer), opened, reporter)
