"""Keeps an engine's process alive: starts it, listens to its reports, ends one that is stuck, and starts the next."""

import asyncio
import contextlib
import logging
import time
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from guardrail.engine.cope.process.orders import Orders, Report, orders_line, report_of
from guardrail.engine.cope.process.wire import FrameError
from guardrail.errors import GuardrailError

logger = logging.getLogger("guardrail.engine")


@dataclass(slots=True)
class Pauses:
    """Longer and longer pauses for what dies young: `first_s`, doubled up to `most_s`, and `first_s` again after a life of `calm_s`."""

    first_s: float = 0.5
    most_s: float = 30.0
    calm_s: float = 60.0
    _deaths: int = field(default=0, init=False)

    def after(self, lived_s: float) -> float:
        """Seconds to wait after a life of that many."""
        self._deaths = 0 if lived_s >= self.calm_s else self._deaths + 1
        return min(self.most_s, self.first_s * 2.0 ** min(max(self._deaths - 1, 0), 30))


@dataclass(frozen=True, slots=True)
class Vigilance:
    """Seconds. `start_s`: until the engine is ready; `silent_s`: between its reports, from the first one on; `stale_s`: age of the
    engine loop's heartbeat, longer than the longest pass of the slowest machine (the engine says sooner that it is dead, where it can);
    `stop_s`: for ending in order."""

    start_s: float = 1800.0
    silent_s: float = 30.0
    stale_s: float = 1000.0
    stop_s: float = 20.0


class Supervisor:
    """One engine's process for the length of an `async with`, and the next one whenever it ends. `command` starts it.

    Entering waits for the first one to be ready. Raises GuardrailError, with what the engine said, when that does not come up.
    """

    def __init__(
        self, command: tuple[str, ...], orders: Orders, *, vigilance: Vigilance | None = None, pauses: Pauses | None = None
    ) -> None:
        self.starts = 0
        self.pid: int | None = None
        """Of the process that is there now."""
        self._command = command
        self._orders = orders
        self._vigilance = vigilance or Vigilance()
        self._pauses = pauses or Pauses()
        self._ready = asyncio.Event()
        self._sentence = ""
        self._keeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start it."""
        self._keeping = asyncio.create_task(self._keep())
        self._keeping.add_done_callback(_report)
        ready = asyncio.ensure_future(self._ready.wait())
        try:
            await asyncio.wait((ready, self._keeping), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._stop()
            raise
        finally:
            ready.cancel()
        if not self._ready.is_set():
            self._keeping.result()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End it, and wait until it has ended."""
        await self._stop()

    async def _stop(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait((self._keeping,))

    async def _keep(self) -> None:
        while True:
            began = time.monotonic()
            reason = await self._life()
            if not self._ready.is_set():
                raise GuardrailError(self._sentence or f"the engine of classifier {self._orders.name} did not start: {reason}")
            pause_s = self._pauses.after(time.monotonic() - began)
            logger.error("the engine of classifier %s %s; the next one starts in %.1f s", self._orders.name, reason, pause_s)
            await asyncio.sleep(pause_s)

    async def _life(self) -> str:
        """One process from its start to its end. Returns why it ended."""
        logger.info("starting the engine of classifier %s", self._orders.name)
        try:
            process = await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=PIPE)
        except OSError as error:
            return f"could not be started: {error}"
        self.starts += 1
        self.pid = process.pid
        try:
            complaint = await self._attend(process)
            if complaint:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        finally:
            await self._end(process)
            self.pid = None
        code = process.returncode or 0
        ending = f"was ended by signal {-code}" if code < 0 else f"exited with status {code}"
        return f"{ending}: {complaint or self._sentence}".removesuffix(": ")

    async def _attend(self, process: Process) -> str:
        """Listen until it ends by itself (then nothing is said here) or must be ended: why."""
        stdin, stdout = process.stdin, process.stdout
        if stdin is None or stdout is None:
            raise GuardrailError("an engine's process has pipes")
        stdin.write(orders_line(self._orders))
        began, ready = time.monotonic(), False
        patience_s = self._vigilance.start_s
        while True:
            try:
                async with asyncio.timeout(patience_s):
                    line = await stdout.readline()
                report = report_of(line) if line else None
            except TimeoutError:
                return f"it said nothing for {patience_s:g} s"
            except (FrameError, ValueError) as error:
                return f"it does not report as it should ({error})"
            if report is None:
                return ""
            patience_s = self._vigilance.silent_s
            complaint = self._judged(report, ready, time.monotonic() - began)
            if complaint:
                return complaint
            if report.state == "ready":
                ready = True
                self._ready.set()
                logger.info("the engine of classifier %s is ready after %.1f s", self._orders.name, time.monotonic() - began)

    def _judged(self, report: Report, ready: bool, age_s: float) -> str:
        """What is wrong with an engine that reports so, if anything is."""
        if report.state == "failed":
            self._sentence = report.sentence
        if report.state == "beat" and report.age_s > self._vigilance.stale_s:
            return f"its loop has stood still for {report.age_s:.0f} s"
        if not ready and age_s > self._vigilance.start_s:
            return f"it was not ready within {self._vigilance.start_s:g} s"
        return ""

    async def _end(self, process: Process) -> None:
        """Closing its standard input tells it to end; one that does not is killed."""
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(self._vigilance.stop_s):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _report(task: asyncio.Task[None]) -> None:
    """What ends the keeping is told to whoever enters; later nobody would hear of it."""
    if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, GuardrailError):
        logger.error("an engine is not supervised any more", exc_info=error)
