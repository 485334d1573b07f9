"""The thread that writes: batches from a bounded queue, each in one transaction, tried again for as long as the store cannot be written."""

import contextlib
import logging
import sqlite3
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from guardrail.audit.keys import Secrets, StoreKeys, open_keys
from guardrail.audit.ledger import Ledger, SegmentSize, Synchronous, connect
from guardrail.audit.record import NOTE, AuditRecord
from guardrail.audit.retention import Retention, oversized, prune
from guardrail.audit.row import Entry, Row
from guardrail.audit.tally import Tally, left_behind
from guardrail.errors import GuardrailError
from guardrail.events import AuditTroubled

logger = logging.getLogger("guardrail")

_CHARACTERS = 64 * 1024 * 1024  # of judged text in the queue, beside which its length says little
_BATCH = 256
_PRUNING_S = 600.0
_AT_A_STRETCH = 4  # records made while nobody waits for them: some 0.1 ms, in which no request is served
_BREATH_S = 0.0005
_TROUBLE = (sqlite3.Error, OSError, GuardrailError)


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """`queue` records wait at most; `linger_s` is how long a batch may grow while nobody waits for it, `retry_s` the longest pause
    between attempts on a store that cannot be written, `close_s` how long the end waits for it, and `busy_s` any attempt for another
    process that writes."""

    queue: int = 10_000
    synchronous: Synchronous = "full"
    segment: SegmentSize = field(default_factory=SegmentSize)
    retention: Retention = field(default_factory=Retention)
    linger_s: float = 0.05
    retry_s: float = 2.0
    close_s: float = 10.0
    busy_s: float = 5.0


@dataclass(slots=True)
class Item:
    """One record to be: `make` builds it with the key of the texts' hashes. `settled` is told whether it is in the store."""

    make: Callable[[bytes], Entry]
    characters: int
    settled: Callable[[bool], None] | None = None


@dataclass(frozen=True, slots=True)
class WriterStatus:
    """How it does. `failing` is why the store cannot be written, "" while it can. `dropped` records were left out so far."""

    queued: int
    capacity: int
    written: int
    dropped: int
    failing: str


class AuditWriter:
    """Takes records from any thread and writes them in its own. `told` hears of every trouble, from whichever thread finds it."""

    def __init__(
        self, path: Path, secrets: Secrets, settings: WriterSettings, told: Callable[[AuditTroubled], None] = lambda _: None
    ) -> None:
        self._path = path
        self._secrets = secrets
        self._settings = settings
        self._told = told
        self._state = threading.Condition()
        self._queue: deque[Item] = deque()
        self._characters = 0
        self._urgent = 0
        self._accepted = self._dropped = self._noted = self._written = 0
        self._burst = self._said = 0
        self._failing = ""
        self._closing: float | None = None
        self._ending = threading.Event()
        self._tally: Tally | None = None
        self._ledger: Ledger | None = None
        self._keys: StoreKeys | None = None
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._pruned = 0.0
        self._file = 0

    def start(self) -> None:
        """Begin; whether the store can be written shows later."""
        with contextlib.suppress(*_TROUBLE):
            self._tally = Tally(self._path)
        self._thread.start()

    def status(self) -> WriterStatus:
        """How it does now."""
        with self._state:
            return WriterStatus(len(self._queue), self._settings.queue, self._written, self._dropped, self._failing)

    @property
    def room(self) -> bool:
        """Whether the queue takes another record."""
        return len(self._queue) < self._settings.queue and self._characters < _CHARACTERS and self._closing is None

    @property
    def failing(self) -> str:
        """Why the store cannot be written; "" while it can."""
        return self._failing

    def put(self, item: Item) -> bool:
        """Queue a record, or count it as left out. One that somebody waits for may go over the bound, twice the bound at most.

        (Whoever waits for its record was let in while there was room, and waits with a request of its own.)
        """
        with self._state:
            bound = self._settings.queue * (2 if item.settled else 1)
            taken = self._closing is None and len(self._queue) < bound and (item.settled is not None or self._characters < _CHARACTERS)
            if taken:
                self._queue.append(item)
                self._characters += item.characters
                self._accepted += 1
                self._urgent += item.settled is not None
                if len(self._queue) == 1 or self._urgent or len(self._queue) >= _BATCH:
                    self._state.notify_all()
            else:
                self._dropped += 1
                self._burst += 1
                first = self._burst == 1
            self._count()
        if not taken and first:
            logger.error("the audit store's queue is full: records are left out, and counted")
        return taken

    def close(self) -> None:
        """Write what is queued, for `close_s` at most, and let go of the file. What is left then is lost, and the next start says so."""
        with self._state:
            self._closing = time.monotonic() + (min(1.0, self._settings.close_s) if self._failing else self._settings.close_s)
            self._state.notify_all()
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(self._settings.close_s + 10.0)

    def _count(self) -> None:
        if self._tally is not None:
            with contextlib.suppress(OSError):
                self._tally.write(self._accepted, self._dropped)

    def _run(self) -> None:
        pause = 0.05
        batch: list[Item] = []
        while True:
            batch = batch or self._take()
            if not batch and self._closing is not None:
                break
            try:
                self._write(batch)
                batch = []
                self._prune()
                self._recovered()
                pause = 0.05
                continue
            except _TROUBLE as error:
                self._trouble(error)
            except Exception as error:  # border: a defect must not end the writer; its batch is lost, and said to be
                logger.exception("the audit writer failed on %s records", len(batch))
                self._lost(batch, type(error).__name__)
                batch = []
            if self._closing is not None and time.monotonic() + pause > self._closing:
                break
            self._ending.wait(pause if self._closing is None else 0.05)
            pause = min(pause * 2, self._settings.retry_s)
        self._end(batch)

    def _take(self) -> list[Item]:
        """The next batch: at once where somebody waits for a record, else after the little while in which it may grow."""
        with self._state:
            if not self._queue and self._closing is None and self._ledger is not None:  # else: open it, whatever there is to write
                self._state.wait(1.0)
            if self._queue and not self._urgent and len(self._queue) < _BATCH and self._closing is None:
                self._state.wait(self._settings.linger_s)
            batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
            self._characters -= sum(item.characters for item in batch)
            self._urgent -= sum(item.settled is not None for item in batch)
        return batch

    def _write(self, batch: Sequence[Item]) -> None:
        """Raises what `_TROUBLE` names, and then nothing of the batch is written."""
        ledger = self._open()
        with self._state:
            dropped = self._dropped
        records, lost = self._made(batch)
        unnoted = dropped - self._noted
        if unnoted or lost:
            records.append(_note(dropped=unnoted, lost=lost))
        if records:
            with ledger.transaction():
                ledger.add(records)
                committed = self._written + len(batch)
                ledger.connection.execute("INSERT OR REPLACE INTO writers VALUES (?, ?, ?)", (self._id, committed, dropped))
            self._written, self._noted = committed, dropped
        for item in batch:
            if item.settled is not None:
                item.settled(True)
        if unnoted:
            with self._state:
                self._burst = 0
            logger.error("%s decisions were left out of the audit store: its queue was full", unnoted)
            self._say_dropped()

    def _prune(self) -> None:
        """From time to time, and whenever the store is too large. Its failures are not the batch's, which is written."""
        ledger, retention = self._open(), self._settings.retention
        if not self._pruned or time.monotonic() - self._pruned > _PRUNING_S or oversized(ledger, retention):
            for damaged in prune(ledger, retention).damaged:
                logger.error("what the audit store dropped for its age or size was not what had been written: %s", damaged)
                self._told(AuditTroubled("damaged", 0, damaged))
            self._pruned = time.monotonic()

    def _made(self, batch: Sequence[Item]) -> tuple[list[Row], int]:
        """The records, and how many cannot be made: those are lost, which must not keep the others out."""
        assert self._keys is not None
        records: list[Row] = []
        hurried = len(batch) >= _BATCH or any(item.settled is not None for item in batch)
        for number, item in enumerate(batch, 1):
            if number % _AT_A_STRETCH == 0 and not hurried and self._closing is None:
                time.sleep(_BREATH_S)
            try:
                records.append(item.make(self._keys.texts[0]).row())
            except (ValueError, TypeError, LookupError):
                logger.exception("a decision cannot be made a record")
                if item.settled is not None:
                    item.settled(False)
                    item.settled = None
        return records, len(batch) - len(records)

    @property
    def _id(self) -> str:
        return self._tally.id if self._tally is not None else "unknown"

    def _open(self) -> Ledger:
        if self._tally is None:
            self._tally = Tally(self._path)
            with self._state:
                self._count()
        if self._ledger is not None and not self._same_file():
            logger.error("the audit store %s was moved or deleted; a new one is begun", self._path)
            self._ledger.close()
            self._ledger = None
        if self._ledger is None:
            self._keys = open_keys(self._path, self._secrets, create=True)
            connection = connect(self._path, synchronous=self._settings.synchronous, busy_s=self._settings.busy_s)
            ledger = Ledger(connection, self._keys, self._settings.segment)
            try:
                self._settle_left(ledger)
            except _TROUBLE:
                ledger.close()
                raise
            self._ledger, self._file = ledger, self._path.stat().st_ino
        return self._ledger

    def _same_file(self) -> bool:
        with contextlib.suppress(OSError):
            return self._path.stat().st_ino == self._file
        return False

    def _settle_left(self, ledger: Ledger) -> None:
        """Say what was lost with processes before this one. Said once: the counts are set even in the transaction that says it."""
        with left_behind(self._path) as every:
            for left in every:
                with ledger.transaction():
                    row = ledger.connection.execute("SELECT committed, noted FROM writers WHERE id = ?", (left.id,)).fetchone()
                    committed, noted = row or (0, 0)
                    lost, dropped = max(0, left.accepted - committed), max(0, left.dropped - noted)
                    ledger.add([_note(lost=lost, dropped=dropped)] if lost or dropped else [])
                    counts = (left.id, max(left.accepted, committed), max(left.dropped, noted))
                    ledger.connection.execute("INSERT OR REPLACE INTO writers VALUES (?, ?, ?)", counts)
                if lost or dropped:
                    logger.error("the process before this one ended with %s decisions not yet recorded, %s left out", lost, dropped)
                    self._told(AuditTroubled("lost", lost + dropped, "a process ended before its decisions were recorded"))
        alive = {path.name.rpartition("-")[2] for path in self._path.parent.glob(f"{self._path.name}.writer-*")}
        gone = [row for row in ledger.connection.execute("SELECT id FROM writers").fetchall() if row[0] not in alive]
        ledger.connection.executemany("DELETE FROM writers WHERE id = ?", gone)

    def _trouble(self, error: Exception) -> None:
        detail = f"{type(error).__name__}: {error}"
        if not self._failing:
            logger.error("the audit store %s cannot be written, which is tried again: %s", self._path, detail)
            self._told(AuditTroubled("failing", 0, detail))
        self._failing = detail
        self._say_dropped()
        if self._ledger is not None and not isinstance(error, sqlite3.OperationalError):  # the file may be another by now
            self._ledger.close()
            self._ledger = None

    def _recovered(self) -> None:
        if self._failing:
            self._failing = ""
            logger.warning("the audit store %s can be written again", self._path)
            self._told(AuditTroubled("recovered", 0))

    def _say_dropped(self) -> None:
        """What was left out since this was last said."""
        with self._state:
            new, self._said = self._dropped - self._said, self._dropped
        if new:
            self._told(AuditTroubled("queue_full", new))

    def _lost(self, batch: Sequence[Item], detail: str) -> None:
        for item in batch:
            if item.settled is not None:
                item.settled(False)
        if batch:
            self._told(AuditTroubled("unwritable", len(batch), detail))

    def _end(self, batch: Sequence[Item]) -> None:
        with self._state:
            left = [*batch, *self._queue]
            self._queue.clear()
        if left:
            logger.error("%s decisions could not be recorded before the end", len(left))
        self._lost(left, self._failing)
        complete = not left and self._noted == self._dropped and self._written == self._accepted
        if self._ledger is not None:
            if complete:
                with contextlib.suppress(sqlite3.Error):
                    self._ledger.connection.execute("DELETE FROM writers WHERE id = ?", (self._id,))
            self._ledger.close()
        if self._tally is not None:
            self._tally.close(remove=complete)


def _note(**counts: int) -> Row:
    """The store's own word about records that it does not hold."""
    told = {name: count for name, count in counts.items() if count}
    return Entry(AuditRecord(id=uuid.uuid4().hex, time=time.time(), kind=NOTE, note=MappingProxyType(told))).row()
