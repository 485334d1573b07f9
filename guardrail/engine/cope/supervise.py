"""An engine in this process that is started anew when it dies, with the policies it had."""

import asyncio
import gc
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Self

from guardrail.engine.cope.engine import LocalEngine
from guardrail.engine.cope.messages import Ask, EngineInfo, Health, Prefix, Told
from guardrail.engine.cope.process.supervisor import Pauses
from guardrail.errors import ClassifierError

WATCH_S = 0.25
PREPARE_S = 600.0
_MOST_PREFIXES = 4096

logger = logging.getLogger("guardrail.engine")

Opener = Callable[[], Awaitable[LocalEngine]]


class SupervisedEngine:
    """Implements `EngineClient`, for the event loop it is opened on. `opener` makes an open engine, and is called again after each death.

    While there is no engine every question is answered at once, with ClassifierError (crash), and health says when the next one is
    tried. A fault of a GPU is sticky: only a new process helps, which is what the supervisor of `process` starts.
    """

    def __init__(self, opener: Opener, *, pauses: Pauses | None = None, watch_s: float = WATCH_S) -> None:
        self.starts = 0
        self._opener = opener
        self._pauses = pauses or Pauses()
        self._watch_s = watch_s
        self._engine: LocalEngine | None = None
        self._info: EngineInfo | None = None
        self._outage = Health(False, 0.0, 0, 0.0, 0, 0, 0, 0, 0, 0, 0, "the engine has not been opened")
        self._prefixes: OrderedDict[str, Prefix] = OrderedDict()
        self._keeping: asyncio.Task[None] | None = None
        self._preparing: asyncio.Task[None] | None = None

    async def open(self) -> Self:
        """Start the first one. Raises what the opener raises."""
        self._serve(await self._opener())
        self._keeping = asyncio.create_task(self._keep())
        return self

    @property
    def info(self) -> EngineInfo:
        """Of the engine there is, or was last. Raises ClassifierError (crash) before there was one."""
        if self._info is None:
            raise ClassifierError("crash", self._outage.detail)
        return self._info

    async def prepare(self, prefixes: list[Prefix], *, deadline: float) -> None:
        """See `EngineClient`. What was prepared is prepared again on every engine to come."""
        if self._engine is None:
            raise ClassifierError("crash", self._outage.detail)
        await self._engine.prepare(prefixes, deadline=deadline)
        for prefix in prefixes:
            self._prefixes[prefix.key] = prefix
            self._prefixes.move_to_end(prefix.key)
        while len(self._prefixes) > _MOST_PREFIXES:
            self._prefixes.popitem(last=False)

    async def ask(self, asks: list[Ask]) -> list[Told | ClassifierError]:
        """See `EngineClient`."""
        if self._engine is None:
            return [ClassifierError("crash", self._outage.detail) for _ in asks]
        return await self._engine.ask(asks)

    def forget(self, stream: str) -> None:
        """See `EngineClient`."""
        if self._engine is not None:
            self._engine.forget(stream)

    def health(self) -> Health:
        """See `EngineClient`."""
        return self._outage if self._engine is None else self._engine.health()

    async def aclose(self) -> None:
        """See `EngineClient`."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait((self._keeping,))
        if self._engine is not None:
            await self._engine.aclose()

    def _serve(self, engine: LocalEngine) -> None:
        self.starts += 1
        self._engine, self._info = engine, engine.info

    async def _keep(self) -> None:
        """Watch over one engine after the other."""
        while True:
            began = time.monotonic()
            await self._until_dead()
            await self._start_next(lived_s=time.monotonic() - began)

    async def _until_dead(self) -> None:
        while self._engine is not None:
            health = self._engine.health()
            if not health.alive:
                dead, self._engine = self._engine, None
                self._outage = health
                dead.kill(health.detail)
                await dead.aclose()
                return
            await asyncio.sleep(self._watch_s)

    async def _start_next(self, lived_s: float) -> None:
        reason = self._outage.detail
        while self._engine is None:
            gc.collect()  # the dead one's memory, before another one needs as much
            pause_s = self._pauses.after(lived_s)
            self._down(f"the engine died ({reason}); the next one starts in {pause_s:.1f} s")
            await asyncio.sleep(pause_s)
            self._down(f"the engine died ({reason}); the next one is starting")
            began = time.monotonic()
            opening = asyncio.ensure_future(self._opener())
            try:
                await asyncio.wait((opening,))
            except asyncio.CancelledError:
                await _abandoned(opening)
                raise
            error = opening.exception() or await self._stranger(opening.result())
            if error is None:
                await self._hand_over(opening.result())
            else:
                logger.error("the engine did not start again", exc_info=error)
                reason, lived_s = f"it did not start again: {error}", time.monotonic() - began

    def _down(self, detail: str) -> None:
        logger.error("%s", detail)
        self._outage = Health(False, 0.0, 0, 0.0, 0, 0, 0, 0, 0, 0, 0, detail)

    async def _stranger(self, engine: LocalEngine) -> ClassifierError | None:
        """Whoever asks has prompts, and names verdicts, for the model that was there first: another one is closed again."""
        if self._info is None or _named(engine.info) == _named(self._info):
            return None
        await engine.aclose()
        return ClassifierError("crash", f"it came back as {engine.info}, and not as {self._info}; restart guardrail")

    async def _hand_over(self, engine: LocalEngine) -> None:
        """From here on it is asked. What is not resident yet is being filled, and questions wait for it."""
        if self._prefixes:
            deadline = time.monotonic() + PREPARE_S
            self._preparing = asyncio.create_task(engine.prepare(list(self._prefixes.values()), deadline=deadline))
            self._preparing.add_done_callback(_report)
            await asyncio.sleep(0)  # by now it knows them
        self._serve(engine)
        logger.info("the engine is back")


def _named(info: EngineInfo) -> tuple[str, ...]:
    """What scores depend on beyond rounding: another runner of the same model will do."""
    return info.model, info.adapter, info.prompt, info.quantisation


async def _abandoned(opening: asyncio.Future[LocalEngine]) -> None:
    """An engine that nobody wants any more."""
    opening.cancel()
    await asyncio.wait((opening,))
    if not opening.cancelled() and opening.exception() is None:
        await opening.result().aclose()


def _report(preparing: asyncio.Future[None]) -> None:
    if not preparing.cancelled() and (error := preparing.exception()) is not None:
        logger.error("not every policy could be prepared again: %s", error)
