"""Several processes of one server: each is started again when it ends by itself, all end together."""

import asyncio
import contextlib
import functools
import logging
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from guardrail.cli.listen import GRACE_S
from guardrail.engine.cope.process.supervisor import Pauses
from guardrail.errors import GuardrailError

logger = logging.getLogger("guardrail")

Ready = Callable[[], None]
Work = Callable[[int, Ready], None]
"""What a worker runs, picklable: it is given the number of its place and what to call when it could take requests, which it takes then."""


async def keep_working(work: Work, count: int, announce: Callable[[], None]) -> None:
    """Keep `count` processes at work until cancelled, then let them finish their requests.

    When all are ready `announce` is called, and after it they take requests. One that ends later is started again, after a pause
    that grows. Raises GuardrailError when one ends before it was ever ready.
    """
    with ThreadPoolExecutor(count, thread_name_prefix="worker") as threads:
        announced = asyncio.Event()
        workers = [_Worker(functools.partial(work, place), threads, announced) for place in range(count)]
        tasks = [asyncio.create_task(worker.keep()) for worker in workers]
        everything = asyncio.gather(*tasks)
        ready = asyncio.create_task(_all_ready(workers))
        try:
            await asyncio.wait((ready, everything), return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                announce()
                announced.set()
            await asyncio.shield(everything)
        finally:
            ready.cancel()
            announced.set()
            for worker in workers:
                worker.end()
            await asyncio.wait(tasks, timeout=GRACE_S + 5)
            for worker in workers:
                worker.kill()
            await asyncio.wait(tasks)


async def _all_ready(workers: list["_Worker"]) -> None:
    for worker in workers:
        await worker.ready.wait()


class _Worker:
    """One place, and the process that fills it now."""

    def __init__(self, work: Callable[[Ready], None], threads: ThreadPoolExecutor, announced: asyncio.Event) -> None:
        self.ready = asyncio.Event()
        self._announced = announced
        self._work = work
        self._threads = threads
        self._pauses = Pauses()
        self._ending = asyncio.Event()
        self._process: SpawnProcess | None = None

    async def keep(self) -> None:
        """One process after the other, until `end`. Raises GuardrailError when the first does not get ready."""
        loop = asyncio.get_running_loop()
        while not self._ending.is_set():
            began = time.monotonic()
            ours, theirs = multiprocessing.Pipe()
            self._process = process = multiprocessing.get_context("spawn").Process(target=_run, args=(self._work, theirs))
            process.start()
            theirs.close()  # so that the pipe ends with the worker
            with ours:
                if await loop.run_in_executor(self._threads, _heard, ours):
                    self.ready.set()
                    await self._announced.wait()
                    with contextlib.suppress(OSError):  # it has ended meanwhile
                        ours.send_bytes(b"go")
            await loop.run_in_executor(self._threads, process.join)
            if self._ending.is_set():
                return
            if not self.ready.is_set():
                raise GuardrailError("a worker process ended before it took requests; the lines before this one say why")
            pause_s = self._pauses.after(time.monotonic() - began)
            logger.error("worker process %s ended (exit code %s); the next one starts in %.1f s", process.pid, process.exitcode, pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._ending.wait()

    def end(self) -> None:
        """Let it finish its requests and end."""
        self._ending.set()
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """It did not."""
        if self._process is not None:
            self._process.kill()


def _run(work: Callable[[Ready], None], parent: Connection) -> None:
    """In the worker's process."""
    try:
        work(functools.partial(_await_go, parent))
    except GuardrailError as error:
        logger.error("this worker process cannot serve: %s", error)  # noqa: TRY400  (a sentence for the operator, not a defect)
        sys.exit(1)


def _await_go(parent: Connection) -> None:
    with parent, contextlib.suppress(OSError, EOFError):  # without a parent the worker ends soon, and in order
        parent.send_bytes(b"ready")
        parent.recv_bytes(16)


def _heard(worker: Connection) -> bool:
    """Whether a worker got ready, rather than ended. Waits for either."""
    with contextlib.suppress(OSError, EOFError):
        return bool(worker.recv_bytes(16))
    return False
