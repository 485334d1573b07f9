"""From the engine's thread to the event loops of its callers: one message a batch for each loop, and nobody is left waiting."""

import asyncio
import logging
import threading
from collections.abc import Iterable, Sequence

from guardrail.engine.cope.messages import Told
from guardrail.errors import ClassifierError

Outcome = Told | ClassifierError | None
"""What a question is told; None for a prefix that is resident now."""

logger = logging.getLogger("guardrail.engine")


class Call:
    """One caller and its numbered questions. Belongs to the event loop it was made on; `settle` and `fail` are for that loop only."""

    def __init__(self, questions: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[list[Outcome]] = self.loop.create_future()
        self._outcomes: list[Outcome] = [None] * questions
        self._open = set(range(questions))

    def settle(self, number: int, outcome: Outcome) -> None:
        """The first outcome of a question counts."""
        if number in self._open:
            self._open.discard(number)
            self._outcomes[number] = outcome
            if not self._open and not self.answered.done():
                self.answered.set_result(self._outcomes)

    def fail(self, code: str, reason: str) -> None:
        """Whatever is not answered yet never will be."""
        for number in list(self._open):
            self.settle(number, ClassifierError(code, reason))


class Delivery:
    """Collects outcomes and sends them off; for the engine's thread. A loop that is blocked or closed holds up nobody else."""

    def __init__(self) -> None:
        self._ready: dict[asyncio.AbstractEventLoop, list[tuple[Call, int, Outcome]]] = {}

    def add(self, call: Call, number: int, outcome: Outcome) -> None:
        """Part of the next message to this caller's loop."""
        self._ready.setdefault(call.loop, []).append((call, number, outcome))

    def send(self) -> None:
        """One message for each loop that has outcomes waiting."""
        ready, self._ready = self._ready, {}
        for loop, outcomes in ready.items():
            _post(loop, outcomes)


class Callers:
    """Everybody who waits, so that all can be told at once, whatever state the engine's thread is in. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[Call] = set()
        self._reason: str | None = None

    @property
    def reason(self) -> str | None:
        """Why nobody is served any more; None while somebody is."""
        return self._reason

    def add(self, call: Call) -> None:
        """Wait. Raises ClassifierError (crash) once it has ended."""
        with self._lock:
            if self._reason is not None:
                raise ClassifierError("crash", self._reason)
            self._calls.add(call)

    def discard(self, call: Call) -> None:
        """Wait no longer. Idempotent."""
        with self._lock:
            self._calls.discard(call)

    def end(self, reason: str) -> bool:
        """Tell everybody who waits, and everybody who will, that the engine is gone. False when it had ended before."""
        with self._lock:
            if self._reason is not None:
                return False
            self._reason = reason
            calls, self._calls = self._calls, set()
        for loop in {call.loop for call in calls}:
            _post_end(loop, [call for call in calls if call.loop is loop], reason)
        return True


def _post(loop: asyncio.AbstractEventLoop, outcomes: Sequence[tuple[Call, int, Outcome]]) -> None:
    try:
        loop.call_soon_threadsafe(_settle, outcomes)
    except RuntimeError:
        logger.warning("%d answers of the engine had no taker: their event loop is closed", len(outcomes))


def _post_end(loop: asyncio.AbstractEventLoop, calls: Sequence[Call], reason: str) -> None:
    try:
        loop.call_soon_threadsafe(_fail, calls, reason)
    except RuntimeError:
        logger.warning("%d callers of the engine are gone: their event loop is closed", len(calls))


def _settle(outcomes: Iterable[tuple[Call, int, Outcome]]) -> None:
    for call, number, outcome in outcomes:
        call.settle(number, outcome)


def _fail(calls: Iterable[Call], reason: str) -> None:
    for call in calls:
        call.fail("crash", reason)
