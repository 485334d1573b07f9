"""A token bucket: never more than its burst and what it has gained since is taken, in any stretch of time. No clock of its own."""

import math


class Bucket:
    """Holds at most `burst` and gains `per_s` each second; it begins full.

    `now` is the caller's clock in seconds; an instant before the last one counts as the last one, so that no clock gives anything
    away. Raises ValueError for a rate or burst that is not above zero.
    """

    __slots__ = ("_at", "_held", "burst", "per_s")

    def __init__(self, per_s: float, burst: float, *, now: float) -> None:
        if not (0 < per_s < math.inf and 0 < burst < math.inf):
            raise ValueError(f"a bucket gains and holds more than nothing, not {per_s!r} a second and {burst!r}")
        self.per_s = per_s
        self.burst = burst
        self._held = burst
        self._at = now

    def held(self, now: float) -> float:
        """How much could be taken now."""
        self._refill(now)
        return self._held

    def take(self, amount: float, now: float) -> float:
        """0 when the amount was taken, else nothing was, and it could be after this many seconds (`inf`: never, it is above the burst)."""
        self._refill(now)
        if amount <= self._held:
            self._held -= amount
            return 0.0
        return math.inf if amount > self.burst else (amount - self._held) / self.per_s

    def give(self, amount: float, now: float) -> None:
        """Put something in beside what it gains by itself; what does not fit is lost."""
        self._refill(now)
        self._held = min(self.burst, self._held + amount)

    def full_in(self, now: float) -> float:
        """Seconds until it is full again."""
        return (self.burst - self.held(now)) / self.per_s

    def _refill(self, now: float) -> None:
        if now > self._at:
            self._held = min(self.burst, self._held + (now - self._at) * self.per_s)
            self._at = now
