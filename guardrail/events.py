"""What the core tells its observers, and the one place where it is spread to them."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from guardrail.errors import Finding
from guardrail.types import Audit, Decision, Part

logger = logging.getLogger("guardrail")


@dataclass(frozen=True, slots=True)
class DecisionMade:
    """One stage was decided. `parts` carries the judged text for sinks that are allowed to look (content switches are theirs)."""

    decision: Decision
    request_id: str
    model: str
    protocol: str
    stream: bool
    parts: tuple[Part, ...]
    audit: Audit = field(default_factory=Audit)


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """A request was answered before anything was judged: unknown route, key or path, bad or too large body, full queue.

    `limit`: the kind of the tenant's limit that it met (requests, concurrency, characters, prompt, tokens), else empty.
    """

    status: int
    code: str
    request_id: str
    tenant: str
    path: str
    limit: str = ""


@dataclass(frozen=True, slots=True)
class UpstreamFailed:
    """The upstream broke. `code` as in UpstreamError, or `status_NNN` for an error answer that was passed through."""

    code: str
    upstream: str
    request_id: str
    route: str


@dataclass(frozen=True, slots=True)
class CanaryChecked:
    """A classifier judged its known pair. `ok` False makes `/readyz` fail; `detail` says what was wrong."""

    classifier: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class PoliciesPublished:
    """A new generation of policies is in force."""

    generation: int
    policies: int


@dataclass(frozen=True, slots=True)
class PoliciesRefused:
    """A changed policy or configuration could not be used: the last good generation stays in force."""

    generation: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class AuditTroubled:
    """Records that the audit store does not hold. `code`: queue_full, lost (the process before this one ended too early), unwritable.

    `failing` (no records yet: it is tried again) and `recovered` say how the store itself does, `damaged` that records which were pruned
    had been changed.
    """

    code: str
    records: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ClassifierAsked:
    """One call of a classifier: how many questions, and seconds until it had answered them or its time was up."""

    classifier: str
    questions: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class AnswerHeld:
    """A streamed answer is over. `held`: the most characters of it that waited for their verdict at a time."""

    route: str
    mode: str
    held: int


@dataclass(frozen=True, slots=True)
class CacheUsed:
    """One batch of questions to a classifier: how many were answered from the cache, how many asked, and what went for the new ones."""

    hits: int
    misses: int
    evictions: int


Guarded = Literal["classifier", "upstream"]


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    """The circuit breaker of a classifier or an upstream is now `closed`, `open` or `half_open`."""

    kind: Guarded
    name: str
    state: str


Counted = CacheUsed | ClassifierAsked | AnswerHeld
"""Events that are numbers only: no record is kept of each."""

Event = (
    BreakerChanged
    | DecisionMade
    | RequestRefused
    | UpstreamFailed
    | CanaryChecked
    | PoliciesPublished
    | PoliciesRefused
    | AuditTroubled
    | Counted
)


class EventSink(Protocol):
    """An observer: it knows the core, the core knows only this."""

    def emit(self, event: Event) -> None:
        """Take one event. Must return quickly and must not block; what it raises is counted, never spread."""
        ...


class EventFanout:
    """Gives each event to each sink; a sink that raises is logged and counted and cannot hurt the request or its neighbours."""

    def __init__(self, sinks: Iterable[EventSink] = ()) -> None:
        self._sinks: Sequence[EventSink] = tuple(sinks)
        self.failures = 0

    def emit(self, event: Event) -> None:
        """Spread one event."""
        for sink in self._sinks:
            try:
                sink.emit(event)
            except Exception:  # border: an observer must not break what it observes
                self.failures += 1
                logger.exception("event sink %s failed on %s", type(sink).__name__, type(event).__name__)
