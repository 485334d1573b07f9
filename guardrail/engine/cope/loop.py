"""The engine's thread: schedule, run, settle. It alone touches pages and tensors; others reach it by its mailbox."""

import contextlib
import logging
import math
import queue
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from guardrail.engine.cope.admission import Admission, Pace
from guardrail.engine.cope.canary import Canary
from guardrail.engine.cope.composing import Composer, Parts, Refusal
from guardrail.engine.cope.delivery import Delivery, Outcome
from guardrail.engine.cope.faults import Isolation
from guardrail.engine.cope.filling import Filling
from guardrail.engine.cope.jobs import Job
from guardrail.engine.cope.kv import OutOfPages
from guardrail.engine.cope.messages import Prefix, Read, Told
from guardrail.engine.cope.rows import Row
from guardrail.engine.cope.runner import execute
from guardrail.engine.cope.schedule import Batch, Limits, Scheduler
from guardrail.errors import ClassifierError

_IDLE_S = 0.5  # longest sleep: the heartbeat of an engine that has nothing to do
_PAUSE_S = 0.001  # after a batch of which nothing could be run
_RETRY_S, _LONGEST_RETRY_S = 0.01, 0.5  # until what there were no pages for is tried again
_GAUGE_S = 0.1

logger = logging.getLogger("guardrail.engine")


@dataclass(frozen=True, slots=True)
class Gauges:
    """How the engine was at its last look. Counters since the start."""

    batches: int = 0
    used_pages: int = 0
    free_pages: int = 0
    prefixes_resident: int = 0
    prefixes_offloaded: int = 0
    evictions: int = 0
    streams: int = 0
    fill_tokens: int = 0


class EngineLoop:
    """All methods but `post` are for the engine's thread. Raises ClassifierError where not even the canary's prefix fits the pool."""

    def __init__(self, parts: Parts, limits: Limits, admission: Admission, canary: Canary) -> None:
        limits = replace(limits, batch=min(limits.batch, parts.runner.most_tokens))
        self.pace = Pace()
        self.beat = time.monotonic()
        self.gauges = Gauges()
        self.lengths: dict[str, int] = {}
        """Tokens of the prefixes that are known."""
        self._parts = parts
        self._admission = admission
        self._canary = canary
        self._limit = limits.batch
        self._scheduler = Scheduler[Job](limits)
        self._composer = Composer(parts)
        self._isolation = Isolation()
        self._delivery = Delivery()
        self._mailbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._jobs: set[Job] = set()
        self._fillings: dict[str, Filling] = {}
        self._blocked: dict[str, int] = {}  # how often in succession there was no room for a prefix
        self._warmed = False  # a prefix became resident without a pass: who waited for it can run at once
        self._batches = 0
        self._gauged = 0.0
        parts.prefixes.register(canary.prefix)
        self.lengths[canary.prefix.key] = len(canary.prefix.tokens)

    def post(self, work: Callable[[], None]) -> None:
        """Have it done on the engine's thread, between two passes. For any thread."""
        self._mailbox.put(work)

    def turn(self) -> None:
        """The three beats, once. Sleeps when there is nothing to do. Raises EngineFault."""
        self._read_mail()
        now = self.beat = time.monotonic()
        for job in self._scheduler.late(now):
            self._end(job, job.lateness())
        self._ask_canary(now)
        batch = self._scheduler.schedule(now)
        self._warmed = False
        jobs, rows = self._compose(batch, now)
        if rows:
            results = self._run(rows)
            self._settle(batch, list(zip(jobs, rows, results, strict=True)))
        self._delivery.send()
        self._cancel_fillings()
        idle = not (batch.portions or batch.fill)
        self._gauge(now, idle=idle)
        if not rows and not self._warmed:
            self._rest(now, idle=idle)

    def close(self) -> None:
        """Give back everything that jobs hold. They are told nothing: that is done already."""
        for job in list(self._jobs):
            self._drop(job)
        for filling in self._fillings.values():
            filling.cancel()
        self._fillings.clear()
        self._gauge(math.inf, idle=True)

    def submit(self, jobs: Iterable[Job]) -> None:
        """New questions."""
        now = time.monotonic()
        for job in jobs:
            if job.prefix not in self.lengths or not self._parts.prefixes.known(job.prefix):
                self.lengths.pop(job.prefix, None)
                self._jobs.add(job)
                self._end(job, not_prepared(job.prefix))
            else:
                self._submit(job, now)

    def prepare(self, prefixes: Sequence[Prefix], jobs: Sequence[Job]) -> None:
        """Prefixes to be made resident, and for each the job that waits for it."""
        for prefix, job in zip(prefixes, jobs, strict=True):
            self._jobs.add(job)
            try:
                self._parts.prefixes.register(prefix)
            except ClassifierError as error:
                if not self._parts.prefixes.known(prefix.key):
                    self.lengths.pop(prefix.key, None)
                self._end(job, error)
                continue
            self.lengths[prefix.key] = len(prefix.tokens)
            if self._parts.prefixes.resident(prefix.key):
                self._end(job, None)
            else:
                self._submit(job, time.monotonic())
        if len(self.lengths) > 2 * len(prefixes) + 8192:
            for key in list(self.lengths):  # a copy: callers' threads add to it meanwhile
                if not self._parts.prefixes.known(key):
                    self.lengths.pop(key, None)

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Nobody waits for them any more."""
        for job in jobs:
            if job in self._jobs:
                self._drop(job)

    def forget(self, stream: str) -> None:
        """A stream is over."""
        self._parts.streams.forget(stream)

    def _read_mail(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._mailbox.get_nowait()()

    def _rest(self, now: float, *, idle: bool) -> None:
        wake_at = self._scheduler.wake_at()
        until = min(now + _IDLE_S, max(now, self._canary.next), math.inf if wake_at is None else wake_at)
        with contextlib.suppress(queue.Empty):
            self._mailbox.get(timeout=max(_PAUSE_S, until - time.monotonic()) if idle else _PAUSE_S)()

    def _submit(self, job: Job, now: float) -> None:
        self._jobs.add(job)
        resident = self._parts.prefixes.resident(job.prefix)
        self._scheduler.submit(job, now, missing=0 if resident else self.lengths[job.prefix])

    def _ask_canary(self, now: float) -> None:
        ask = self._canary.due(now)
        if ask is not None:
            self._parts.prefixes.register(self._canary.prefix)  # it may have been forgotten among many others
            self.lengths[ask.prefix] = len(self._canary.prefix.tokens)
            job = Job(ask.prefix, len(ask.tokens), ask.deadline, ask.priority, ask.tenant, ask=ask)
            self._submit(job, now)

    def _compose(self, batch: Batch[Job], now: float) -> tuple[list[Job | Filling], list[Row]]:
        jobs: list[Job | Filling] = []
        rows: list[Row] = []
        spare = self._limit - batch.tokens
        for portion in batch.portions:
            self._composer.pin(portion.work)
        for portion in batch.portions:
            job = portion.work
            row = self._composer.compose(portion, spare)
            if isinstance(row, Refusal):
                self._refuse(job, row, now)
                continue
            spare += portion.tokens - len(row.tokens)
            jobs.append(job)
            rows.append(row)
        if batch.fill is not None:
            chunk = self._filling_row(batch.fill, batch.chunk, now)
            if chunk is not None:
                jobs.append(self._fillings[batch.fill])
                rows.append(chunk)
        return jobs, rows

    def _refuse(self, job: Job, why: Refusal, now: float) -> None:
        if why is Refusal.SIZE and job.rest is not None:
            size = len(job.rest.tokens)
            self._composer.release(job)
            self._scheduler.put_back(job, now, tokens=size)
        elif why is Refusal.PAGES:
            self._defer(job, now)
        else:
            self._scheduler.wait(job, now, tokens=job.size, missing=self.lengths.get(job.prefix, 1))

    def _defer(self, job: Job, now: float) -> None:
        self._composer.release(job)
        job.short = True
        self._scheduler.defer(job, now + _retry_s(job.retries), tokens=job.size)

    def _filling_row(self, key: str, chunk: int, now: float) -> Row | None:
        """The next chunk of a prefix; None when it need not (or cannot) be run."""
        try:
            filling = self._fillings[key] = self._parts.prefixes.fill(key)
            row = filling.row(chunk)
        except ClassifierError as error:
            self._break(key, error.code, str(error))
            return None
        except OutOfPages:
            times = self._blocked[key] = self._blocked.get(key, 0) + 1
            for job in self._scheduler.block(key, now + _retry_s(times)):
                job.short = True
            return None
        if filling.done:
            self._warm(key)
        return row

    def _run(self, rows: Sequence[Row]) -> list[Read | Exception | None]:
        began = time.monotonic()
        results = self._isolation.run(lambda some: execute(self._parts.runner, some), rows)
        self._batches += 1
        ran = sum(len(row.tokens) for row, result in zip(rows, results, strict=True) if not isinstance(result, Exception))
        self.pace.measured(ran, max(1e-9, time.monotonic() - began))
        if all(isinstance(result, Exception) and not isinstance(result, OutOfPages) for result in results):
            self._canary.doubt()
        return results

    def _settle(self, batch: Batch[Job], results: Sequence[tuple[Job | Filling, Row, Read | Exception | None]]) -> None:
        now = time.monotonic()
        for job, row, result in results:
            if isinstance(job, Filling):
                self._settle_filling(batch.fill or "", job, row, result)
            elif isinstance(result, OutOfPages):
                self._defer(job, now)
            elif isinstance(result, Exception):
                self._end(job, ClassifierError("crash", f"the model failed on this text: {type(result).__name__}"))
            else:
                self._settle_row(job, row, result, now)

    def _settle_row(self, job: Job, row: Row, read: Read | None, now: float) -> None:
        job.ran += len(row.tokens)
        if read is not None:
            job.probe += read.probe
        if job.rest is not None:
            self._scheduler.again(job, len(job.rest.tokens), now)
        elif read is None or not all(math.isfinite(value) for value in (read.zero, read.one, read.log_total, *job.probe)):
            if job.span is not None:
                self._parts.prefixes.distrust(job.prefix)
            self._end(job, ClassifierError("not_a_number", "the model's answer to this text is not a number"), sound=False)
        else:
            if job.span is not None:
                job.span.proven = True
            self._end(job, Told(replace(read, probe=job.probe), job.ran))

    def _settle_filling(self, key: str, filling: Filling, row: Row, result: Read | Exception | None) -> None:
        filling.settle()
        if isinstance(result, Exception) and not isinstance(result, OutOfPages):
            self._break(key, "crash", f"the model failed on this policy: {type(result).__name__}")
        elif filling.done:
            self._warm(key)
        elif not isinstance(result, Exception):
            self._scheduler.filled(key, len(row.tokens))

    def _warm(self, key: str) -> None:
        """A prefix is resident. Who waited for it holds it from now on, lest it leave again before they have run."""
        self._warmed = True
        self._fillings.pop(key, None)
        self._blocked.pop(key, None)
        for job in self._scheduler.warm(key, time.monotonic()):
            if job.ask is None:
                self._end(job, None)
            else:
                job.span = self._parts.prefixes.acquire(key, job.tenant)

    def _break(self, key: str, code: str, reason: str) -> None:
        """A prefix cannot be made resident."""
        if filling := self._fillings.pop(key, None):
            filling.cancel()
        self._blocked.pop(key, None)
        for job in self._scheduler.broken(key):
            self._end(job, ClassifierError(code, reason))

    def _cancel_fillings(self) -> None:
        for key in [key for key in self._fillings if not self._scheduler.wanted(key)]:
            self._fillings.pop(key).cancel()
            self._blocked.pop(key, None)

    def _end(self, job: Job, outcome: Outcome, *, sound: bool = True) -> None:
        """Tell whoever waits."""
        self._drop(job, sound=sound)
        if job.call is not None:
            self._delivery.add(job.call, job.number, outcome)
        else:
            self._canary.judge(outcome)

    def _drop(self, job: Job, *, sound: bool = True) -> None:
        self._jobs.discard(job)
        self._scheduler.done(job)
        self._composer.release(job, sound=sound)
        if job.ticket is not None:
            self._admission.leave(job.ticket)

    def _gauge(self, now: float, *, idle: bool) -> None:
        if not idle and now - self._gauged < _GAUGE_S:
            return
        self._gauged = now
        prefixes, pool = self._parts.prefixes.counters, self._parts.runner.pool
        self.gauges = Gauges(
            batches=self._batches,
            used_pages=pool.used_pages,
            free_pages=pool.free_pages,
            prefixes_resident=prefixes.resident,
            prefixes_offloaded=prefixes.offloaded,
            evictions=prefixes.evictions,
            streams=self._parts.streams.counters.streams,
            fill_tokens=self._scheduler.fill_tokens,
        )


def not_prepared(key: str) -> ClassifierError:
    """What a question under an unknown prefix is told."""
    return ClassifierError("not_prepared", f"the engine does not know the prefix {key}; prepare its policy first")


def _retry_s(times: int) -> float:
    return min(_LONGEST_RETRY_S, _RETRY_S * 2.0 ** min(times, 10))
