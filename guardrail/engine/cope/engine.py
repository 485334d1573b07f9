"""The engine in this process: one thread owns model, pages and streams; event loops ask it and are told."""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np

from guardrail.engine.cope.admission import Admission
from guardrail.engine.cope.canary import Canary
from guardrail.engine.cope.composing import Parts
from guardrail.engine.cope.delivery import Call, Callers, Outcome
from guardrail.engine.cope.faults import EngineFault
from guardrail.engine.cope.jobs import Job
from guardrail.engine.cope.loop import EngineLoop, not_prepared
from guardrail.engine.cope.messages import Ask, EngineInfo, Health, Prefix, Priority, Told
from guardrail.engine.cope.schedule import Limits
from guardrail.engine.cope.settings import EngineSettings
from guardrail.errors import ClassifierError

_MOST_STREAMS = 65_536  # of which is remembered how much of them was kept; it is only an estimate

logger = logging.getLogger("guardrail.engine")


@dataclass(frozen=True, slots=True)
class Vigils:
    """How an engine watches itself. Every `canary_s` seconds a fixed row is judged, and its score may move by `tolerance`. A loop
    whose last turn began more than `stale_s` ago counts as dead: longer than its longest pass. `open_s` and `close_s`: for the first
    answer, and for the thread to end.
    """

    canary_s: float = 10.0
    tolerance: float = 1e-3
    stale_s: float = 120.0
    open_s: float = 120.0
    close_s: float = 10.0


class LocalEngine:
    """Implements `EngineClient` for any number of event loops. `open` it before use.

    `vocabulary`: token ids are below it. What fails every waiter (a fault of the device, memory that runs out twice, a canary that
    answers otherwise than at the start, `kill`) ends this engine for good; `SupervisedEngine` starts the next.
    """

    def __init__(self, parts: Parts, info: EngineInfo, settings: EngineSettings, *, vocabulary: int, vigils: Vigils | None = None) -> None:
        self._info = info
        self._vocabulary = vocabulary
        self._vigils = vigils or Vigils()
        self._admission = Admission(settings.queue_tokens)
        self._canary = Canary(vocabulary, every_s=self._vigils.canary_s, tolerance=self._vigils.tolerance)
        limits = Limits(batch=settings.batch_tokens, chunk=settings.prefill_chunk)
        self._loop = EngineLoop(parts, limits, self._admission, self._canary)
        self._callers = Callers()
        self._grown: OrderedDict[str, dict[str, int]] = OrderedDict()  # tokens a stream has probably resident, by prefix
        self._stopping = False
        self._thread = threading.Thread(target=self._live, name="cope-engine", daemon=True)

    @property
    def info(self) -> EngineInfo:
        """What it serves."""
        return self._info

    async def open(self) -> Self:
        """Start, and wait for the first answer. Raises ClassifierError when there is none."""
        self._thread.start()
        (first,) = await self.ask([self._canary.ask(time.monotonic() + self._vigils.open_s)])
        if isinstance(first, ClassifierError):
            await self.aclose()
            raise first
        return self

    async def prepare(self, prefixes: list[Prefix], *, deadline: float) -> None:
        """See `EngineClient`. Each prefix has been resident when this returns; more than fit at once go to host memory in turn."""
        if not prefixes:
            return
        for prefix in prefixes:
            self._check_ids(prefix.tokens, f"the prefix {prefix.key}")
            if len(prefix.tokens) >= self._info.longest:
                raise ClassifierError(
                    "too_long", f"the prefix {prefix.key} has {len(prefix.tokens)} tokens; {self._info.longest} fit with the text behind it"
                )
        call = Call(len(prefixes))
        jobs = [
            Job(prefix.key, 0, deadline, Priority.BACKGROUND, prefix.tenant, call=call, number=number)
            for number, prefix in enumerate(prefixes)
        ]
        with self._waiting(call, jobs):
            for prefix in prefixes:
                self._loop.lengths.setdefault(prefix.key, len(prefix.tokens))  # from now on questions may wait for it
            self._loop.post(partial(self._loop.prepare, prefixes, jobs))
            for outcome in await call.answered:
                if isinstance(outcome, ClassifierError):
                    raise outcome

    async def ask(self, asks: list[Ask]) -> list[Told | ClassifierError]:
        """See `EngineClient`. What cannot be served is told at once, the rest not later than its deadline."""
        if not asks:
            return []
        call = Call(len(asks))
        jobs: list[Job] = []
        for number, ask in enumerate(asks):
            try:
                jobs.append(self._admitted(call, number, ask))
            except ClassifierError as error:
                call.settle(number, error)
        try:
            with self._waiting(call, jobs):
                if jobs:
                    self._loop.post(partial(self._loop.submit, jobs))
                outcomes = await call.answered
        except ClassifierError as error:
            call.fail(error.code, str(error))
            outcomes = await call.answered
        return self._noted(asks, outcomes)

    def forget(self, stream: str) -> None:
        """See `EngineClient`."""
        self._grown.pop(stream, None)
        if self._callers.reason is None:
            self._loop.post(partial(self._loop.forget, stream))

    def health(self) -> Health:
        """See `EngineClient`. The sizes are those of the loop's last look, a tenth of a second ago or one pass."""
        gauges, age = self._loop.gauges, max(0.0, time.monotonic() - self._loop.beat)
        detail = self._callers.reason or ""
        if not detail and age > self._vigils.stale_s:
            detail = f"the engine's loop has stood still for {age:.0f} s"
        return Health(
            alive=not detail,
            heartbeat_age_s=age,
            queued_tokens=self._admission.tokens,
            tokens_per_s=self._loop.pace.tokens_per_s,
            batches=gauges.batches,
            used_pages=gauges.used_pages,
            free_pages=gauges.free_pages,
            prefixes_resident=gauges.prefixes_resident,
            prefixes_offloaded=gauges.prefixes_offloaded,
            evictions=gauges.evictions,
            streams=gauges.streams,
            detail=detail,
        )

    def kill(self, reason: str) -> None:
        """End it now: everybody who waits is told, whatever its thread is doing. For any thread. Idempotent."""
        self._stopping = True
        if self._callers.end(reason):
            logger.error("the engine ends: %s", reason)
        self._loop.post(_nothing)

    async def aclose(self) -> None:
        """See `EngineClient`. A thread that is inside a pass is waited for, but not for ever."""
        self._stopping = True
        self._callers.end("the engine is closed")
        self._loop.post(_nothing)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, self._vigils.close_s)

    def _live(self) -> None:
        """The thread."""
        reason = "the engine's thread ended"
        try:
            while not self._stopping:
                self._loop.turn()
            self._loop.close()
        except EngineFault as fault:
            reason = str(fault)
        except BaseException as error:  # border: whatever ends this thread, everybody who waits is told, and health says so
            logger.exception("the engine's thread failed")
            reason = f"the engine's thread failed: {type(error).__name__}: {error}"
        if self._callers.end(reason):
            logger.error("the engine ends: %s", reason)

    def _admitted(self, call: Call, number: int, ask: Ask) -> Job:
        """Raises ClassifierError for what cannot be served, before anything of it is queued."""
        self._check(ask)
        grown = self._grown.get(ask.stream, {}).get(ask.prefix, 0) if ask.stream is not None else 0
        tokens = max(1, len(ask.tokens) - grown)
        lane = None if ask.stream is None else (ask.stream, ask.prefix)
        job = Job(ask.prefix, tokens, ask.deadline, ask.priority, ask.tenant, lane, ask=ask, call=call, number=number)
        job.ticket = self._admission.enter(ask.tenant, tokens, ahead=self._loop.gauges.fill_tokens, pace=self._loop.pace)
        return job

    def _check(self, ask: Ask) -> None:
        self._check_ids(ask.tokens, "the text")
        if not 0 <= ask.keep <= len(ask.tokens) or (ask.keep and ask.stream is None):
            raise ClassifierError("malformed", f"{ask.keep} of {len(ask.tokens)} tokens cannot be kept; only a stream's own can")
        if math.isnan(ask.deadline) or ask.deadline <= time.monotonic():
            raise ClassifierError("timeout", "the deadline had passed when the engine was asked")
        prefix = self._loop.lengths.get(ask.prefix)
        if prefix is None:
            raise not_prepared(ask.prefix)
        if prefix + len(ask.tokens) > self._info.longest:
            message = f"the policy takes {prefix} tokens and the text {len(ask.tokens)}; together {self._info.longest} fit"
            raise ClassifierError("too_long", message)

    def _check_ids(self, ids: np.ndarray, what: str) -> None:
        """One id out of range would fail the whole pass that it is in, and on a GPU the whole process."""
        if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer):
            raise ClassifierError("malformed", f"{what} is a row of token ids, one at least, not {ids.dtype} of shape {ids.shape}")
        if ids.min() < 0 or ids.max() >= self._vocabulary:
            raise ClassifierError("malformed", f"{what} has token ids outside [0, {self._vocabulary})")

    @contextlib.contextmanager
    def _waiting(self, call: Call, jobs: Sequence[Job]) -> Iterator[None]:
        """While a caller waits: it is told when the engine ends, and at its deadlines; when it goes, so do its jobs."""
        timers: list[asyncio.TimerHandle] = []
        try:
            self._callers.add(call)
            for deadline in {job.deadline for job in jobs} - {math.inf}:
                late = [job for job in jobs if job.deadline == deadline]
                timers.append(call.loop.call_later(max(0.0, deadline - time.monotonic()), _expire, call, late))
            yield
        finally:
            for timer in timers:
                timer.cancel()
            self._callers.discard(call)
            for job in jobs:
                if job.ticket is not None:
                    self._admission.leave(job.ticket)
            if call.answered.cancelled() and self._callers.reason is None:
                self._loop.post(partial(self._loop.cancel, jobs))

    def _noted(self, asks: Sequence[Ask], outcomes: Sequence[Outcome]) -> list[Told | ClassifierError]:
        """The answers; how far streams have grown is noted, to know beforehand how much their next step will run."""
        found: list[Told | ClassifierError] = []
        for ask, outcome in zip(asks, outcomes, strict=True):
            if outcome is None:
                raise TypeError("a question was told nothing")
            found.append(outcome)
            if ask.stream is not None and isinstance(outcome, Told):
                self._grown.setdefault(ask.stream, {})[ask.prefix] = ask.keep
                if len(self._grown) > _MOST_STREAMS:
                    with contextlib.suppress(KeyError):
                        self._grown.popitem(last=False)
        return found


def _expire(call: Call, jobs: Sequence[Job]) -> None:
    for job in jobs:
        call.settle(job.number, job.lateness())


def _nothing() -> None:
    """Mail that only wakes the engine's thread."""
