"""The store as an observer of decisions: it takes each off the request's path, and lets those wait who must."""

import asyncio
import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

from guardrail.audit.content import redacted
from guardrail.audit.keys import Secrets
from guardrail.audit.made import frame_of
from guardrail.audit.row import Entry
from guardrail.audit.writer import AuditWriter, Item, WriterSettings, WriterStatus
from guardrail.events import AuditTroubled, DecisionMade, Event
from guardrail.interfaces import Workload

_MOST_WAITED_FOR = 65_536
_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class SinkSettings:
    """How long a route that waits for its records waits, in seconds, and how they are written."""

    wait_s: float = 2.0
    writer: WriterSettings = field(default_factory=WriterSettings)


class AuditSink:
    """An `EventSink` and a `Recorder`. `told` hears of trouble: what is lost, left out, or cannot be written."""

    def __init__(
        self, path: Path, secrets: Secrets, settings: SinkSettings, told: Callable[[AuditTroubled], None] = lambda _: None
    ) -> None:
        self.path = path
        self.secrets = secrets
        self._wait_s = settings.wait_s
        self._writer = AuditWriter(path, secrets, settings.writer, told)
        self._lock = threading.Lock()
        self._waited: OrderedDict[str, Future[bool]] = OrderedDict()

    def start(self) -> None:
        """Begin writing."""
        self._writer.start()

    def close(self) -> None:
        """Write what is there and end; may take seconds."""
        self._writer.close()

    def workload(self) -> Workload:
        """The records that are not written yet."""
        return Workload(calls=self._writer.status().queued)

    def status(self) -> WriterStatus:
        """How the writing does."""
        return self._writer.status()

    def emit(self, event: Event) -> None:
        """Queue a decision's record; never blocks."""
        if not isinstance(event, DecisionMade):
            return
        context = get_current_span().get_span_context()
        trace = (format_trace_id(context.trace_id), format_span_id(context.span_id)) if context.is_valid else ("", "")
        settled: Future[bool] | None = None
        if event.audit.wait:
            settled = Future()
            with self._lock:
                self._waited[event.decision.id] = settled
                while len(self._waited) > _MOST_WAITED_FOR:
                    self._waited.popitem(last=False)
        make = partial(_make, event, time.time(), trace)
        characters = sum(len(part.text or "") for part in event.parts)
        if not self._writer.put(Item(make, characters, None if settled is None else partial(_settle, settled))) and settled is not None:
            _settle(settled, kept=False)

    async def ready(self) -> bool:
        """Whether there is room for a record, and the store can be written; waits for that as long as a route waits."""
        deadline = time.monotonic() + self._wait_s
        while not self._writer.room or self._writer.failing:
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    async def kept(self, decision_id: str) -> bool:
        """Whether a decision is in the store; waits for that as long as a route waits."""
        with self._lock:
            settled = self._waited.pop(decision_id, None)
        if settled is None:
            return False
        try:
            async with asyncio.timeout(self._wait_s):
                return await asyncio.shield(asyncio.wrap_future(settled))
        except TimeoutError:
            return False


def _settle(settled: "Future[bool]", kept: bool) -> None:
    with contextlib.suppress(InvalidStateError):  # nobody waits any more
        settled.set_result(kept)


def _make(event: DecisionMade, at: float, trace: tuple[str, str], key: bytes) -> Entry:
    record, verdicts = frame_of(event, key, time=at, trace=trace), event.decision.verdicts
    match event.audit.content:
        case "full":
            record = replace(record, keeps="full", content=event.parts)
        case "redacted":
            record = replace(record, keeps="redacted", content=redacted(event.parts, verdicts))
    return Entry(record, verdicts)
