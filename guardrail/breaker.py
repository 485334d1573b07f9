"""A circuit breaker: what fails again and again is left alone for a while, then tried by one call at a time."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """Open after `failures` in a row within `window_s` seconds, for `open_s` seconds."""

    failures: int = 20
    window_s: float = 10.0
    open_s: float = 5.0


class Breaker:
    """Closed: all calls go. Open: none does. Half open: one goes, and what becomes of it closes or opens the breaker again.

    A success forgets the failures before it, so that one caller's bad requests do not shut out all others. What a call that began before
    the last change comes to is no longer looked at. Half open, a trial without a result for `open_s` is followed by another, and still
    counts when it ends. `changed` is told each new state. For one thread; it never waits.
    """

    def __init__(
        self, settings: BreakerSettings, *, clock: Callable[[], float] = time.monotonic, changed: Callable[[State], None] | None = None
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._changed = changed
        self._failed: deque[float] = deque(maxlen=settings.failures)
        self._ticket = 0
        self._first = 0  # the first ticket since the last change of state
        self._until = 0.0
        self.state: State = "closed"

    def begin(self) -> int | None:
        """A ticket for one call, to be given back with `end`; None: it must not be made."""
        if self.state != "closed":
            if self._clock() < self._until:
                return None
            if self.state == "open":
                self._enter("half_open")
            else:  # the trial before takes long, or was never ended
                self._ticket += 1
                self._until = self._clock() + self._settings.open_s
        return self._ticket

    def end(self, ticket: int, ok: bool | None) -> None:
        """What became of a call: it worked, it failed, or (None) nothing can be said of it."""
        if ticket < self._first:
            return
        if self.state == "half_open":
            if ok is not None:
                self._enter("closed" if ok else "open")
            elif ticket == self._ticket:
                self._until = self._clock()
        elif ok:
            self._failed.clear()
        elif ok is not None:
            now = self._clock()
            self._failed.append(now)
            if len(self._failed) == self._settings.failures and now - self._failed[0] <= self._settings.window_s:
                self._enter("open")

    @property
    def retry_after_s(self) -> float:
        """Seconds until a call may be made; 0 when one may now."""
        return 0.0 if self.state == "closed" else max(0.0, self._until - self._clock())

    def _enter(self, state: State) -> None:
        told = state != self.state
        self.state = state
        self._ticket += 1
        self._first = self._ticket
        self._failed.clear()
        self._until = self._clock() + self._settings.open_s
        if told and self._changed is not None:
            self._changed(state)
