"""How much may wait for the engine, and how long that will take: decided at the door, in tokens. For any thread."""

import threading
from collections import Counter
from dataclasses import dataclass

from guardrail.errors import ClassifierError

_FADING = 0.9  # of what was measured before, for each further pass
_SHARED = 3 / 4  # of the room is for whoever comes; the rest for tenants of whom little waits
_LITTLE = 1 / 16


class Pace:
    """Tokens a second over the last passes; for the engine's thread, read by any."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def measured(self, tokens: int, seconds: float) -> None:
        """A pass ran so many tokens in so many seconds."""
        self._tokens = _FADING * self._tokens + tokens
        self._seconds = _FADING * self._seconds + seconds

    @property
    def tokens_per_s(self) -> float:
        """0.0 before the first pass."""
        return self._tokens / self._seconds if self._seconds > 0 else 0.0


@dataclass(slots=True)
class Ticket:
    """Room that a question takes."""

    tenant: str
    tokens: int


class Admission:
    """Bounds the tokens that wait. One tenant fills three quarters of it at most, so that others find room."""

    def __init__(self, most_tokens: int) -> None:
        self._most = most_tokens
        self._lock = threading.Lock()
        self._tenants: Counter[str] = Counter()
        self._tokens = 0

    @property
    def tokens(self) -> int:
        """Waiting now."""
        return self._tokens

    def enter(self, tenant: str, tokens: int, *, ahead: int, pace: Pace) -> Ticket:
        """Take room. Raises ClassifierError (overloaded) with an estimate of when there will be some: `ahead` tokens of other work
        also have to be run first. A single question larger than all the room gets in where nothing else waits.
        """
        with self._lock:
            own = self._tenants[tenant]
            most = self._most if own == 0 or own + tokens <= _LITTLE * self._most else _SHARED * self._most
            if self._tokens + tokens > most and self._tokens:
                if not own:
                    del self._tenants[tenant]
                raise ClassifierError("overloaded", self._refusal(ahead, pace))
            self._tenants[tenant] += tokens
            self._tokens += tokens
        return Ticket(tenant, tokens)

    def leave(self, ticket: Ticket) -> None:
        """Give room back. Idempotent."""
        with self._lock:
            self._tokens -= ticket.tokens
            self._tenants[ticket.tenant] -= ticket.tokens
            if not self._tenants[ticket.tenant]:
                del self._tenants[ticket.tenant]
            ticket.tokens = 0

    def _refusal(self, ahead: int, pace: Pace) -> str:
        waiting = f"{self._tokens} tokens wait for the engine already, of {self._most} that may"
        if not pace.tokens_per_s:
            return f"{waiting}; try again later"
        return f"{waiting}; try again in {max(0.1, (self._tokens + ahead) / pace.tokens_per_s):.1f} s"
