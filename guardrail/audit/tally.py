"""What a writing process has accepted, in a small file that outlives it: so that the next one can say how much was lost with it.

The file is written through with every record, and the operating system keeps it when the process is killed. When the whole machine
goes down it may be older than the store; then what is said is the least that was lost.
"""

import contextlib
import fcntl
import os
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_COUNTS = struct.Struct("<8sQQ")
_MAGIC = b"GRAUDIT1"


@dataclass(frozen=True, slots=True)
class Left:
    """What a process that is gone had counted."""

    id: str
    accepted: int
    dropped: int


class Tally:
    """This process's counts: records accepted into the queue, and records left out. Locked as long as the process lives."""

    def __init__(self, store: Path) -> None:
        """Raises OSError where the folder cannot be written."""
        self.id = secrets.token_hex(8)
        self.path = store.with_name(f"{store.name}.writer-{self.id}")
        new = store.with_name(f"{store.name}.new-{self.id}")  # until it is locked nobody must take it for one left behind
        self._file = os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self.write(0, 0)
            new.rename(self.path)
        except OSError:
            new.unlink(missing_ok=True)
            self.close(remove=False)
            raise

    def write(self, accepted: int, dropped: int) -> None:
        """Remember the counts. Raises OSError."""
        os.pwrite(self._file, _COUNTS.pack(_MAGIC, accepted, dropped), 0)

    def close(self, *, remove: bool) -> None:
        """Let go of the file. `remove` it where everything that was accepted is in the store."""
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._file)


@contextlib.contextmanager
def left_behind(store: Path) -> Iterator[list[Left]]:
    """The counts of processes that ended without closing their store, held for the length of a `with`; afterwards they are settled."""
    found: list[tuple[Path, int, Left]] = []
    try:
        for path in sorted(store.parent.glob(f"{store.name}.writer-*")):
            with contextlib.suppress(OSError):
                file = os.open(path, os.O_RDWR)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:  # its process is alive
                    os.close(file)
                    continue
                found.append((path, file, _counts(path.name.rpartition("-")[2], os.pread(file, _COUNTS.size, 0))))
        yield [left for _, _, left in found]
        for path, _, _ in found:
            path.unlink(missing_ok=True)
    finally:
        for _, file, _ in found:
            os.close(file)


def _counts(name: str, stored: bytes) -> Left:
    if len(stored) != _COUNTS.size:
        return Left(name, 0, 0)
    magic, accepted, dropped = _COUNTS.unpack(stored)
    return Left(name, accepted, dropped) if magic == _MAGIC else Left(name, 0, 0)
