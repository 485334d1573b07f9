"""Which rows the next pass runs: schedule, the first of the engine's three beats. Pure: no tensors, no thread, no clock of its own.

A batch is bounded in tokens and takes what fits, without waiting for more to come. Levels go in order, tenants within a level share by
tokens, a tenant's works go by deadline. A level that was passed over for `patience_s` takes a slice of the batch first, so that none
starves. One chunk of one prefix that is not resident rides along in each batch. A work larger than a whole batch is run in portions.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from guardrail.engine.cope.cold import ColdPrefixes
from guardrail.engine.cope.fair import FairQueue
from guardrail.engine.cope.work import Place, Work

LEVELS = 4
_LOOK, _LOOK_AT_ONE = 64, 8  # works that do not fit are looked past: so many for each level and batch, so many of one tenant
_QUIET = 3  # batches without rows until a chunk of prefill may fill the whole batch
_SMALLEST_PORTION = 64  # tokens; every portion of a large work reads all those before it again

W = TypeVar("W", bound=Work)


@dataclass(frozen=True, slots=True)
class Limits:
    """Tokens of a batch, of a chunk of prefill beside rows, of a tenant's turn; seconds after which a level passed over gets a slice.

    Raises ValueError where a number is out of its range.
    """

    batch: int = 1024
    chunk: int = 256
    quantum: int = 256
    patience_s: float = 0.5

    def __post_init__(self) -> None:
        if self.batch < 2 or min(self.chunk, self.quantum) < 1 or self.patience_s < 0:
            raise ValueError(f"a batch takes two tokens at least, a chunk and a quantum one, and patience is not negative: {self}")

    @property
    def slice(self) -> int:
        """Tokens of a batch that a level takes first which was passed over for too long (a first row may be larger)."""
        return max(1, self.batch // 8)


@dataclass(frozen=True, slots=True)
class Portion(Generic[W]):
    """So many of a work's tokens run in this batch: all of them, or a part of a work that is larger than a batch."""

    work: W
    tokens: int

    @property
    def last(self) -> bool:
        """Nothing of the work is left after it."""
        return self.tokens == self.work.tokens


@dataclass(frozen=True, slots=True)
class Batch(Generic[W]):
    """`chunk` tokens of the prefix `fill` beside the portions; None and 0 for none. `tokens` never exceed the limit."""

    portions: tuple[Portion[W], ...] = ()
    fill: str | None = None
    chunk: int = 0

    @property
    def tokens(self) -> int:
        """New tokens of the pass."""
        return self.chunk + sum(portion.tokens for portion in self.portions)


class _Forming(Generic[W]):
    """A batch on its way: how much is left of it, and how much of that is kept for the chunk of prefill."""

    def __init__(self, batch: int, *, chunk: int) -> None:
        self.portions: list[Portion[W]] = []
        self.batch = self.left = batch
        self.chunk = chunk

    def room(self, work: Work, most: int) -> int:
        """How many of a work's tokens fit: all, none, or a part of one that is larger than a batch."""
        if work.tokens <= self.batch:
            return work.tokens if work.tokens <= self.left - self.chunk else 0
        smallest = max(1, min(_SMALLEST_PORTION, self.batch // 2))
        part = min(self.left - self.chunk, max(most, smallest))
        return part if part >= smallest else 0

    def yield_to(self, work: Work) -> None:
        """The chunk gives way to a row that needs the room."""
        if work.tokens <= self.batch:
            self.chunk = max(0, min(self.chunk, self.left - work.tokens))

    def take(self, work: W, tokens: int) -> None:
        """It is part of the batch."""
        self.portions.append(Portion(work, tokens))
        self.left -= tokens


class Scheduler(Generic[W]):
    """Holds every work from `submit` until it is `done`, `cancel`led or `late`.

    After `schedule` each work of the batch is given back in exactly one way: `done`, `again`, `put_back`, `wait` or `defer`.
    For one thread.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._queues = [FairQueue[W](limits.quantum, most_owed=limits.batch) for _ in range(LEVELS)]
        self._passed_over: list[float | None] = [None] * LEVELS  # since when a level has had works and got nothing
        self._cold = ColdPrefixes[W](limits.patience_s)
        self._next: deque[W] = deque()  # did not fit the last batch; one for each level at most
        self._busy: dict[Hashable, W] = {}
        self._parked: dict[Hashable, list[W]] = {}
        self._deferred: list[tuple[float, int, W]] = []
        self._deadlines: list[tuple[float, int, W]] = []
        self._serials = itertools.count()
        self._live = 0
        self._gone = 0  # works that are gone and may still lie in a heap
        self._quiet = _QUIET
        self.queued_tokens = 0

    def __len__(self) -> int:
        return self._live

    @property
    def fill_tokens(self) -> int:
        """Tokens of prefixes that somebody waits for."""
        return self._cold.tokens

    def submit(self, work: W, now: float, *, missing: int = 0) -> None:
        """A new work; `missing` tokens of its prefix have to be run first (0: it is resident)."""
        work.serial = next(self._serials)
        self._live += 1
        self.queued_tokens += work.tokens
        heapq.heappush(self._deadlines, (work.deadline, work.serial, work))
        if missing:
            self._cold.wait(work, tokens=missing, now=now)
        else:
            self._push(work, now)

    def cancel(self, work: W) -> None:
        """Nobody wants it any more. Idempotent, and nothing for one that was never submitted."""
        if work.place not in (Place.NEW, Place.GONE):
            self._leave(work)

    def late(self, now: float) -> list[W]:
        """Works whose deadline has passed; they are gone."""
        found = []
        while self._deadlines and (self._deadlines[0][2].gone or self._deadlines[0][0] <= now):
            work = heapq.heappop(self._deadlines)[2]
            if not work.gone:
                found.append(work)
                self._leave(work)
        return found

    def schedule(self, now: float) -> Batch[W]:
        """The next batch; empty only when there is nothing that could be run now (see `wake_at`)."""
        while self._deferred and self._deferred[0][0] <= now:
            work = heapq.heappop(self._deferred)[2]
            if not work.gone:
                self._push(work, now)
        rows = bool(self._next) or any(queue.live for queue in self._queues)
        fill = self._cold.choose(now)
        forming = _Forming[W](self._limits.batch, chunk=0 if fill is None else self._chunk(beside_rows=rows))
        self._draw_next(forming)
        for level in range(1, LEVELS):
            since = self._passed_over[level]
            if since is not None and now - since >= self._limits.patience_s:
                self._draw(level, forming, self._limits.slice)
        for level in range(LEVELS):
            self._draw(level, forming, forming.left)
        served = {portion.work.level for portion in forming.portions}
        for level, queue in enumerate(self._queues):
            waited = None if level in served else self._passed_over[level]
            self._passed_over[level] = (now if waited is None else waited) if queue.live else None
        self._quiet = 0 if rows else self._quiet + 1
        return Batch(tuple(forming.portions), fill if forming.chunk else None, forming.chunk)

    def wake_at(self) -> float | None:
        """The next instant at which there will be something to do if nothing is submitted; None when there is nothing at all."""
        instants = [heap[0][0] for heap in (self._deadlines, self._deferred) if heap]
        cold = self._cold.wake_at()
        return min([*instants, *([] if cold is None else [cold])], default=None)

    def done(self, work: W) -> None:
        """It has been run, or failed: it is gone. Idempotent."""
        self.cancel(work)

    def again(self, work: W, tokens: int, now: float) -> None:
        """It goes on with `tokens` tokens to run, and keeps its lanes: a further portion of it is due."""
        self._resize(work, tokens)
        self._push(work, now)

    def put_back(self, work: W, now: float, *, tokens: int) -> None:
        """It has not been run (or begins again), and has `tokens` tokens."""
        self._refuse(work, tokens)
        self._push(work, now)

    def wait(self, work: W, now: float, *, tokens: int, missing: int) -> None:
        """It has not been run (or begins again): `missing` tokens of its prefix have to be run first."""
        self._refuse(work, tokens)
        self._cold.wait(work, tokens=missing, now=now)

    def defer(self, work: W, until: float, *, tokens: int) -> None:
        """It has not been run (or begins again) for want of room: not before `until`."""
        self._refuse(work, tokens)
        work.place = Place.DEFERRED
        work.retries += 1
        heapq.heappush(self._deferred, (until, work.serial, work))

    def wanted(self, prefix: str) -> bool:
        """Does anybody wait for a prefix to be resident?"""
        return self._cold.wanted(prefix)

    def filled(self, prefix: str, tokens: int) -> None:
        """So many more tokens of a prefix are resident, though not yet all."""
        self._cold.filled(prefix, tokens)

    def block(self, prefix: str, until: float) -> list[W]:
        """There was no room for a prefix: it is not tried before `until`. Who waits for it."""
        return self._cold.block(prefix, until)

    def warm(self, prefix: str, now: float) -> list[W]:
        """A prefix is resident: who waited for it may run, and is returned; works without tokens are to be told, and `done`."""
        works = self._cold.pop(prefix)
        for work in works:
            work.place = Place.RUNNING
            if work.tokens:
                self._push(work, now)
        return works

    def broken(self, prefix: str) -> list[W]:
        """A prefix cannot be made resident: who waited for it, and is gone."""
        works = self._cold.pop(prefix)
        for work in works:
            self._forget(work)
        return works

    def _push(self, work: W, now: float) -> None:
        self._queues[work.level].push(work)
        if self._passed_over[work.level] is None:
            self._passed_over[work.level] = now

    def _chunk(self, *, beside_rows: bool) -> int:
        if self._quiet >= _QUIET and not beside_rows:
            return self._limits.batch
        return min(self._limits.chunk, max(1, self._limits.batch // 2))

    def _draw_next(self, forming: _Forming[W]) -> None:
        """Take what did not fit the last batch, as far as it fits now; the first of it does. Rows of every size go on that way, and so
        does prefill: what pushes a chunk out leaves no room for another row that did not fit, and there is one for each level at most.
        """
        for work in [self._next.popleft() for _ in range(len(self._next))]:
            if work.gone:
                continue
            if not forming.portions:
                forming.yield_to(work)
            if self._take(work, forming, forming.left) is False:
                self._next.append(work)

    def _draw(self, level: int, forming: _Forming[W], most: int) -> None:
        """Take works of one level, about `most` tokens."""
        queue, end, aside = self._queues[level], forming.left - most, list[W]()
        while queue.live and forming.left > max(end, forming.chunk) and len(aside) < _LOOK:
            work = queue.pop(borrow=bool(aside))
            if work is None:
                break
            if self._take(work, forming, forming.left - end) is False:
                aside.append(work)
                if sum(other.tenant == work.tenant for other in aside) == _LOOK_AT_ONE:
                    queue.pause(work.tenant)
        queue.resume()
        if aside and all(work.level != level for work in self._next):
            aside[0].place = Place.NEXT
            self._next.append(aside.pop(0))
        for work in aside:
            queue.push(work)

    def _take(self, work: W, forming: _Forming[W], most: int) -> bool | None:
        """True: it is part of the batch. False: it does not fit. None: it waits for its lane."""
        lanes = self._lanes(work)
        for lane in lanes:
            if self._busy.get(lane, work) is not work:
                work.place = Place.PARKED
                self._parked.setdefault(lane, []).append(work)
                return None
        tokens = forming.room(work, most)
        if not tokens:
            return False
        for lane in lanes:
            self._busy[lane] = work
        work.lanes, work.place, work.charged = lanes, Place.RUNNING, tokens
        self._queues[work.level].charge(work.tenant, tokens)
        forming.take(work, tokens)
        return True

    def _lanes(self, work: W) -> tuple[Hashable, ...]:
        """What only one work may use at a time. Works larger than a batch hold pages until they end: one at a time for each level."""
        own: tuple[Hashable, ...] = () if work.lane is None else (("lane", work.lane),)
        return work.lanes or (*own, ("large", work.level)) if work.lanes or work.tokens > self._limits.batch else own

    def _free_lanes(self, work: W) -> None:
        for lane in work.lanes:
            del self._busy[lane]
            for parked in self._parked.pop(lane, ()):
                if not parked.gone:
                    self._queues[parked.level].push(parked)
        work.lanes = ()

    def _refuse(self, work: W, tokens: int) -> None:
        self._queues[work.level].charge(work.tenant, -work.charged)
        work.charged = 0
        self._resize(work, tokens)
        self._free_lanes(work)

    def _resize(self, work: W, tokens: int) -> None:
        self.queued_tokens += tokens - work.tokens
        work.tokens = tokens

    def _leave(self, work: W) -> None:
        if work.place is Place.READY:
            self._queues[work.level].dropped()
        elif work.place is Place.COLD:
            self._cold.dropped(work.prefix)
        self._forget(work)

    def _forget(self, work: W) -> None:
        work.place = Place.GONE
        self._live -= 1
        self._gone += 1
        self.queued_tokens -= work.tokens
        self._free_lanes(work)
        if self._gone > max(256, self._live):
            self._sweep()

    def _sweep(self) -> None:
        """Free the memory of works that are gone: callers that come and go by the thousand while a long pass runs leave nothing behind."""
        self._gone = 0
        for queue in self._queues:
            queue.sweep()
        self._cold.sweep()
        self._deadlines = _living(self._deadlines)
        self._deferred = _living(self._deferred)
        self._parked = {lane: [work for work in works if not work.gone] for lane, works in self._parked.items()}


def _living(heap: Iterable[tuple[float, int, W]]) -> list[tuple[float, int, W]]:
    living = [entry for entry in heap if not entry[2].gone]
    heapq.heapify(living)
    return living
