"""What is too old or too much goes: whole segments, or only the texts in them. A signed mark stays, and the chain still closes."""

import time
from dataclasses import dataclass, replace

from guardrail.audit.ledger import Ledger, Segment
from guardrail.audit.verify import damage_of

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Retention:
    """How long records and their texts are kept, in days, and how large the store may get, in bytes; None: no bound.

    A segment goes when its newest record is too old, so a record may stay as much longer as its segment lasts.
    """

    days: float | None = None
    content_days: float | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a pruning took. `damaged` says which of it was not what was written, by its records: they went all the same, and stay said."""

    segments: int = 0
    records: int = 0
    contents: int = 0
    damaged: tuple[str, ...] = ()


def prune(ledger: Ledger, retention: Retention, *, now: float | None = None) -> Pruned:
    """Drop what `retention` does not keep, the oldest first, each segment in a transaction of its own. Raises sqlite3.Error."""
    now = time.time() if now is None else now
    _seal_if_old(ledger, retention, now)
    taken = Pruned()
    for segment in ledger.segments():
        if segment.pruned:
            continue
        if _older(segment, retention.days, now) or (retention.bytes is not None and used_bytes(ledger) > retention.bytes):
            taken = _drop(ledger, segment, taken, now=now, whole=True)
        elif not segment.content_dropped and _older(segment, retention.content_days, now):
            taken = _drop(ledger, segment, taken, now=now, whole=False)
    if taken.segments or taken.contents:
        ledger.connection.execute("PRAGMA incremental_vacuum").fetchall()
        ledger.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # the log still had what was dropped
    return taken


def oversized(ledger: Ledger, retention: Retention) -> bool:
    """Whether the store is larger than it may be, and there is a sealed segment that could go: the newest goes last."""
    if retention.bytes is None or used_bytes(ledger) <= retention.bytes:
        return False
    newest = ledger.connection.execute("SELECT pruned FROM segments ORDER BY number DESC LIMIT 1").fetchone()
    return newest is not None and not newest[0]


def used_bytes(ledger: Ledger) -> int:
    """The size of the store without its free pages."""
    pages, free, size = (
        int(ledger.connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _older(segment: Segment, days: float | None, now: float) -> bool:
    return days is not None and segment.ended < now - days * DAY_S


def _seal_if_old(ledger: Ledger, retention: Retention, now: float) -> None:
    """Where nothing new comes an open segment would never age."""
    kept = [days for days in (retention.days, retention.content_days) if days is not None]
    head = ledger.head()
    if kept and head.sequence >= head.opened and head.time < now - min(kept) * DAY_S:
        ledger.seal()


def _drop(ledger: Ledger, segment: Segment, taken: Pruned, *, now: float, whole: bool) -> Pruned:
    """Take one segment, or its texts alone; nothing where another process has done so since it was looked at."""
    records, between, damaged = 0, (segment.first, segment.last), taken.damaged
    with ledger.transaction():
        if segment not in ledger.segments():
            return taken
        found = damage_of(ledger, ledger.chains, segment)
        if found is not None:
            damaged = (*damaged, f"records {segment.first} to {segment.last}: {found}")
            segment = replace(segment, damage=segment.damage or str(found))
        contents = ledger.connection.execute("DELETE FROM contents WHERE sequence BETWEEN ? AND ?", between).rowcount
        if whole:
            records = ledger.connection.execute("DELETE FROM records WHERE place BETWEEN ? AND ?", between).rowcount
        ledger.mark(replace(segment, pruned=now if whole else 0.0, content_dropped=segment.content_dropped or now))
    return Pruned(taken.segments + whole, taken.records + records, taken.contents + contents, damaged)
