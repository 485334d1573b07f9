"""The writing side of the store: one connection, one transaction for a batch, the chain carried on from wherever it stands."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from guardrail.audit.chain import GENESIS, Chain, Chains
from guardrail.audit.content import digest, sealed
from guardrail.audit.keys import StoreKeys
from guardrail.audit.record import AuditRecord
from guardrail.audit.row import Entry, Row
from guardrail.audit.schema import COLUMNS, MARKED_DAMAGE, migrate, version_of
from guardrail.errors import GuardrailError

Synchronous = Literal["full", "normal", "off"]

_INSERT = f"INSERT INTO records (place, {', '.join(COLUMNS)}, body, previous, hash) VALUES "  # noqa: S608  (no value in it)
_ROW = f"({', '.join('?' * (len(COLUMNS) + 4))})"
_ROWS = 32, 8, 1
"""At once in one statement: between two of them another thread may take the interpreter, which is long in giving it back. (Of 24 values
each, where older SQLite takes 999.)"""
_HEAD = "sequence, hash, time, chain, opened, opened_after, opened_time, opened_bytes"
_SEGMENT = "number, first, last, after, hash, started, ended, chain, signature, pruned, content_dropped, mark, damage"


@dataclass(frozen=True, slots=True)
class SegmentSize:
    """When a segment is sealed: at so many records, at so many seconds since its first, or at so many bytes."""

    records: int = 10_000
    seconds: float = 86_400.0
    bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain ends: the last record's number and hash, and where the open segment began."""

    sequence: int = 0
    hash: bytes = GENESIS
    time: float = 0.0
    chain: str = ""
    opened: int = 1
    opened_after: bytes = GENESIS
    opened_time: float = 0.0
    opened_bytes: int = 0

    def values(self) -> tuple[int | str | float, ...]:
        """What the signature covers."""
        after, began = self.opened_after.hex(), float(self.opened_time)
        return self.sequence, self.hash.hex(), float(self.time), self.chain, self.opened, after, began, self.opened_bytes


@dataclass(frozen=True, slots=True)
class Segment:
    """A sealed run of records. `pruned` and `content_dropped` are times, 0 for not yet, `damage` is what was wrong with it then;
    `mark` is the signature over those."""

    number: int
    first: int
    last: int
    after: bytes
    hash: bytes
    started: float
    ended: float
    chain: str
    signature: str = ""
    pruned: float = 0.0
    content_dropped: float = 0.0
    mark: str = ""
    damage: str = ""

    def values(self) -> tuple[int | str | float, ...]:
        """What the signature covers."""
        hashes = self.after.hex(), self.hash.hex()
        return self.number, self.first, self.last, *hashes, float(self.started), float(self.ended), self.chain

    def marks(self) -> tuple[int | str | float, ...]:
        """What the mark covers."""
        marks = self.number, self.signature, float(self.pruned), float(self.content_dropped)
        return (*marks, self.damage) if self.damage else marks


def connect(path: Path, *, synchronous: Synchronous = "full", busy_s: float = 5.0) -> sqlite3.Connection:
    """A connection that may write; makes the file, readable by its owner alone. Raises OSError or sqlite3.Error."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA secure_delete = ON")
        migrate(connection)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


class Ledger:
    """Appends records. One thread at a time; other processes may append to the same file, each batch of theirs before or after ours."""

    def __init__(self, connection: sqlite3.Connection, keys: StoreKeys, size: SegmentSize | None = None) -> None:
        self.connection = connection
        self._keys = keys
        self._size = size or SegmentSize()

    @property
    def chain(self) -> Chain:
        """What is written with."""
        return self._keys.chains.current

    @property
    def chains(self) -> Chains:
        """Every chain whose key is at hand."""
        return self._keys.chains

    def append(self, records: Sequence[AuditRecord]) -> int:
        """Write all of them or none; the sequence of the last. What a record has of content is kept apart. Raises sqlite3.Error."""
        with self.transaction():
            return self.add([Entry(record).row() for record in records])

    def add(self, records: Sequence[Row]) -> int:
        """`append` within a transaction that is open already."""
        head = self.head()
        rows: list[tuple[object, ...]] = []
        contents: list[tuple[int, bytes]] = []
        for row in records:
            record = row.record
            if self._full(head, record.time):
                self._insert(rows, contents)
                head = self._seal(head)
            stored = None if record.content is None else sealed(record.id, record.content, self._keys.contents)
            sequence, body, kept = head.sequence + 1, row.body, "" if stored is None else digest(stored)
            hashed = self.chain.hash_written(head.hash, row.hashed(sequence, kept), body)
            rows.append((sequence, *row.whole(sequence, kept), body, head.hash, hashed))
            if stored is not None:
                contents.append((sequence, stored))
            grown, began = head.opened_bytes + len(body) + len(stored or b""), head.opened_time or record.time
            head = Head(sequence, hashed, record.time, self.chain.name, head.opened, head.opened_after, began, grown)
        self._insert(rows, contents)
        self._write_head(head)
        return head.sequence

    def seal(self) -> None:
        """Seal the open segment, if there is anything in it, so that it can be pruned."""
        with self.transaction():
            head = self.head()
            if head.sequence >= head.opened:
                self._write_head(self._seal(head))

    def segments(self) -> list[Segment]:
        """Every sealed segment, pruned ones too, in order."""
        return read_segments(self.connection)

    def mark(self, segment: Segment) -> None:
        """Write down, signed, what became of a segment. Within a transaction."""
        signed = self.chain.sign("mark", *segment.marks())
        self.connection.execute(
            "UPDATE segments SET pruned = ?, content_dropped = ?, mark = ?, damage = ? WHERE number = ?",
            (segment.pruned, segment.content_dropped, signed, segment.damage, segment.number),
        )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """The only writer for the length of a `with`; undone when it raises. Raises GuardrailError for a keyed store and no key."""
        self.connection.execute("BEGIN IMMEDIATE")
        with self.connection:
            self._no_weaker()
            yield

    def head(self) -> Head:
        """Where the chain ends now."""
        return read_head(self.connection)[0]

    def close(self) -> None:
        """Give the file back."""
        self.connection.close()

    def _no_weaker(self) -> None:
        """What is written without a key over what is signed with one would leave nothing that anybody could prove."""
        head, signature = read_head(self.connection)
        name = signature.partition(":")[0] or head.chain
        if name and self.chain.key is None:
            raise GuardrailError(
                f"the store is chained with the key {name}, and without a key nothing is written into it: set the environment variable "
                "that `audit: key_env` names, and give the configuration"
            )

    def _full(self, head: Head, now: float) -> bool:
        """Whether the next record begins a segment: each segment has one chain."""
        count = head.sequence + 1 - head.opened
        size = self._size
        aged = count > 0 and now - head.opened_time >= size.seconds
        return count >= size.records or aged or head.opened_bytes >= size.bytes or (count > 0 and head.chain != self.chain.name)

    def _seal(self, head: Head) -> Head:
        number = int(self.connection.execute("SELECT coalesce(max(number), 0) + 1 FROM segments").fetchone()[0])
        run = (number, head.opened, head.sequence, head.opened_after, head.hash, head.opened_time, head.time, head.chain)
        signature = self.chain.sign("segment", *Segment(*run).values())
        self.connection.execute(f"INSERT INTO segments VALUES ({', '.join('?' * len(run))}, ?, 0, 0, '', '')", (*run, signature))  # noqa: S608
        return replace(head, opened=head.sequence + 1, opened_after=head.hash, opened_time=0.0, opened_bytes=0, chain=self.chain.name)

    def _insert(self, rows: list[tuple[object, ...]], contents: list[tuple[int, bytes]]) -> None:
        begin = 0
        for size in _ROWS:
            statement = _INSERT + ", ".join([_ROW] * size)
            while len(rows) - begin >= size:
                self.connection.execute(statement, [value for row in rows[begin : begin + size] for value in row])
                begin += size
        self.connection.executemany("INSERT INTO contents VALUES (?, ?)", contents)
        rows.clear()
        contents.clear()

    def _write_head(self, head: Head) -> None:
        values = (head.sequence, head.hash, head.time, head.chain, head.opened, head.opened_after, head.opened_time, head.opened_bytes)
        signature = self.chain.sign("head", *head.values())
        self.connection.execute(f"INSERT OR REPLACE INTO head VALUES (1, {', '.join('?' * len(values))}, ?)", (*values, signature))  # noqa: S608


def read_head(connection: sqlite3.Connection) -> tuple[Head, str]:
    """The head as it is written, and its signature; of an empty store: sequence 0."""
    row = connection.execute(f"SELECT {_HEAD}, signature FROM head").fetchone()  # noqa: S608
    return (Head(), "") if row is None else (Head(*row[:-1]), row[-1])


def read_segments(connection: sqlite3.Connection) -> list[Segment]:
    """Every sealed segment as it is written, in order."""
    columns = _SEGMENT if version_of(connection) >= MARKED_DAMAGE else _SEGMENT.replace("damage", "''")
    return [Segment(*row) for row in connection.execute(f"SELECT {columns} FROM segments ORDER BY number")]  # noqa: S608
