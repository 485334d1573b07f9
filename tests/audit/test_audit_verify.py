"""Whoever changes, drops, repeats or moves anything in a store is found, and the first bad place is named."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from audit_cases import KEY, KEYS, SPANNED, TEXT_KEY, UNKEYED, filled, record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guardrail.audit.chain import Chains
from guardrail.audit.keys import StoreKeys
from guardrail.audit.ledger import Ledger, SegmentSize, connect
from guardrail.audit.retention import Retention, prune
from guardrail.audit.store import AuditReader
from guardrail.audit.verify import Anchor, Damage, Report, verify
from guardrail.errors import GuardrailError
from guardrail.types import Part

MANY = 10_000
COLUMNS = (
    "sequence", "kind", "id", "time", "tenant", "route", "stage", "mode", "action", "shadow", "unjudged", "unavailable", "generation",
    "duration_s", "judged", "violated", "request_id", "trace_id", "text_hmac", "content_digest", "body", "previous", "hash",
)  # fmt: skip
PLACES = st.integers(1, MANY)
FEW = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def report(path: Path, keys: StoreKeys = KEYS, anchor: Anchor | None = None) -> Report:
    return verify(AuditReader(path, keys), keys.chains, anchor=anchor)


def damage(path: Path, keys: StoreKeys = KEYS) -> tuple[str, int] | None:
    found = report(path, keys).damage
    return None if found is None else (found.kind, found.sequence)


def tamper(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten thousand records in segments of a thousand, the last one open."""
    made = record()
    path = tmp_path_factory.mktemp("large") / "audit.db"
    return filled(path, [replace(made, id=f"d{number}", time=float(number)) for number in range(MANY)], size=SegmentSize(1_000))


@pytest.fixture
def copy(large: Path, tmp_path: Path) -> Callable[[], Path]:
    return lambda: Path(shutil.copy(large, tmp_path / "copy.db"))


def test_a_store_as_it_was_written_passes(large: Path) -> None:
    found = report(large)
    assert (found.damage, found.records, found.unkeyed) == (None, MANY, 0)
    last = AuditReader(large).find(limit=1)[0]
    assert found.head.startswith(f"{last.sequence}:")


@FEW
@given(place=PLACES, column=st.sampled_from(COLUMNS))
def test_a_changed_record_is_named(copy: Callable[[], Path], place: int, column: str) -> None:
    path = copy()
    other = f"CASE typeof({column}) WHEN 'text' THEN {column} || ' ' WHEN 'blob' THEN zeroblob(32) ELSE {column} + 1 END"
    tamper(path, f"UPDATE records SET {column} = {other} WHERE place = {place}")
    assert damage(path) == ("changed", place)


@FEW
@given(place=PLACES)
def test_a_removed_record_is_named(copy: Callable[[], Path], place: int) -> None:
    path = copy()
    tamper(path, f"DELETE FROM records WHERE place = {place}")
    assert damage(path) == ("removed", place)
    tamper(path, f"UPDATE records SET place = -place WHERE place > {place}", "UPDATE records SET place = -place - 1 WHERE place < 0")
    assert damage(path) == ("removed", place)  # the others moved up, to close the gap


@FEW
@given(place=PLACES, other=PLACES)
def test_a_repeated_record_is_named(copy: Callable[[], Path], place: int, other: int) -> None:
    path = copy()
    tamper(
        path,
        f"UPDATE records SET place = -place - 1 WHERE place > {place}",
        "UPDATE records SET place = -place WHERE place < 0",
        f"INSERT INTO records SELECT {place} + 1, {', '.join(COLUMNS)} FROM records WHERE sequence = {min(place, other)}",
    )
    kind = ("inserted", MANY + 1) if place == MANY else ("duplicated", place + 1)
    assert damage(path) == kind


@FEW
@given(place=PLACES, other=PLACES)
def test_records_in_another_order_are_named(copy: Callable[[], Path], place: int, other: int) -> None:
    path = copy()
    tamper(
        path,
        f"UPDATE records SET place = -1 WHERE place = {place}",
        f"UPDATE records SET place = {place} WHERE place = {other}",
        f"UPDATE records SET place = {other} WHERE place = -1",
    )
    assert damage(path) == (None if place == other else ("reordered", min(place, other)))


@FEW
@given(last=st.integers(0, MANY - 1))
def test_a_tail_that_was_cut_off_is_named(copy: Callable[[], Path], last: int) -> None:
    path = copy()
    tamper(path, f"DELETE FROM records WHERE place > {last}")
    assert damage(path) == ("removed", last + 1)


def kept(path: Path, keys: StoreKeys = KEYS) -> Path:
    """A small store with every kind of row: sealed segments, one without its texts, one pruned, kept texts."""
    texts = (Part("messages[0].content", "Meet me at the library."),)
    return filled(path, [replace(record(SPANNED), id=f"d{number}", content=texts) for number in range(9)], keys, SegmentSize(4))


def test_every_byte_that_a_record_has_counts(tmp_path: Path) -> None:
    """Exhaustive: each byte of each value, one at a time."""
    path = filled(tmp_path / "audit.db", [record(SPANNED)])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for column in COLUMNS:
            ((value,),) = connection.execute(f"SELECT {column} FROM records")
            for changed in _flipped(value):
                connection.execute(f"UPDATE records SET {column} = ?", (changed,))
                assert damage(path) == ("changed", 1), (column, changed)
            connection.execute(f"UPDATE records SET {column} = ?", (value,))
        assert damage(path) is None


def _flipped(value: object) -> Iterator[object]:
    if isinstance(value, bytes):
        yield from (value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :] for at in range(len(value)))
    elif isinstance(value, str):
        yield from (value[:at] + chr(ord(value[at]) ^ 1) + value[at + 1 :] for at in range(len(value)))
    else:
        yield from (value + 1, -value - 1, f"{value}x", b"")  # type: ignore[operator]


@pytest.mark.parametrize(
    ("statement", "kind", "sequence"),
    [
        ("UPDATE head SET sequence = 8, hash = (SELECT hash FROM records WHERE place = 8)", "head", 0),
        ("UPDATE head SET signature = ':' || substr(signature, 18)", "head", 0),
        ("UPDATE head SET opened = 5", "head", 0),
        ("DELETE FROM head", "head", 9),
        ("UPDATE segments SET last = 3 WHERE number = 1", "seal", 1),
        ("UPDATE segments SET chain = ''", "seal", 1),
        ("UPDATE segments SET signature = replace(signature, 'a', 'b')", "seal", 1),
        ("DELETE FROM segments WHERE number = 2", "seal", 5),
        ("DELETE FROM segments WHERE number = 1", "seal", 1),
        ("UPDATE segments SET pruned = 5 WHERE number = 1", "seal", 1),
        ("UPDATE segments SET content_dropped = 5 WHERE number = 2", "seal", 5),
        ("DELETE FROM contents WHERE sequence = 6", "content", 6),
        ("UPDATE contents SET body = zeroblob(40) WHERE sequence = 6", "content", 6),
        ("UPDATE contents SET body = (SELECT body FROM contents WHERE sequence = 1) WHERE sequence = 6", "content", 6),
        ("INSERT INTO contents VALUES (77, 'x')", "content", 77),
        (f"INSERT INTO records SELECT 10, {', '.join(COLUMNS)} FROM records WHERE place = 9", "inserted", 10),
    ],
)  # fmt: skip
def test_seals_texts_and_the_end_are_guarded_too(tmp_path: Path, statement: str, kind: str, sequence: int) -> None:
    path = kept(tmp_path / "audit.db")
    assert damage(path) is None
    tamper(path, statement)
    assert damage(path) == (kind, sequence)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_byte_of_the_file_is_found_or_changes_nothing(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "audit.db"
    if not path.exists():
        kept(path)
    whole, before = path.read_bytes(), AuditReader(path, KEYS).find(limit=20, content=True)
    at = data.draw(st.integers(0, len(whole) - 1))
    copy = tmp_path / "flipped.db"
    copy.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
    try:
        found = report(copy)
        assert found.damage is not None or AuditReader(copy, KEYS).find(limit=20, content=True) == before
    except GuardrailError:
        pass  # it is not even a store any more, and says so


def test_whoever_has_no_key_cannot_make_a_chain_anew(tmp_path: Path) -> None:
    forged = filled(tmp_path / "audit.db", [record()], UNKEYED)
    assert damage(forged, UNKEYED) is None
    assert report(forged, UNKEYED).unkeyed == 1
    assert damage(forged) == ("head", 0)


def test_a_key_that_is_missing_is_said_and_one_that_is_new_takes_over(tmp_path: Path) -> None:
    path = filled(tmp_path / "audit.db", [record()], UNKEYED)
    filled(path, [record(), record()])
    assert (report(path).damage, report(path).unkeyed) == (None, 1)
    newer = StoreKeys(Chains.of([b"the newest key of all, long enough", *(c.key for c in KEYS.chains.known if c.key)]), (TEXT_KEY,))
    filled(path, [record()], newer)
    assert damage(path, newer) is None
    with pytest.raises(GuardrailError, match="not at hand"):
        report(path, UNKEYED)
    tamper(path, "UPDATE records SET tenant = 'orbit' WHERE place = 1")  # without a key then, yet what follows it has one
    assert damage(path, newer) == ("changed", 1)


def test_an_older_key_that_is_missing_is_said_and_is_no_damage(tmp_path: Path) -> None:
    path = filled(tmp_path / "audit.db", [record(), record()])
    newest = b"the newest key of all, long enough"
    both, alone = (StoreKeys(Chains.of(keys), (TEXT_KEY,)) for keys in ([newest, KEY], [newest]))
    ledger = Ledger(connect(path), both)
    ledger.append([record()])  # seals what the older key wrote
    assert damage(path, both) is None
    for keys in (alone, KEYS, UNKEYED):
        with pytest.raises(GuardrailError, match="not at hand"):
            report(path, keys)
    prune(ledger, Retention(days=0.1))
    ledger.close()
    assert report(path, both).pruned == [(1, 2), (3, 3)]
    with pytest.raises(GuardrailError, match="not at hand"):
        report(path, KEYS)


def test_a_keyed_store_is_written_by_nobody_without_its_key(tmp_path: Path) -> None:
    path = kept(tmp_path / "audit.db")
    ledger = Ledger(connect(path), UNKEYED)
    for write in (lambda: ledger.append([record()]), ledger.seal, lambda: prune(ledger, Retention(days=0.1))):
        with pytest.raises(GuardrailError, match="without a key nothing is written"):
            write()
    ledger.close()
    assert (report(path).damage, report(path).records, report(path).pruned) == (None, 9, [])


def test_a_head_of_an_empty_store_is_where_every_store_begins(tmp_path: Path) -> None:
    path = filled(tmp_path / "audit.db", [])
    sequence, _, hashed = report(path).head.partition(":")
    anchor = Anchor(int(sequence), hashed)
    assert report(path, anchor=anchor).damage is None
    filled(path, [record()])
    assert report(path, anchor=anchor).damage is None
    found = report(path, anchor=Anchor(0, "ab" * 32)).damage
    assert found is not None
    assert found.kind == "anchor"


def test_a_store_that_was_put_back_is_known_by_a_head_written_down_elsewhere(tmp_path: Path) -> None:
    path = filled(tmp_path / "audit.db", [record()] * 3)
    earlier = Path(shutil.copy(path, tmp_path / "earlier.db"))
    filled(path, [record()])
    sequence, _, hashed = report(path).head.partition(":")
    anchor = Anchor(int(sequence), hashed)
    assert report(path, anchor=anchor).damage is None
    assert damage(earlier) is None
    assert report(earlier, anchor=anchor).damage == Damage(
        "anchor", 4, "the store ends before the head that was written down: it was put back"
    )
    other = filled(tmp_path / "other.db", [record(text="Other.")] * 4)
    found = report(other, anchor=anchor).damage
    assert found is not None
    assert found.kind == "anchor"


def test_a_record_of_another_history_with_the_same_key_is_named(tmp_path: Path) -> None:
    path = filled(tmp_path / "audit.db", [record(), record(), record()])
    other = filled(tmp_path / "other.db", [record(text="Other."), record(SPANNED), record()])
    tamper(
        path,
        f"ATTACH '{other}' AS other",
        "DELETE FROM main.records WHERE place = 2",
        "INSERT INTO main.records SELECT * FROM other.records WHERE place = 2",
    )
    assert damage(path) == ("changed", 2)


def test_many_hands_write_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    hands = [Ledger(connect(path, synchronous="off"), KEYS, SegmentSize(3)) for _ in range(3)]
    for turn in range(12):
        hands[turn % 3].append([record()] * (1 + turn % 2))
    for hand in hands:
        hand.close()
    assert (report(path).damage, report(path).records) == (None, 18)
