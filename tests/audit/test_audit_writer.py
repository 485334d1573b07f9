"""The writer: off the request's path, bounded, and honest about what it could not keep."""

import asyncio
import contextlib
import resource
import shutil
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from audit_cases import event, folder_gone, verdict
from audit_crashes import crash

from guardrail.audit.keys import Secrets, open_keys
from guardrail.audit.ledger import SegmentSize
from guardrail.audit.record import NOTE, AuditRecord
from guardrail.audit.retention import Retention
from guardrail.audit.sink import AuditSink, SinkSettings
from guardrail.audit.store import AuditReader, Filter
from guardrail.audit.verify import Report, verify
from guardrail.audit.writer import WriterSettings
from guardrail.events import AuditTroubled, CanaryChecked
from guardrail.types import Audit

SECRETS = Secrets("a secret of the tests that is long enough", "another secret of the tests for texts")
WAITS = Audit(wait=True)


class Told:
    def __init__(self) -> None:
        self.events: list[AuditTroubled] = []
        self.new = threading.Condition()

    def __call__(self, event: AuditTroubled) -> None:
        with self.new:
            self.events.append(event)
            self.new.notify_all()

    def wait_for(self, code: str) -> AuditTroubled:
        with self.new:
            assert self.new.wait_for(lambda: any(event.code == code for event in self.events), timeout=60)
        return next(event for event in self.events if event.code == code)


@contextmanager
def running(path: Path, told: Told | None = None, *, wait_s: float = 60.0, **changes: object) -> Iterator[AuditSink]:
    writer = replace(WriterSettings(synchronous="off", retry_s=0.05, close_s=0.2), **changes)  # type: ignore[arg-type]
    sink = AuditSink(path, SECRETS, SinkSettings(wait_s, writer), told or Told())
    sink.start()
    try:
        yield sink
    finally:
        sink.close()


def found(path: Path) -> list[AuditRecord]:
    return AuditReader(path, open_keys(path, SECRETS)).find(Filter(kind=None), limit=10_000, content=True)[::-1]


def report(path: Path) -> Report:
    keys = open_keys(path, SECRETS)
    return verify(AuditReader(path, keys), keys.chains)


def test_decisions_are_there_when_the_writer_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    with running(path, close_s=60.0) as sink:
        for number in range(1_000):
            sink.emit(event(id=f"d{number}"))
        sink.emit(CanaryChecked("main", ok=True, detail=""))
    assert [record.id for record in found(path)] == [f"d{number}" for number in range(1_000)]
    assert (report(path).damage, report(path).lost) == (None, 0)
    assert list(tmp_path.glob("*writer*")) == []


@pytest.mark.parametrize(
    ("content", "kept"), [("none", None), ("full", "Meet me at the library."), ("redacted", "Meet me at the library.")]
)
def test_text_is_kept_as_the_route_says(tmp_path: Path, content: str, kept: str | None) -> None:
    path = tmp_path / "audit.db"
    with running(path, close_s=60.0) as sink:
        sink.emit(event(audit=Audit(content=content)))  # type: ignore[arg-type]
    (record,) = found(path)
    assert (record.content and record.content[0].text) == kept
    stored = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert b"library" not in stored
    (unread,) = AuditReader(path).find(content=True)
    assert unread.content is None


async def test_whoever_waits_is_let_go_when_the_record_is_kept(tmp_path: Path) -> None:
    with running(tmp_path / "audit.db") as sink:
        assert await sink.ready()
        sink.emit(event(id="d1", audit=WAITS))
        assert await sink.kept("d1")
        with closing(sqlite3.connect(tmp_path / "audit.db")) as connection:
            assert connection.execute("SELECT id FROM records").fetchall() == [("d1",)]
        assert not await sink.kept("d1")
        assert not await sink.kept("never emitted")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody else has the store for the length of a `with`: nothing can be written, and nothing fails yet."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


async def test_a_full_queue_leaves_out_or_makes_wait_as_the_route_says(tmp_path: Path) -> None:
    path, told = tmp_path / "audit.db", Told()
    with running(path, told, wait_s=0.1, queue=4, close_s=60.0) as sink:
        sink.emit(event(id="first", audit=WAITS))
        await asyncio.to_thread(_until, lambda: path.is_file() and sink.status().written == 1)
        with locked(path):
            sink.emit(event(id="held"))
            await asyncio.to_thread(_until, lambda: sink.status().queued == 0)
            for number in range(10):
                sink.emit(event(id=f"d{number}"))
            assert (sink.status().queued, sink.status().dropped) == (4, 6)
            assert not await sink.ready()
            sink.emit(event(id="waits", audit=WAITS))
            assert not await sink.kept("waits")
        await asyncio.to_thread(told.wait_for, "queue_full")
        assert await sink.ready()
    kept = found(path)
    assert [record.id for record in kept if record.kind != NOTE] == ["first", "held", "d0", "d1", "d2", "d3", "waits"]
    assert [dict(record.note) for record in kept if record.kind == NOTE] == [{"dropped": 6}]
    assert told.wait_for("queue_full").records == 6
    assert report(path).dropped == 6


def _until(condition: object) -> None:
    for _ in range(6_000):
        if condition():  # type: ignore[operator]
            return
        threading.Event().wait(0.01)
    raise AssertionError


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """No file may grow any further."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("broken", [full_disk, lambda path: folder_gone(path.parent)])
async def test_a_store_that_cannot_be_written_keeps_the_routes_choice_and_recovers(tmp_path: Path, broken: object) -> None:
    path, told = tmp_path / "store" / "audit.db", Told()
    path.parent.mkdir()
    with running(path, told, wait_s=0.2, close_s=60.0) as sink:
        sink.emit(event(id="before"))
        await asyncio.to_thread(_until, lambda: sink.status().written == 1)
        with broken(path):  # type: ignore[operator]
            sink.emit(event(id="queued"))
            await asyncio.to_thread(told.wait_for, "failing")
            assert not await sink.ready()
            sink.emit(event(id="waits", audit=WAITS))
            assert not await sink.kept("waits")
            assert sink.status().failing
        await asyncio.to_thread(told.wait_for, "recovered")
        assert await sink.ready()
    assert [record.id for record in found(path)] == ["before", "queued", "waits"]
    assert (report(path).damage, report(path).lost) == (None, 0)


def mounted(*arguments: str) -> None:
    """Call mount, or umount for `-u`. Skips the test where nobody may."""
    name, *rest = ("umount", *arguments[1:]) if arguments[0] == "-u" else ("mount", *arguments)
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"there is no {name} here")
    done = subprocess.run([program, *rest], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{name} {' '.join(rest)}: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "store"
    folder.mkdir()
    mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        mounted("-u", "-l", str(folder))


async def test_on_a_full_disk_each_route_gets_what_it_chose_and_what_was_queued_is_kept_later(small_disk: Path) -> None:
    path, filler, told = small_disk / "audit.db", small_disk / "filler", Told()
    with running(path, told, wait_s=0.2, queue=4, close_s=60.0) as sink:
        sink.emit(event(id="before"))
        await asyncio.to_thread(_until, lambda: sink.status().written == 1)
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4_096)):
                pass
        long = {"text": "Meet me. " * 10_000, "audit": Audit(content="full")}
        sink.emit(event(id="queued", **long))
        assert "full" in (await asyncio.to_thread(told.wait_for, "failing")).detail
        assert not await sink.ready()
        sink.emit(event(id="waits", audit=WAITS))
        assert not await sink.kept("waits")
        for number in range(10):
            sink.emit(event(id=f"d{number}", **long))
        assert sink.status().failing
        assert sink.status().dropped >= 10 - 4
        filler.unlink()
        await asyncio.to_thread(told.wait_for, "recovered")
        assert await sink.ready()
        sink.emit(event(id="after", audit=WAITS))
        assert await sink.kept("after")
    kept = [record.id for record in found(path) if record.kind != NOTE]
    assert (kept[:3], kept[-1]) == (["before", "queued", "waits"], "after")
    assert (report(path).damage, report(path).lost, report(path).dropped) == (None, 0, 14 - len(kept))


async def test_on_a_read_only_disk_nothing_waits_for_ever_and_what_was_queued_is_kept_later(small_disk: Path) -> None:
    path, told = small_disk / "audit.db", Told()
    mounted("-o", "remount,ro", str(small_disk))
    with running(path, told, wait_s=0.2, close_s=60.0) as sink:
        sink.emit(event(id="queued"))
        await asyncio.to_thread(told.wait_for, "failing")
        assert not await sink.ready()
        sink.emit(event(id="waits", audit=WAITS))
        assert not await sink.kept("waits")
        mounted("-o", "remount,rw", str(small_disk))
        await asyncio.to_thread(told.wait_for, "recovered")
        assert await sink.ready()
    assert [record.id for record in found(path)] == ["queued", "waits"]
    assert (report(path).damage, report(path).lost) == (None, 0)


def test_processes_may_share_a_store(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    with running(path, close_s=60.0) as one, running(path, close_s=60.0) as other:
        for number in range(300):
            (one, other)[number % 2].emit(event(id=f"d{number}"))
    assert {record.id for record in found(path)} == {f"d{number}" for number in range(300)}
    assert (report(path).damage, report(path).lost) == (None, 0)


def test_what_cannot_be_written_to_the_end_is_said_to_be_lost_at_the_next_start(tmp_path: Path) -> None:
    path, told = tmp_path / "audit.db", Told()
    with running(path, told, busy_s=0.1) as sink:
        sink.emit(event())
        _until(lambda: sink.status().written == 1)
        held = locked(path)
        held.__enter__()
        sink.emit(event(id="lost"))
        _until(lambda: sink.status().queued == 0)
    held.__exit__(None, None, None)
    assert told.wait_for("unwritable").records == 1
    again = Told()
    with running(path, again, close_s=60.0):
        assert again.wait_for("lost").records == 1
    with running(path, third := Told(), close_s=60.0) as sink:
        sink.emit(event(id="after"))
    assert third.events == []
    assert (report(path).lost, [record.id for record in found(path) if record.kind != NOTE]) == (1, ["d1", "after"])


@pytest.mark.parametrize("after", [1, 40, 700])
def test_a_killed_process_loses_only_what_was_not_acknowledged_and_the_next_one_says_how_much(tmp_path: Path, after: int) -> None:
    """`audit_crashes` does it two hundred times; its result is kept beside those of the benchmarks."""
    first = crash(tmp_path / "audit.db", after)
    again = crash(tmp_path / "audit.db", after)
    assert min(first.made, again.made) >= after


BOUND = 1_000_000


def test_a_store_that_is_bounded_in_size_is_never_larger_for_long(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    bounded = {"segment": SegmentSize(bytes=BOUND // 8), "retention": Retention(bytes=BOUND)}
    with running(path, close_s=60.0, linger_s=0.0, **bounded) as sink:
        for number in range(60):
            sink.emit(event(id=f"d{number}", text="Meet me. " * 10_000, audit=Audit(content="full")))
            _until(lambda written=number + 1: sink.status().written == written)
    assert path.stat().st_size <= 1.5 * BOUND
    assert [record.id for record in found(path)][-1] == "d59"
    assert (report(path).damage, report(path).pruned[0][0]) == (None, 1)


def test_a_pruning_that_fails_is_said_and_nothing_is_written_twice(tmp_path: Path) -> None:
    path, told = tmp_path / "audit.db", Told()
    bounded = {"segment": SegmentSize(records=2), "retention": Retention(bytes=1)}
    with running(path, told, close_s=60.0, **bounded) as sink:
        sink.emit(event(id="d0"))
        _until(lambda: sink.status().written == 1)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TRIGGER kept BEFORE UPDATE ON segments BEGIN SELECT RAISE(ABORT, 'it is kept'); END")
        for number in range(1, 5):
            sink.emit(event(id=f"d{number}"))
        assert "it is kept" in told.wait_for("failing").detail
        _until(lambda: sink.status().written == 5)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TRIGGER kept")
        told.wait_for("recovered")
        assert sink.status().written == 5
    assert report(path).damage is None
    assert report(path).pruned == [(1, 2), (3, 4)]
    assert [record.id for record in found(path)] == ["d4"]


def test_what_is_dropped_for_its_age_and_was_changed_before_is_told(tmp_path: Path) -> None:
    path, told = tmp_path / "audit.db", Told()
    with running(path) as sink:
        sink.emit(event(id="old"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE records SET tenant = 'orbit'")
    with running(path, told, retention=Retention(days=0.0)):
        assert "changed at record 1" in told.wait_for("damaged").detail
    damage = report(path).damage
    assert damage is not None
    assert damage.kind == "pruned"


def test_a_decision_that_cannot_be_written_is_lost_alone_and_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    told = Told()
    with running(path, told, linger_s=0.5, close_s=30.0) as sink:
        for number in range(43):  # more than one statement of rows, and a rest
            sink.emit(event(id=f"d{number}"))
        sink.emit(event(verdict(score=float("nan")), id="nonsense"))
        sink.emit(event(id="last"))
    records = found(path)
    assert [record.id for record in records if record.kind != NOTE] == [*(f"d{number}" for number in range(43)), "last"]
    assert [dict(record.note) for record in records if record.kind == NOTE] == [{"lost": 1}]
    assert report(path).damage is None
    assert "unwritable" not in {each.code for each in told.events}


def test_a_batch_of_which_one_record_cannot_be_stored_is_stored_whole_later_and_once(tmp_path: Path) -> None:
    path, told = tmp_path / "audit.db", Told()
    with running(path, close_s=60.0) as sink:
        sink.emit(event(id="first"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TRIGGER full BEFORE INSERT ON records WHEN NEW.id = 'd200' BEGIN SELECT RAISE(ABORT, 'no room'); END")
    names = [f"d{number}" for number in range(256)]  # as many as are taken at once, whatever the time
    with running(path, told, linger_s=60.0, close_s=60.0) as sink:
        for name in names:
            sink.emit(event(id=name))
        assert "no room" in told.wait_for("failing").detail
        assert [record.id for record in found(path)] == ["first"]
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TRIGGER full")
        told.wait_for("recovered")
    assert [record.id for record in found(path)] == ["first", *names]
    assert report(path).damage is None
