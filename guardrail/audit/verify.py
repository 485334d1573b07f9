"""Whether a store is as it was written: every record, their order, the seals, the kept texts and the end. Names what is not."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from guardrail.audit.chain import GENESIS, UNKEYED, Chain, Chains
from guardrail.audit.content import digest
from guardrail.audit.genuine import genuine
from guardrail.audit.ledger import Head, Ledger, Segment, read_head, read_segments
from guardrail.audit.record import NOTE
from guardrail.audit.row import SELECTED, UnreadableRecordError, record_of_row
from guardrail.audit.schema import COLUMNS
from guardrail.audit.store import AuditReader
from guardrail.errors import GuardrailError

Kind = Literal["changed", "removed", "duplicated", "reordered", "inserted", "seal", "head", "content", "anchor", "pruned", "file"]

_WIDTH = len(COLUMNS)
_KIND, _CONTENT = COLUMNS.index("kind"), COLUMNS.index("content_digest")


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong first, at which record (0: none in particular), in a sentence."""

    kind: Kind
    sequence: int
    detail: str

    def __str__(self) -> str:
        return f"{self.kind} at record {self.sequence}: {self.detail}" if self.sequence else f"{self.kind}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Anchor:
    """A head that was written down elsewhere."""

    sequence: int
    hash: str


@dataclass(slots=True)
class Report:
    """What was found. `damage` is the first fault, None for none. `pruned` are runs of records that are gone with a signed mark, `damaged`
    are those of them, and of `content_dropped`, that were not what was written when they went, with what was wrong.

    `lost` and `dropped` count the records that never came into the store, as it noted itself. `unkeyed` is the last record that no key
    protects. `head` is what to write down elsewhere: `sequence:hash`.
    """

    records: int = 0
    notes: int = 0
    contents: int = 0
    pruned: list[tuple[int, int]] = field(default_factory=list)
    content_dropped: list[tuple[int, int]] = field(default_factory=list)
    damaged: list[tuple[int, int, str]] = field(default_factory=list)
    lost: int = 0
    dropped: int = 0
    unkeyed: int = 0
    head: str = ""
    damage: Damage | None = None


class _DamagedError(Exception):
    def __init__(self, kind: Kind, sequence: int, detail: str) -> None:
        self.damage = Damage(kind, sequence, detail)
        super().__init__(detail)


def verify(reader: AuditReader, chains: Chains, *, anchor: Anchor | None = None) -> Report:
    """Read the whole store. Raises GuardrailError where it is none, or where the key of its chain is not at hand."""
    report = Report()
    with reader.connection() as connection:
        connection.text_factory = _text
        connection.execute("BEGIN")  # one state of the file, whoever writes meanwhile
        try:
            _Walk(connection, chains, report).whole(anchor)
        except _DamagedError as error:
            report.damage = error.damage
        except (sqlite3.DatabaseError, TypeError, ValueError, AttributeError) as error:
            report.damage = Damage("file", 0, f"the file itself is damaged: {error}")
    if report.damage is None and report.damaged:
        first, last, what = report.damaged[0]
        report.damage = Damage("pruned", first, f"records {first} to {last} were not what was written when they were pruned: {what}")
    return report


def damage_of(ledger: Ledger, chains: Chains, segment: Segment) -> Damage | None:
    """What is wrong first with one segment, None for nothing; that nobody can tell, for want of its key, is told as damage, too."""
    walk = _Walk(ledger.connection, chains, Report(), after=segment)
    ledger.connection.text_factory = _text
    try:
        walk.segment(segment, segment.number)
    except _DamagedError as error:
        return error.damage
    except GuardrailError as error:
        return Damage("seal", segment.first, f"it could not be checked: {error}")
    except (TypeError, ValueError, AttributeError) as error:
        return Damage("file", segment.first, f"it cannot be read: {error}")
    finally:
        ledger.connection.text_factory = str
    return None


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


class _Walk:
    """From the first record to the last."""

    def __init__(self, connection: sqlite3.Connection, chains: Chains, report: Report, after: Segment | None = None) -> None:
        self._connection = connection
        self._chains = chains
        self._report = report
        self._hash, self._next = (GENESIS, 1) if after is None else (after.after, after.first)
        self._keyed = False
        self._newest = UNKEYED
        self._anchor: Anchor | None = None

    def whole(self, anchor: Anchor | None) -> None:
        self._anchor = anchor
        if anchor is not None and anchor.sequence == 0:
            self._anchored(GENESIS)  # written down while there was no record: every store begins there
        head, signature = read_head(self._connection)
        self._report.head = f"{head.sequence}:{head.hash.hex()}" if isinstance(head.hash, bytes) else ""
        self._newest = signature.partition(":")[0]
        segments = read_segments(self._connection)
        for number, segment in enumerate(segments, 1):
            self.segment(segment, number)
        self._open(head, signature)
        self._nothing_more(head)
        sound = self._connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if sound != "ok":
            raise _DamagedError("file", 0, f"the file itself is damaged: {sound}")

    def segment(self, segment: Segment, number: int) -> None:
        """One sealed run of records, or what its marks say of it."""
        if segment.number != number or segment.first != self._next or segment.after != self._hash:
            raise _DamagedError("seal", self._next, f"segment {segment.number} does not follow what is before it")
        if not self._chains.signed(segment.signature, "segment", *segment.values()):
            if segment.chain != self._newest or self._chains.named(segment.chain) is None:  # else no other key came between
                self._key_at_hand(segment.signature)
            raise _DamagedError("seal", segment.first, f"the seal of segment {segment.number} is not genuine, or its key is not at hand")
        marked = bool(segment.pruned or segment.content_dropped or segment.mark)
        if marked and not self._chains.signed(segment.mark, "mark", *segment.marks()):
            self._key_at_hand(segment.mark)
            raise _DamagedError("seal", segment.first, f"segment {segment.number} says that it was pruned, which is not genuine")
        if segment.damage:
            self._report.damaged.append((segment.first, segment.last, segment.damage))
        if segment.pruned:
            self._report.pruned.append((segment.first, segment.last))
            found = self._connection.execute("SELECT place FROM records WHERE place BETWEEN ? AND ?", (segment.first, segment.last))
            if (row := found.fetchone()) is not None:
                raise _DamagedError("inserted", row[0], "a record stands in a segment that was pruned")
            if self._anchor is not None and segment.first <= self._anchor.sequence < segment.last:
                raise GuardrailError(f"record {self._anchor.sequence} was pruned; verify against a head that was written down later")
            if self._anchor is not None and self._anchor.sequence == segment.last:
                self._anchored(segment.hash)
        else:
            if segment.content_dropped:
                self._report.content_dropped.append((segment.first, segment.last))
            self._records(segment.last, self._chain(segment.chain), content=not segment.content_dropped)
            if self._hash != segment.hash:
                raise _DamagedError("seal", segment.last, f"the seal of segment {segment.number} is of other records")
        self._hash, self._next = segment.hash, segment.last + 1

    def _open(self, head: Head, signature: str) -> None:
        if not signature:
            if self._next > 1 or self._connection.execute("SELECT 1 FROM records").fetchone():
                raise _DamagedError("head", self._next, "the head is missing, which says where the records end")
            return
        if not self._chains.signed(signature, "head", *head.values()):
            self._key_at_hand(signature)
            raise _DamagedError("head", 0, "the head is not genuine, or was not written with a key although there is one")
        if head.opened != self._next or head.opened_after != self._hash:
            raise _DamagedError("seal", self._next, f"the seals end at record {self._next - 1}, the head says {head.opened - 1}")
        self._records(head.sequence, self._chain(head.chain), content=True)
        if self._hash != head.hash:
            raise _DamagedError("head", head.sequence, "the last record is not the one that the head names")

    def _nothing_more(self, head: Head) -> None:
        row = self._connection.execute("SELECT place FROM records WHERE place > ? OR place < 1", (head.sequence,)).fetchone()
        if row is not None:
            raise _DamagedError("inserted", row[0], f"a record stands beyond the head, which ends at {head.sequence}")
        row = self._connection.execute(
            "SELECT sequence FROM contents WHERE sequence NOT IN (SELECT place FROM records WHERE content_digest <> '')"
        ).fetchone()
        if row is not None:
            raise _DamagedError("content", row[0], "there is a text for which there is no record")
        if self._anchor is not None:
            raise _DamagedError("anchor", self._anchor.sequence, "the store ends before the head that was written down: it was put back")

    def _records(self, last: int, chain: Chain, *, content: bool) -> None:
        """Everything from the next record to `last`."""
        for place, *values, body, previous, hashed in self._rows(last):
            if place != self._next or previous != self._hash or values[0] != place or not genuine(chain, previous, values, body, hashed):
                self._name(chain, (place, *values, body, previous, hashed))
            if values[_CONTENT]:
                self._content(place, values[_CONTENT], expected=content)
            self._count([*values, body])
            self._hash, self._next = hashed, place + 1
            if self._anchor is not None and self._anchor.sequence == place:
                self._anchored(hashed)
            if chain.key is None:
                self._report.unkeyed = place
        if self._next <= last:
            missing = f"records {self._next} to {last} are" if last > self._next else f"record {last} is"
            raise _DamagedError("removed", self._next, f"{missing} missing at the end")

    def _rows(self, last: int) -> Iterator[tuple[Any, ...]]:
        query = f"SELECT place, {SELECTED}, previous, hash FROM records WHERE place BETWEEN ? AND ? ORDER BY place"  # noqa: S608
        return self._connection.execute(query, (self._next, last))

    def _name(self, chain: Chain, row: tuple[Any, ...]) -> None:
        """Say what happened to the record that should stand here. Raises always."""
        place, *values, body, previous, hashed = row
        due = self._next
        own = values[0] if genuine(chain, previous, values, body, hashed) else None
        if place == due and own is None:
            raise _DamagedError("changed", due, "it is not what was written")
        moved = self._connection.execute("SELECT place FROM records WHERE sequence = ? AND place <> ?", (due, due)).fetchone()
        if place == due and own is not None and own < due:
            twin = self._connection.execute("SELECT 1 FROM records WHERE place = ? AND sequence = ?", (own, own)).fetchone()
            if twin is not None:
                raise _DamagedError("duplicated", due, f"record {own} stands here once more")
        if moved is not None:
            raise _DamagedError("reordered", due, f"it stands at place {moved[0]}" + (f", record {own} in its place" if own else ""))
        if place == due and own == due:
            raise _DamagedError("changed", due, "it does not follow the record before it")
        raise _DamagedError("removed", due, "it is missing")

    def _content(self, sequence: int, expected_digest: str, *, expected: bool) -> None:
        row = self._connection.execute("SELECT body FROM contents WHERE sequence = ?", (sequence,)).fetchone()
        if row is None and expected:
            raise _DamagedError("content", sequence, "its text is missing, although no pruning took it")
        if row is not None:
            if not isinstance(row[0], bytes) or digest(row[0]) != expected_digest:
                raise _DamagedError("content", sequence, "its text is not the one that was kept")
            self._report.contents += 1

    def _count(self, row: Sequence[Any]) -> None:
        if row[_KIND] != NOTE:
            self._report.records += 1
            return
        self._report.notes += 1
        try:
            note = record_of_row(row).note
        except UnreadableRecordError:
            return
        lost, dropped = note.get("lost", 0), note.get("dropped", 0)
        self._report.lost += lost if isinstance(lost, int) else 0
        self._report.dropped += dropped if isinstance(dropped, int) else 0

    def _chain(self, name: str) -> Chain:
        chain = self._chains.named(name)
        if chain is None:
            self._key_at_hand(f"{name}:")
            raise _DamagedError("seal", self._next, "the chain's name was changed")
        if self._keyed and name == UNKEYED:
            raise _DamagedError("seal", self._next, "records without a key follow records with one")
        self._keyed = name != UNKEYED
        return chain

    def _key_at_hand(self, signature: str) -> None:
        """Raises GuardrailError where it is only that we lack the key."""
        name = signature.partition(":")[0]
        if self._chains.named(name) is None and len(name) == 16 and all(letter in "0123456789abcdef" for letter in name):
            raise GuardrailError(
                f"the store is chained with the key {name}, which is not at hand: set the environment variable that `audit: key_env` "
                "names, with older secrets behind the newest one, commas between"
            )

    def _anchored(self, hashed: bytes) -> None:
        if self._anchor is not None and hashed.hex() != self._anchor.hash:
            raise _DamagedError("anchor", self._anchor.sequence, "it is not the one whose hash was written down: the store was made again")
        self._anchor = None
