"""Keeps policies (and any other files) fresh: tells when they change, and reloads them without ever losing the last good set.

The notification of the operating system only wakes the watcher; what it compares is the state of the files. So mounted config maps,
renamed folders, network file systems without notifications, and changes made before the watch was armed are all seen.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path

from watchfiles import awatch
from watchfiles._rust_notify import WatchfilesRustInternalError

SETTLE_S = 0.2  # an editor's save is several writes and renames; a deployment writes several files
SETTLE_ROUNDS = 25  # a file that never rests must not keep the others from being read
POLL_MS = 2_000
LONGEST_PAUSE_S = 60.0  # between two tries of what was not taken

State = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Watched:
    """What is watched: the Markdown files of some folders, and single files. They need not exist yet."""

    folders: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()

    def state(self) -> State:
        """Name, time, size and inode of each file that matters; equal states mean: nothing to do."""
        return tuple(sorted(entry for entry in map(_stat, self._paths()) if entry is not None))

    def places(self) -> tuple[Path, ...]:
        """The existing folders to be notified about: files are replaced by renaming, which only their folder notices."""
        candidates = dict.fromkeys([*self.folders, *(path.parent for path in self.files)])
        return tuple(path for path in candidates if path.is_dir())

    def _paths(self) -> Iterator[Path]:
        yield from self.files
        for folder in self.folders:
            try:
                yield from folder.glob("*.md")
            except OSError:  # a folder that goes away while it is read is a change like any other
                continue


async def watch(
    watched: Watched,
    on_change: Callable[[], Awaitable[object]],
    *,
    stop: asyncio.Event,
    since: State | None = None,
    poll_ms: int = POLL_MS,
) -> None:
    """Await `on_change` after each settled change until `stop` is set. Calls never overlap.

    `since` is the state that was loaded (`watched.state()` taken before loading), so that nothing between load and watch is missed.
    Where it answers False (not taken) it is awaited again without a change too, after a pause that doubles from `poll_ms` to a minute.
    What `on_change` raises ends the watch and reaches the caller. A system that gives no notifications is polled instead.
    """
    known = since if since is not None else await asyncio.to_thread(watched.state)
    pause, due = poll_ms / 1000, math.inf
    while not stop.is_set():
        state = await asyncio.to_thread(watched.state)
        if state != known:
            known = await _settled(watched, state)
            pause = poll_ms / 1000
        elif time.monotonic() >= due:
            pause = min(2 * pause, LONGEST_PAUSE_S)
        else:
            await _wake(watched, stop, poll_ms)
            continue
        taken = await on_change()
        due = time.monotonic() + pause if taken is False else math.inf


async def _settled(watched: Watched, state: State) -> State:
    """The state once it has stayed the same for a moment."""
    for _ in range(SETTLE_ROUNDS):
        await asyncio.sleep(SETTLE_S)
        before, state = state, await asyncio.to_thread(watched.state)
        if state == before:
            break
    return state


async def _wake(watched: Watched, stop: asyncio.Event, poll_ms: int) -> None:
    """Return after a notification, after the poll interval, or when stopped."""
    with suppress(OSError, WatchfilesRustInternalError):  # a folder that went away or is closed to us, no watches left, …
        if places := await asyncio.to_thread(watched.places):
            notices = awatch(
                *places,
                watch_filter=None,
                debounce=50,
                step=20,
                stop_event=stop,
                rust_timeout=poll_ms,
                yield_on_timeout=True,
                recursive=False,
            )
            async with aclosing(notices):
                await anext(notices, None)
            return
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), poll_ms / 1000)


def _stat(path: Path) -> tuple[str, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (str(path), found.st_mtime_ns, found.st_size, found.st_ino)
