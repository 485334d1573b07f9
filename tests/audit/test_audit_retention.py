"""What is too old or too much goes, the chain still closes, and what went is said."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from audit_cases import KEYS, SPANNED, UNKEYED, filled, record

from guardrail.audit.chain import Chains
from guardrail.audit.ledger import Ledger, SegmentSize, connect
from guardrail.audit.retention import DAY_S, Pruned, Retention, _drop, prune, used_bytes
from guardrail.audit.store import AuditReader
from guardrail.audit.verify import Anchor, Report, verify
from guardrail.types import Part

TEXT = "Meet me at the library."


def daily(path: Path, days: int = 12, each: int = 2) -> Path:
    """Records of so many days, each day's in a segment of its own, with their texts."""
    parts = (Part("messages[0].content", TEXT),)
    base = replace(record(SPANNED), content=parts)
    made = [replace(base, id=f"d{day}-{number}", time=day * DAY_S + number) for day in range(days) for number in range(each)]
    return filled(path, made, size=SegmentSize(seconds=3_600.0))


def pruned(path: Path, retention: Retention, *, day: float) -> Pruned:
    ledger = Ledger(connect(path, synchronous="off"), KEYS)
    taken = prune(ledger, retention, now=day * DAY_S)
    ledger.close()
    return taken


def report(path: Path, anchor: Anchor | None = None) -> Report:
    found = verify(AuditReader(path, KEYS), KEYS.chains, anchor=anchor)
    assert found.damage is None
    return found


def test_old_records_go_and_the_chain_closes(tmp_path: Path) -> None:
    path = daily(tmp_path / "audit.db")
    head = report(path).head.split(":")
    assert pruned(path, Retention(days=5), day=12) == Pruned(7, 14, 14)
    found = report(path, Anchor(int(head[0]), head[1]))
    assert (found.records, found.pruned[0], found.pruned[-1]) == (10, (1, 2), (13, 14))
    filled(path, [record(time=12 * DAY_S)])
    assert report(path).records == 11
    assert pruned(path, Retention(days=5), day=12) == Pruned()


def test_old_texts_go_alone(tmp_path: Path) -> None:
    path = daily(tmp_path / "audit.db")
    assert pruned(path, Retention(content_days=5), day=12) == Pruned(0, 0, 14)
    found = report(path)
    assert (found.records, found.contents, found.content_dropped[-1]) == (24, 10, (13, 14))
    reader = AuditReader(path, KEYS)
    assert [record.content is None for record in reader.walk(content=True)] == [True] * 14 + [False] * 10


def test_a_store_that_is_too_large_loses_its_oldest(tmp_path: Path) -> None:
    path = daily(tmp_path / "audit.db", days=40, each=5)
    ledger = Ledger(connect(path), KEYS)
    bound = used_bytes(ledger) // 2
    ledger.close()
    taken = pruned(path, Retention(bytes=bound), day=40)
    assert 0 < taken.segments < 39
    assert report(path).pruned[0] == (1, 5)
    ledger = Ledger(connect(path), KEYS)
    assert used_bytes(ledger) <= bound
    ledger.close()


def test_what_another_process_has_pruned_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = daily(tmp_path / "audit.db")
    ledger = Ledger(connect(path), KEYS)
    seen = ledger.segments()[0]
    pruned(path, Retention(days=5), day=12)
    assert _drop(ledger, seen, Pruned(), now=13 * DAY_S, whole=False) == Pruned()
    ledger.close()
    assert report(path).pruned[0] == (1, 2)


def test_an_open_segment_ages_too(tmp_path: Path) -> None:
    path = daily(tmp_path / "audit.db", days=1)
    assert pruned(path, Retention(days=5), day=3) == Pruned()
    assert pruned(path, Retention(days=5), day=7) == Pruned(1, 2, 2)
    assert report(path).pruned == [(1, 2)]


def test_what_is_dropped_is_gone_from_the_disk(tmp_path: Path) -> None:
    parts = (Part("messages[0].content", TEXT),)
    keys = replace(KEYS, contents=())
    path = filled(tmp_path / "audit.db", [replace(record(time=1.0), content=parts)], keys)
    assert any(TEXT.encode() in each.read_bytes() for each in tmp_path.iterdir())
    pruned(path, Retention(content_days=1), day=3)
    assert not any(TEXT.encode() in each.read_bytes() for each in tmp_path.iterdir())


def tampered(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE records SET action = 'pass', body = '{}' WHERE place = 3", "changed at record 3: it is not what was written"),
        ("UPDATE records SET tenant = CAST(x'ff' AS TEXT) WHERE place = 3", "changed at record 3: it is not what was written"),
        ("DELETE FROM records WHERE place = 4", "removed at record 4: record 4 is missing at the end"),
        ("UPDATE contents SET body = zeroblob(9) WHERE sequence = 3", "content at record 3: its text is not the one that was kept"),
        ("UPDATE segments SET chain = 'other' WHERE number = 2", "seal at record 3: the seal of segment 2 is not genuine"),
    ],
)
@pytest.mark.parametrize("kept", [Retention(days=5), Retention(content_days=5)])
def test_records_that_were_changed_before_they_were_pruned_stay_said(tmp_path: Path, statement: str, what: str, kept: Retention) -> None:
    path = daily(tmp_path / "audit.db")
    tampered(path, statement)
    (said,) = pruned(path, kept, day=12).damaged
    assert said.startswith(f"records 3 to 4: {what}")
    found = verify(AuditReader(path, KEYS), KEYS.chains)
    assert found.damage is not None
    if kept.days and "seal" not in what:
        assert (found.damage.kind, found.damage.sequence, found.records) == ("pruned", 3, 10)
        assert [(first, last) for first, last, _ in found.damaged] == [(3, 4)]
    pruned(path, Retention(days=5), day=12)  # the texts went first
    assert verify(AuditReader(path, KEYS), KEYS.chains).damage is not None
    tampered(path, "UPDATE segments SET damage = ''")
    assert verify(AuditReader(path, KEYS), KEYS.chains).damage is not None


def test_records_whose_key_is_gone_are_said_to_be_unchecked(tmp_path: Path) -> None:
    path = daily(tmp_path / "audit.db")
    other = replace(KEYS, chains=Chains.of([b"a newer key of the tests, long enough"]))
    ledger = Ledger(connect(path, synchronous="off"), other)
    assert all("could not be checked" in each for each in prune(ledger, Retention(days=5), now=12 * DAY_S).damaged)
    ledger.close()


@pytest.mark.parametrize("place", [1, 5])
def test_a_record_that_is_read_says_whether_it_is_what_was_written(tmp_path: Path, place: int) -> None:
    path = daily(tmp_path / "audit.db", days=3)  # the last is in the open segment
    reader = AuditReader(path, KEYS)
    assert {each.genuine for each in (*reader.find(), *reader.walk())} == {True}
    assert {each.genuine for each in AuditReader(path).find()} == {None}  # without the key
    tampered(path, f"UPDATE records SET action = 'pass' WHERE place = {place}")
    changed = reader.get(str(place))
    assert changed is not None
    assert changed.genuine is False
    assert [each.sequence for each in reader.find() if not each.genuine] == [place]
    plain = filled(tmp_path / "plain.db", [record(), record(id="other")], UNKEYED)
    tampered(plain, "UPDATE records SET tenant = 'orbit' WHERE place = 1")
    assert [each.genuine for each in AuditReader(plain).walk()] == [False, True]
