"""An engine behind a Unix socket: the same Protocol as one in this process, and no wait for it while it is down."""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from guardrail.engine.cope.messages import Ask, EngineInfo, Health, Prefix
from guardrail.engine.cope.process.connection import Connection
from guardrail.engine.cope.process.dialogue import ENTRIES_A_FRAME, Answer
from guardrail.engine.cope.process.link import Bounds
from guardrail.errors import ClassifierError

TOKENS_A_FRAME = 1 << 20
MOST_PREFIXES = 1024
UNHEARD = Health(
    alive=False,
    heartbeat_age_s=0.0,
    queued_tokens=0,
    tokens_per_s=0.0,
    batches=0,
    used_pages=0,
    free_pages=0,
    prefixes_resident=0,
    prefixes_offloaded=0,
    evictions=0,
    streams=0,
)

logger = logging.getLogger("guardrail.engine")

T = TypeVar("T", Ask, Prefix)


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. `open_s`: for the first connection; `prepare_s`: for preparing again after a restart; `pause_s`: between attempts, at
    most; `silence_s`: without a sign of life the engine counts as down; `grace_s`: past a deadline, for the engine's own refusal."""

    open_s: float = 120.0
    prepare_s: float = 900.0
    pause_s: float = 2.0
    silence_s: float = 5.0
    grace_s: float = 1.0


class SocketEngine:
    """Usable after `open`. Reconnects by itself; the prefixes it prepared are prepared again before it counts as up.

    While it is down every ask is answered with ClassifierError (crash) at once, and `prepare` raises it. It remembers the
    MOST_PREFIXES prefixes that were used last. An engine that comes back with another model stays down: verdicts name the old one.
    """

    def __init__(self, path: Path, *, patience: Patience | None = None, bounds: Bounds | None = None) -> None:
        self._path = path
        self._patience = patience or Patience()
        self._bounds = bounds or Bounds()
        self._prefixes: OrderedDict[str, Prefix] = OrderedDict()
        self._info: EngineInfo | None = None
        self._connection: Connection | None = None
        self._settled = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._reason = "it was not opened"
        self._last = UNHEARD
        self._heard = time.monotonic()

    async def open(self) -> None:
        """Connect for the first time. Raises ClassifierError (crash) with the reason when that does not succeed in `open_s`."""
        self._keeping = asyncio.create_task(self._keep())
        self._keeping.add_done_callback(self._kept)
        try:
            async with asyncio.timeout(self._patience.open_s):
                await self.up()
        except (TimeoutError, ClassifierError):
            reason = self._reason
            await self.aclose()
            raise ClassifierError("crash", f"no engine can be reached at {self._path}: {reason}") from None

    async def up(self) -> None:
        """Return when it can be asked. Raises ClassifierError when it never will be again."""
        await self._settled.wait()
        self._live()

    @property
    def info(self) -> EngineInfo:
        """What it serves. Raises ClassifierError before `open`."""
        if self._info is None:
            raise ClassifierError("crash", f"the engine is not open: {self._reason}")
        return self._info

    async def prepare(self, prefixes: list[Prefix], *, deadline: float) -> None:
        """Raises ClassifierError; what was prepared is remembered for the engine's next start."""
        connection = self._live()
        await self._prepare(connection, prefixes, deadline)
        for prefix in prefixes:
            self._prefixes[prefix.key] = prefix
            self._prefixes.move_to_end(prefix.key)
        while len(self._prefixes) > MOST_PREFIXES:
            self._prefixes.popitem(last=False)

    async def ask(self, asks: list[Ask]) -> list[Answer]:
        """One entry an ask, in order."""
        parts = list(_parts(asks))
        if len(parts) == 1:
            return await self._part(parts[0])
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._part(part)) for part in parts]
        return [answer for task in tasks for answer in task.result()]

    def forget(self, stream: str) -> None:
        """An engine that is down has forgotten it already."""
        if self._connection is not None:
            self._connection.forget(stream)

    def health(self) -> Health:
        """What the engine said last, and how long ago; not alive while it cannot be asked."""
        self._listen()
        silent_s = time.monotonic() - self._heard
        now = replace(self._last, heartbeat_age_s=self._last.heartbeat_age_s + silent_s)
        if self._connection is None or not self._connection.link.open:
            return replace(now, alive=False, detail=f"the engine is down: {self._reason}")
        if silent_s > self._patience.silence_s:
            return replace(now, alive=False, detail=f"the engine's process was not heard of for {silent_s:.1f} s")
        return now

    async def aclose(self) -> None:
        """Fail every waiter and leave; the engine's process lives on for others. Idempotent."""
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            keeping.cancel()
            await asyncio.wait((keeping,))
        self._end("it was closed")

    def _live(self) -> Connection:
        if self._connection is None or not self._connection.link.open:
            raise ClassifierError("crash", f"the engine is down: {self._reason}")
        return self._connection

    def _listen(self) -> None:
        """Take over what the engine said of itself last."""
        if self._connection is not None and self._connection.health is not None:
            self._last, self._heard = self._connection.health, self._connection.heard

    def _end(self, reason: str) -> None:
        self._reason = reason
        self._listen()
        if self._connection is not None:
            self._connection.close(reason)
            self._connection = None

    async def _part(self, asks: Sequence[Ask]) -> list[Answer]:
        for key in {ask.prefix for ask in asks} & self._prefixes.keys():
            self._prefixes.move_to_end(key)
        try:
            return await self._live().ask(asks, grace_s=self._patience.grace_s)
        except ClassifierError as error:
            return [error] * len(asks)

    async def _prepare(self, connection: Connection, prefixes: Sequence[Prefix], deadline: float) -> None:
        for part in _parts(prefixes):
            await connection.prepare(part, deadline=deadline, grace_s=self._patience.grace_s)

    async def _prepare_again(self, connection: Connection, deadline: float) -> None:
        """What was prepared before. A prefix that this engine has no room for must not keep the others from being asked: it is let go."""
        try:
            await self._prepare(connection, list(self._prefixes.values()), deadline)
        except ClassifierError as error:
            if error.code != "too_long":
                raise
            for key, prefix in list(self._prefixes.items()):
                try:
                    await self._prepare(connection, [prefix], deadline)
                except ClassifierError as refusal:
                    if refusal.code != "too_long":
                        raise
                    del self._prefixes[key]
                    logger.error("policy prefix %s is not prepared again, its questions will be errors: %s", key, refusal)  # noqa: TRY400

    async def _keep(self) -> None:
        """Connect, wait for the end of the connection, and again."""
        known = retry_if_exception_type((OSError, ClassifierError))
        wait = wait_random_exponential(multiplier=0.05, max=self._patience.pause_s)
        attempts = AsyncRetrying(retry=known, wait=wait, before_sleep=self._note)
        while True:
            connection: Connection = await attempts(self._connect)
            self._connection = connection
            if connection.link.open:
                self._settled.set()
            logger.info("connected to the engine at %s; %d policies prepared", self._path, len(self._prefixes))
            reason = await asyncio.shield(connection.over)
            self._end(reason)
            logger.warning("the engine at %s is gone: %s", self._path, reason)

    async def _connect(self) -> Connection:
        with contextlib.ExitStack() as stack:
            connection = await Connection.open(self._path, bounds=self._bounds, left=self._settled.clear)
            stack.callback(connection.close, "it is of no use")
            if self._info is not None and connection.info != self._info:
                raise ClassifierError("crash", f"it came back as {connection.info}, and not as {self._info}; restart the workers too")
            await self._prepare_again(connection, time.monotonic() + self._patience.prepare_s)
            self._info = connection.info
            stack.pop_all()
        return connection

    def _note(self, state: RetryCallState) -> None:
        if state.outcome is not None:
            self._reason = str(state.outcome.exception())

    def _kept(self, task: asyncio.Task[None]) -> None:
        """Nobody connects any more: by `aclose`, or by a defect, which must not look like an engine that is on its way back."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._end(f"connecting failed for good: {type(error).__name__}")
            self._settled.set()
            logger.error("the engine's client failed", exc_info=error)


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """As few questions as fit a frame each: nearly always one."""
    start = size = 0
    for place, item in enumerate(items):
        if place > start and (size + len(item.tokens) > TOKENS_A_FRAME or place - start >= ENTRIES_A_FRAME):
            yield items[start:place]
            start, size = place, 0
        size += len(item.tokens)
    if start < len(items):
        yield items[start:]


async def open_socket_engine(path: Path) -> SocketEngine:
    """A client of the engine that listens at `path`. Raises ClassifierError (crash) when it cannot be reached."""
    engine = SocketEngine(path)
    await engine.open()
    return engine
