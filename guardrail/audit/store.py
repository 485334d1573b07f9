"""Reading the store: one record, those that fit a filter, and counts over time. Every call has its own read-only connection."""

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from guardrail.audit.chain import Chains
from guardrail.audit.content import opened
from guardrail.audit.durations import Durations
from guardrail.audit.genuine import PROVEN, Seals
from guardrail.audit.keys import StoreKeys
from guardrail.audit.made import text_hmac
from guardrail.audit.record import DECISION, AuditRecord, came_to
from guardrail.audit.row import record_of_row, violated_in
from guardrail.audit.schema import MIGRATIONS, version_of
from guardrail.errors import GuardrailError

MOST_RECORDS = 10_000
"""Most records that one `find` gives."""
COUNTED = (
    "SELECT time, tenant, action, shadow, unjudged, unavailable, duration_s, violated FROM records INDEXED BY records_by_time "
    "WHERE time >= ? AND time < ? AND kind = ?"
)
"""What `totals` reads: all of it lies in the index."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records: all conditions together. None (and "") leave a condition out.

    `policy`: judged by it, `violated`: found to violate it; `since` and `until` are seconds since 1970, the latter not included.
    `text`: exactly this text was one of the parts (found by its keyed hash, so also where no content is kept).
    """

    tenant: str | None = None
    route: str | None = None
    stage: str | None = None
    policy: str | None = None
    violated: str | None = None
    action: str | None = None
    shadow: str | None = None
    mode: str | None = None
    since: float | None = None
    until: float | None = None
    unjudged: bool | None = None
    request_id: str | None = None
    trace_id: str | None = None
    text: str | None = None
    kind: str | None = DECISION


@dataclass(frozen=True, slots=True)
class Total:
    """What happened from `start` on, for a step. `policies` counts decisions by policy that was violated where it is enforced,
    `shadow_policies` by policy that was violated in shadow only.

    `words` counts each decision once, by what it came to (`AuditRecord.word`). `tenant_words` is the same for each tenant.
    """

    start: float
    decisions: int = 0
    unjudged: int = 0
    actions: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    shadow: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    policies: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    shadow_policies: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    tenants: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    durations: Durations = field(default_factory=Durations)
    words: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    tenant_words: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: MappingProxyType({}))

    def percentile(self, share: float) -> float:
        """The seconds that this share (0 to 1) of the decisions does not exceed; 0 without any."""
        return self.durations.percentile(share)


class AuditReader:
    """Reads a store that others may be writing. Safe from any thread. Raises GuardrailError for a file that is no store.

    `keys` are needed to look for a text and to read content that is encrypted.
    """

    def __init__(self, path: Path, keys: StoreKeys | None = None) -> None:
        self.path = path
        self._keys = keys or StoreKeys(Chains(), ())

    def get(self, id: str) -> AuditRecord | None:  # noqa: A002  (the word of the command line)
        """The record of a decision's id, or of a sequence number, with its content; None when it is not there."""
        by = "sequence = CAST(? AS INTEGER)" if id.isdecimal() and len(id) < 16 else "id = ?"
        with self.connection() as connection:
            row = connection.execute(f"SELECT {PROVEN} FROM records WHERE {by} ORDER BY place LIMIT 1", (id,)).fetchone()  # noqa: S608
            return None if row is None else self._with_content(connection, self._records(connection, [row])[0])

    def find(
        self,
        filter: Filter | None = None,  # noqa: A002  (the contract's word)
        limit: int = 100,
        before: int | None = None,
        *,
        content: bool = False,
    ) -> list[AuditRecord]:
        """The newest records that fit, newest first; with `before` those with a smaller sequence than that. `content`: with it."""
        where, values = self._where(filter or Filter(), before)
        query = f"SELECT {PROVEN} FROM records WHERE {where} ORDER BY place DESC LIMIT ?"  # noqa: S608  (names are ours, values bound)
        with self.connection() as connection:
            found = self._records(connection, connection.execute(query, (*values, min(limit, MOST_RECORDS))))
            return [self._with_content(connection, record) for record in found] if content else found

    def walk(self, filter: Filter | None = None, *, content: bool = False) -> Iterator[AuditRecord]:  # noqa: A002
        """Every record that fits, oldest first, a page at a time: what is written meanwhile comes too, what is pruned does not."""
        where, values = self._where(filter or Filter(), None)
        query = f"SELECT {PROVEN} FROM records WHERE {where} AND place > ? ORDER BY place LIMIT 1000"  # noqa: S608
        last = 0
        while True:
            with self.connection() as connection:
                rows = connection.execute(query, (*values, last)).fetchall()
                found = self._records(connection, rows)
                found = [self._with_content(connection, record) for record in found] if content else found
            if not rows:
                return
            yield from found
            last = rows[-1][0]

    def totals(self, since: float, until: float, step_s: float) -> list[Total]:
        """Counts for each step from `since` until `until`, those without a decision included."""
        steps = max(1, min(MOST_RECORDS, -(-int((until - since) * 1000) // max(1, int(step_s * 1000)))))
        buckets = [_Bucket() for _ in range(steps)]
        with self.connection() as connection:
            for row in connection.execute(COUNTED, (since, until, DECISION)):
                place = int((row[0] - since) / step_s)
                if 0 <= place < steps:
                    buckets[place].add(row[1:])
        return [bucket.total(since + place * step_s) for place, bucket in enumerate(buckets)]

    def count(self) -> int:
        """How many records there are, notes included."""
        with self.connection() as connection:
            return int(connection.execute("SELECT count(*) FROM records").fetchone()[0])

    @contextlib.contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """A connection that cannot write."""
        if not self.path.is_file():
            raise GuardrailError(f"there is no audit store {str(self.path)!r}; it is made when the first decision is recorded")
        try:
            with contextlib.closing(sqlite3.connect(f"file:{quote(str(self.path))}?mode=ro", uri=True, timeout=5.0)) as connection:
                version = version_of(connection)
                if not 0 < version <= len(MIGRATIONS):
                    raise GuardrailError(
                        f"{self.path} is an audit store of version {version}, this program reads 1 to {len(MIGRATIONS)}; use the program "
                        "that wrote it, or let a newer one write to it once"
                    )
                yield connection
        except sqlite3.DatabaseError as error:
            raise GuardrailError(f"the audit store {str(self.path)!r} cannot be read: {error}") from error

    def _records(self, connection: sqlite3.Connection, rows: Iterable[Sequence[Any]]) -> list[AuditRecord]:
        """The records of rows of `PROVEN`, each with whether it is what was written."""
        seals = Seals(connection, self._keys.chains)
        return [replace(record_of_row(row[1:-2]), genuine=seals.genuine(row)) for row in rows]

    def _with_content(self, connection: sqlite3.Connection, record: AuditRecord) -> AuditRecord:
        if not record.content_digest:
            return record
        row = connection.execute("SELECT body FROM contents WHERE sequence = ?", (record.sequence,)).fetchone()
        return record if row is None else replace(record, content=opened(record.id, row[0], self._keys.contents))

    def _where(self, wanted: Filter, before: int | None) -> tuple[str, list[str | float | int]]:
        """The condition of a query, with `?` for each of the values."""
        pairs: list[tuple[str, str | float | int | None]] = [
            (f"{name} = ?", getattr(wanted, name) or None)
            for name in ("kind", "tenant", "route", "stage", "action", "shadow", "mode", "request_id", "trace_id")
        ]
        pairs += [("instr(judged, ?) > 0", wanted.policy and f",{wanted.policy},")]
        pairs += [("instr(violated, ?) > 0", wanted.violated and f",{wanted.violated},")]
        pairs += [("time >= ?", wanted.since), ("time < ?", wanted.until), ("place < ?", before)]
        pairs += [("unjudged = ?", None if wanted.unjudged is None else int(wanted.unjudged))]
        conditions = [condition for condition, value in pairs if value is not None]
        values = [value for _, value in pairs if value is not None]
        if wanted.text is not None:
            if not self._keys.texts:
                raise GuardrailError("a text is looked for by its keyed hash, and the key of this store is not at hand")
            hashes = [text_hmac(wanted.text, key) for key in self._keys.texts]
            conditions.append(f"({' OR '.join(['instr(body, ?) > 0'] * len(hashes))})")
            values += hashes
        return " AND ".join(conditions) or "1", values


class _Bucket:
    def __init__(self) -> None:
        self.unjudged = 0
        self.actions: Counter[str] = Counter()
        self.shadow: Counter[str] = Counter()
        self.policies: Counter[str] = Counter()
        self.shadow_policies: Counter[str] = Counter()
        self.tenants: Counter[str] = Counter()
        self.words: dict[str, Counter[str]] = {}
        self.durations = Durations()

    def add(self, row: tuple[str, str, str, int, int, float, str]) -> None:
        tenant, action, shadow, unjudged, unavailable, duration_s, violated = row
        self.unjudged += unjudged
        self.actions[action] += 1
        self.shadow[shadow] += 1
        self.tenants[tenant] += 1
        word = came_to(action, shadow, unjudged=bool(unjudged), unavailable=bool(unavailable), violated=bool(violated))
        self.words.setdefault(tenant, Counter())[word] += 1
        enforced, watched = violated_in(violated)
        self.policies.update(enforced)
        self.shadow_policies.update(watched)
        self.durations.add(duration_s)

    def total(self, start: float) -> Total:
        return Total(
            start,
            self.durations.count,
            self.unjudged,
            MappingProxyType(dict(self.actions)),
            MappingProxyType(dict(self.shadow)),
            MappingProxyType(dict(self.policies)),
            MappingProxyType(dict(self.shadow_policies)),
            MappingProxyType(dict(self.tenants)),
            self.durations,
            MappingProxyType(dict(sum(self.words.values(), Counter()))),
            MappingProxyType({tenant: MappingProxyType(dict(words)) for tenant, words in self.words.items()}),
        )
