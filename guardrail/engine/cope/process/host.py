"""The engine's process: loads an engine, serves it on a socket, reports, and ends when it is told to, left alone, or broken."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

from guardrail.engine.cope.messages import EngineClient
from guardrail.engine.cope.process.orders import LONGEST_SENTENCE, Orders, Report, Reporter
from guardrail.engine.cope.process.server import EngineServer
from guardrail.engine.cope.settings import EngineSettings
from guardrail.errors import GuardrailError

ENDED, FAILED, BROKEN, STUCK = 0, 1, 3, 4
"""Exit statuses: told to end; could not start; the engine died (a GPU's fault is sticky, only a new process helps); would not end."""

BEAT_S = 0.5
PARTING_S = 10.0  # that clients get to finish with the engine when it is told to end
GARBAGE_S = 60.0

logger = logging.getLogger("guardrail.engine")

Opener = Callable[[EngineSettings], Awaitable[EngineClient]]


def run(orders: Orders, opener: Opener, reporter: Reporter) -> NoReturn:
    """Does not return: the process exits with one of the statuses above, whatever threads are still at work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the workers finish their requests with this engine
    try:
        status = asyncio.run(_host(orders, opener, reporter))
    except GuardrailError as error:
        reporter.say(Report("failed", alive=False, sentence=str(error)[:LONGEST_SENTENCE]))
        status = FAILED
    leave(status)


def leave(status: int) -> NoReturn:
    """Exit at once; a thread that loads or computes is not waited for."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(status)


async def _host(orders: Orders, opener: Opener, reporter: Reporter) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    threading.Thread(target=_end_with_parent, args=(loop, stop), name="end-with-parent", daemon=True).start()
    engine = await _opened(orders.settings, opener, reporter, stop)
    async with EngineServer(engine, Path(orders.socket)) as server:
        gc.collect()
        gc.freeze()  # what is there now stays; collecting must not walk over it while somebody waits
        gc.set_threshold(10_000, 50, 1_000_000)
        reporter.say(Report("ready"))
        status = await _watch(engine, server, reporter, stop)
        if status == ENDED:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PARTING_S):
                    await server.alone()
    if status == ENDED:
        await engine.aclose()
    return status


async def _opened(settings: EngineSettings, opener: Opener, reporter: Reporter, stop: asyncio.Event) -> EngineClient:
    """The engine; loading takes seconds to minutes. Told to end meanwhile, the process does so."""
    opening, stopping = asyncio.ensure_future(opener(settings)), asyncio.ensure_future(stop.wait())
    while not opening.done():
        reporter.say(Report("loading"))
        await asyncio.wait((opening, stopping), timeout=BEAT_S, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            leave(ENDED)
    stopping.cancel()
    return opening.result()


async def _watch(engine: EngineClient, server: EngineServer, reporter: Reporter, stop: asyncio.Event) -> int:
    """Report until told to end, or until the engine is dead."""
    collected = time.monotonic()
    while not stop.is_set():
        health = engine.health()
        reporter.say(Report("beat", alive=health.alive, age_s=health.heartbeat_age_s))
        if not health.alive:
            logger.error("the engine died, its process ends: %s", health.detail)
            return BROKEN
        if not server.outstanding and time.monotonic() - collected > GARBAGE_S:
            gc.collect()
            collected = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEAT_S):
                await stop.wait()
    return ENDED


def _end_with_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """On a thread: standard input ends when whoever started this process does not want it any more, or is no more."""
    while os.read(0, 4096):
        pass
    with contextlib.suppress(RuntimeError):  # the loop has ended already
        loop.call_soon_threadsafe(stop.set)
    time.sleep(2 * PARTING_S)
    os._exit(STUCK)
