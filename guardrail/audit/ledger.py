"""The writing side of the store: one connection, one transaction for a batch, the chain carried on from wherever it stands."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from guardrail.audit.chain import GENESIS, Chain, Chains
from guardrail.audit.record import AuditRecord
from guardrail.audit.row import body_of, columns_of
from guardrail.audit.schema import COLUMNS, migrate

Synchronous = Literal["full", "normal", "off"]

_INSERT = (
    f"INSERT INTO records (place, {', '.join(COLUMNS)}, body, previous, hash) "  # noqa: S608  (no value in it)
    f"VALUES ({', '.join('?' * (len(COLUMNS) + 4))})"
)


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

    def signed(self, chain: Chain) -> str:
        """The head's signature."""
        return chain.sign("head", *self.values())

    def values(self) -> tuple[int | str | float, ...]:
        """What the signature covers."""
        return (
            self.sequence,
            self.hash.hex(),
            float(self.time),
            self.chain,
            self.opened,
            self.opened_after.hex(),
            float(self.opened_time),
            self.opened_bytes,
        )


def connect(path: Path, *, synchronous: Synchronous = "full", busy_s: float = 5.0) -> sqlite3.Connection:
    """A connection that may write; makes the file, readable by its owner alone. Raises OSError or sqlite3.Error."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA secure_delete = ON")
    migrate(connection)
    return connection


class Ledger:
    """Appends records. One thread at a time; other processes may append to the same file, each batch of theirs before or after ours."""

    def __init__(self, connection: sqlite3.Connection, chains: Chains) -> None:
        self._connection = connection
        self._chains = chains

    def append(self, records: Sequence[AuditRecord]) -> int:
        """Write all of them or none; the sequence of the last. Raises sqlite3.Error."""
        with self.transaction():
            head = self.head()
            chain = self._chains.current
            rows = []
            for record in records:
                numbered = replace(record, sequence=head.sequence + 1)
                values, body = columns_of(numbered), body_of(numbered)
                digest = chain.hash(head.hash, values, body)
                rows.append((numbered.sequence, *values, body, head.hash, digest))
                grown = head.opened_bytes + len(body)
                head = replace(head, sequence=numbered.sequence, hash=digest, time=record.time, chain=chain.name, opened_bytes=grown)
            self._connection.executemany(_INSERT, rows)
            self._write_head(head if head.opened_time else replace(head, opened_time=time.time()))
        return head.sequence

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """The only writer for the length of a `with`; undone when it raises."""
        self._connection.execute("BEGIN IMMEDIATE")
        with self._connection:
            yield

    def head(self) -> Head:
        """Where the chain ends now."""
        return read_head(self._connection)[0]

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    def _write_head(self, head: Head) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO head VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                head.sequence,
                head.hash,
                head.time,
                head.chain,
                head.opened,
                head.opened_after,
                head.opened_time,
                head.opened_bytes,
                head.signed(self._chains.current),
            ),
        )


def read_head(connection: sqlite3.Connection) -> tuple[Head, str]:
    """The head as it is written, and its signature; of an empty store: sequence 0."""
    row = connection.execute(
        "SELECT sequence, hash, time, chain, opened, opened_after, opened_time, opened_bytes, signature FROM head"
    ).fetchone()
    return (Head(), "") if row is None else (Head(*row[:-1]), row[-1])
