"""The tables, as numbered steps from an empty file to the present ones. A step is never changed once a release has it."""

import sqlite3
from collections.abc import Callable

from guardrail.errors import GuardrailError

COLUMNS = (
    "sequence", "kind", "id", "time", "tenant", "route", "stage", "mode", "action", "shadow", "unjudged", "unavailable", "generation",
    "duration_s", "judged", "violated", "request_id", "trace_id", "text_hmac", "content_digest",
)  # fmt: skip
"""What a record's hash covers beside its body, in this order."""


def _records(connection: sqlite3.Connection) -> None:
    """`place` is where a record stands, `sequence` its own number, which the hash covers: they differ only where somebody moved it."""
    connection.execute(
        """CREATE TABLE records (
            place INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, time REAL NOT NULL,
            tenant TEXT NOT NULL, route TEXT NOT NULL, stage TEXT NOT NULL, mode TEXT NOT NULL, action TEXT NOT NULL, shadow TEXT NOT NULL,
            unjudged INTEGER NOT NULL, unavailable INTEGER NOT NULL, generation INTEGER NOT NULL, duration_s REAL NOT NULL,
            judged TEXT NOT NULL, violated TEXT NOT NULL, request_id TEXT NOT NULL, trace_id TEXT NOT NULL, text_hmac TEXT NOT NULL,
            content_digest TEXT NOT NULL, body TEXT NOT NULL, previous BLOB NOT NULL, hash BLOB NOT NULL)"""
    )
    connection.execute(
        """CREATE TABLE head (
            one INTEGER PRIMARY KEY CHECK (one = 1), sequence INTEGER NOT NULL, hash BLOB NOT NULL, time REAL NOT NULL, chain TEXT NOT NULL,
            opened INTEGER NOT NULL, opened_after BLOB NOT NULL, opened_time REAL NOT NULL, opened_bytes INTEGER NOT NULL,
            signature TEXT NOT NULL)"""
    )
    connection.execute("CREATE INDEX records_by_id ON records (id)")
    connection.execute(
        "CREATE INDEX records_by_time ON records (time, kind, tenant, route, stage, action, shadow, unjudged, duration_s, violated)"
    )


def _segments(connection: sqlite3.Connection) -> None:
    """What is sealed can be dropped as a whole: its seal stays, marked, and the chain goes on behind it. Kept texts lie apart."""
    connection.execute(
        """CREATE TABLE segments (
            number INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL, after BLOB NOT NULL, hash BLOB NOT NULL,
            started REAL NOT NULL, ended REAL NOT NULL, chain TEXT NOT NULL, signature TEXT NOT NULL,
            pruned REAL NOT NULL DEFAULT 0, content_dropped REAL NOT NULL DEFAULT 0, mark TEXT NOT NULL DEFAULT '')"""
    )
    connection.execute("CREATE TABLE contents (sequence INTEGER PRIMARY KEY, body BLOB NOT NULL)")


def _writers(connection: sqlite3.Connection) -> None:
    """How many records each writing process has committed: beside what it had accepted that tells how many were lost with it."""
    connection.execute("CREATE TABLE writers (id TEXT PRIMARY KEY, committed INTEGER NOT NULL, noted INTEGER NOT NULL)")


def _words(connection: sqlite3.Connection) -> None:
    """Counting over time needs to know which decisions only a failure made."""
    connection.execute("DROP INDEX records_by_time")
    connection.execute(
        "CREATE INDEX records_by_time ON records "
        "(time, kind, tenant, route, stage, action, shadow, unjudged, unavailable, duration_s, violated)"
    )


def _damage(connection: sqlite3.Connection) -> None:
    """What was wrong with a segment that went stays said."""
    connection.execute("ALTER TABLE segments ADD COLUMN damage TEXT NOT NULL DEFAULT ''")


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_records, _segments, _writers, _words, _damage)
"""Step n brings a store from version n - 1 to version n."""

MARKED_DAMAGE = 5
"""The first version whose segments have the column `damage`."""


def version_of(connection: sqlite3.Connection) -> int:
    """The version of a store, 0 for an empty file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection, *, upto: int = len(MIGRATIONS)) -> None:
    """Bring the store to a version (the present one), in one transaction, or leave it as it is. Raises GuardrailError for a newer one."""
    if version_of(connection) == upto:
        return
    connection.execute("BEGIN IMMEDIATE")
    with connection:  # undone when it raises
        now = version_of(connection)  # another process may have been quicker
        if now > len(MIGRATIONS):
            raise GuardrailError(f"the audit store is of version {now}, this program knows {len(MIGRATIONS)}; use a newer one")
        for step in MIGRATIONS[now:upto]:
            step(connection)
        connection.execute(f"PRAGMA user_version = {max(now, upto)}")
