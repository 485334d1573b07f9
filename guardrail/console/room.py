"""What the pages look at: the running guard, the audit store if there is one, and what the console itself remembers."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from guardrail.asgi.publication import Publisher
from guardrail.asgi.service import GuardService
from guardrail.audit.sink import AuditSink
from guardrail.audit.store import AuditReader, Total
from guardrail.config.console import ConsoleConfig
from guardrail.console.history import PolicyHistory
from guardrail.console.tried import Tried
from guardrail.errors import GuardrailError, WireError
from guardrail.routing import RouteTable
from guardrail.types import Policy

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """One interval of the overview's plots."""

    start: float
    decisions: int
    words: Mapping[str, int]
    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Counted:
    """What happened over a range of the overview: by steps, and in a few numbers (`sums`)."""

    totals: Sequence[Total] = ()
    steps: Sequence[Step] = ()
    sums: Mapping[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class Room:
    """One for the console of a process. `tried` are the last results of policies' own tests."""

    service: GuardService
    settings: ConsoleConfig
    audit: AuditReader | None
    history: PolicyHistory
    tried: dict[Policy, Tried] = field(default_factory=dict)
    counted: dict[str, tuple[float, Counted]] = field(default_factory=dict)
    """The last counts of each range of the overview, and when they were made."""
    counting: asyncio.Lock = field(default_factory=asyncio.Lock)
    judging: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    """What the console has judged waits its turn here: one at a time, whatever is clicked, so that traffic hardly notices."""

    async def read(self, ask: Callable[[AuditReader], T], empty: T) -> T:
        """What the store answers; `empty` where there is none, and while it is only being made. Raises GuardrailError."""
        if self.audit is None:
            return empty
        try:
            return await asyncio.to_thread(ask, self.audit)
        except GuardrailError:
            writing = self.service.recorder.status() if isinstance(self.service.recorder, AuditSink) else None
            if writing is not None and not writing.written and not writing.failing:
                return empty
            raise

    @property
    def publisher(self) -> Publisher:
        """What is in force. Raises WireError (503) while the guard is not running."""
        if self.service.publisher is None:
            raise WireError(503, "guardrail_unavailable", "The guard is not running.")
        return self.service.publisher

    @property
    def table(self) -> RouteTable:
        """The routes in force. Raises WireError (503) while there are none."""
        if self.publisher.table is None:
            raise WireError(503, "guardrail_unavailable", "No policies are in force yet.")
        return self.publisher.table
