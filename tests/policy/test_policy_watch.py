import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from watchfiles._rust_notify import WatchfilesRustInternalError

from guardrail.policy.watch import Watched, watch


class Calls:
    """Counts calls, and lets a test wait for the next."""

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    async def __call__(self) -> None:
        self.count += 1
        self._event.set()

    async def next(self) -> None:
        async with asyncio.timeout(5):
            await self._event.wait()
        self._event.clear()


@asynccontextmanager
async def watching(watched: Watched, on_change: Callable[[], Awaitable[object]], poll_ms: int = 300) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(watch(watched, on_change, stop=stop, since=watched.state(), poll_ms=poll_ms))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(2):
            await task


async def test_edits_additions_and_removals_are_told(tmp_path: Path) -> None:
    policies, config, calls = tmp_path / "policies", tmp_path / "guardrail.yaml", Calls()
    policies.mkdir()
    async with watching(Watched((policies,), (config,)), calls):
        (policies / "a.md").write_text("one")
        await calls.next()
        (policies / "a.md").write_text("longer")
        await calls.next()
        config.write_text("routes: []")
        await calls.next()
        (policies / "a.md").unlink()
        await calls.next()
    assert calls.count == 4


async def test_a_burst_of_writes_is_one_change_and_other_files_are_none(tmp_path: Path) -> None:
    calls = Calls()
    async with watching(Watched((tmp_path,)), calls):
        (tmp_path / "other.txt").write_text("x")
        for number in range(20):
            (tmp_path / f"{number}.md").write_text("x")
            await asyncio.sleep(0.01)
        await calls.next()
        await asyncio.sleep(0.5)
    assert calls.count == 1


async def test_a_folder_swapped_by_its_link_is_seen(tmp_path: Path) -> None:
    for release in ("one", "two"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "a.md").write_text(release)
    link, calls = tmp_path / "current", Calls()
    link.symlink_to(tmp_path / "one")
    async with watching(Watched((link,)), calls):
        (tmp_path / "next").symlink_to(tmp_path / "two")
        (tmp_path / "next").rename(link)
        await calls.next()


async def test_a_folder_that_appears_later_is_seen(tmp_path: Path) -> None:
    calls = Calls()
    async with watching(Watched((tmp_path / "later",)), calls):
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "a.md").write_text("x")
        await calls.next()


async def test_a_change_between_loading_and_watching_is_not_missed(tmp_path: Path) -> None:
    watched, calls, stop = Watched((tmp_path,)), Calls(), asyncio.Event()
    before = watched.state()
    (tmp_path / "a.md").write_text("x")
    task = asyncio.create_task(watch(watched, calls, stop=stop, since=before))
    await calls.next()
    stop.set()
    await asyncio.wait_for(task, 2)


async def test_a_failing_callback_ends_the_watch_with_its_error(tmp_path: Path) -> None:
    async def fail() -> None:
        raise RuntimeError("broken")

    task = asyncio.create_task(watch(Watched((tmp_path,)), fail, stop=asyncio.Event(), since=(("x.md", 0, 0, 0),)))
    with pytest.raises(RuntimeError, match="broken"):
        await asyncio.wait_for(task, 5)


async def test_a_change_that_was_not_taken_is_offered_again_though_no_file_changes(tmp_path: Path) -> None:
    calls, stop = Calls(), asyncio.Event()

    async def third_time_lucky() -> bool:
        await calls()
        return calls.count == 3

    asked = watch(Watched((tmp_path,)), third_time_lucky, stop=stop, poll_ms=50, since=(("x.md", 0, 0, 0),))
    task = asyncio.create_task(asked)
    for _ in range(3):
        await calls.next()
    await asyncio.sleep(0.5)
    assert calls.count == 3
    stop.set()
    await asyncio.wait_for(task, 2)


@pytest.mark.parametrize("error", [OSError("no more watches"), WatchfilesRustInternalError("no more watches"), PermissionError("no")])
async def test_without_notifications_changes_are_found_by_polling(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("guardrail.policy.watch.awatch", refuses)
    calls = Calls()
    async with watching(Watched((tmp_path,)), calls, poll_ms=50):
        await asyncio.sleep(0.1)
        (tmp_path / "a.md").write_text("one")
        await calls.next()


async def test_a_cancelled_watch_ends(tmp_path: Path) -> None:
    task = asyncio.create_task(watch(Watched((tmp_path,)), Calls(), stop=asyncio.Event()))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 2)
