"""The seams between the guard and whatever scores, and whoever keeps its records.

(The observers' seam, `EventSink`, stands beside the events it carries.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from guardrail.errors import ClassifierError
from guardrail.types import ClassifyRequest, Policy, Score


class Classifier(Protocol):
    """Anything that scores. It never thresholds and never decides."""

    @property
    def id(self) -> str:
        """Name and weights digest (`embedded@sha256:1f2e…`), written into every score and record."""
        ...

    async def prepare(self, policies: Sequence[Policy]) -> None:
        """Make policies resident and warm before they are published. Raises ClassifierError when one cannot be served."""
        ...

    async def classify(self, requests: Sequence[ClassifyRequest], *, deadline: float) -> list[Score | ClassifierError]:
        """One entry a request, in order: a score, or the error that stands in for it.

        `deadline` is a `time.monotonic()` instant; what is not scored by then is `ClassifierError("timeout", …)`.
        A whole-batch failure may be raised instead; the guard turns it into an error for each request.
        """
        ...

    async def aclose(self) -> None:
        """Free threads, memory and connections. Idempotent."""
        ...


class Session(Protocol):
    """One growing text under fixed policies. For one task at a time."""

    async def extend(self, text: str, *, deadline: float, final: bool = False) -> list[Score | ClassifierError] | None:
        """Append `text`; one score or error for each policy, of everything so far, when a check is due, else None.

        With `final` a check is always made. A check that failed leaves the text appended: the next one covers it.
        """
        ...

    async def aclose(self) -> None:
        """Give back what was kept for it. Idempotent."""
        ...


@runtime_checkable
class SupportsSessions(Protocol):
    """A classifier that judges a growing text for less than judging the whole of it again."""

    def session(self, policies: Sequence[Policy], *, tenant: str = "*") -> Session:
        """Begin with no text. The policies must have been prepared."""
        ...


@runtime_checkable
class SupportsHealth(Protocol):
    """A classifier that knows at any moment whether it can serve, between one known pair and the next."""

    def outage(self) -> str | None:
        """Why it cannot serve now, in a sentence; None when it can. Never blocks."""
        ...


@runtime_checkable
class SupportsProgress(Protocol):
    """A classifier that counts its passes, so that one with too much to do can be told from one that hangs."""

    def passes(self) -> int:
        """How many it has made; it grows while work gets done, whoever's. Never blocks."""
        ...


class Recorder(Protocol):
    """Who keeps the record of each decision (an event sink too), and can be waited for by those routes that ask for it."""

    def start(self) -> None:
        """Begin. Never waits and never raises: whether records can be kept shows later."""
        ...

    def close(self) -> None:
        """Keep what is there, and end; may take seconds."""
        ...

    async def ready(self) -> bool:
        """Whether one more record can be kept; waits for that, but not long."""
        ...

    async def kept(self, decision_id: str) -> bool:
        """Whether the record of a decision that was just made is kept; waits for that, but not long."""
        ...


@dataclass(frozen=True, slots=True)
class Workload:
    """What is in hand: calls or records that are not settled yet, and tokens that wait for a pass. None: they are not counted."""

    calls: int | None = None
    tokens: int | None = None


@runtime_checkable
class SupportsWorkload(Protocol):
    """A classifier or recorder that knows how much it has to do."""

    def workload(self) -> Workload:
        """As it is now. Never blocks."""
        ...
