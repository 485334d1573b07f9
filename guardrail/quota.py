"""What one caller may ask for: so many requests and characters in a time, so many at once. Pure; the clock is the caller's."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from guardrail.bucket import Bucket

Kind = Literal["requests", "concurrency", "characters"]
CONCURRENCY_RETRY_S = 1.0  # when a place becomes free is not known


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The limits of one caller; None is no limit. `burst` is how many requests may come at once after a pause, 1 at least.

    `characters_at_once` is the same of characters, what a minute brings unless it is given.
    """

    requests_per_s: float | None = None
    burst: float = 1.0
    concurrency: int | None = None
    body_bytes: int | None = None
    prompt_characters: int | None = None
    characters_per_minute: int | None = None
    answer_tokens: int | None = None
    characters_at_once: int | None = None

    def share(self, workers: int) -> "Ceilings":
        """One process's part of what `workers` processes allow together. What bounds a single request stays; one at once is the least.

        The longest prompt fits after a pause, whichever process it reaches: what a minute brings is divided, the longest prompt is not.
        """
        minute = None if self.characters_per_minute is None else max(1, self.characters_per_minute // workers)
        return replace(
            self,
            requests_per_s=None if self.requests_per_s is None else self.requests_per_s / workers,
            burst=max(1.0, self.burst / workers),
            concurrency=None if self.concurrency is None else max(1, self.concurrency // workers),
            characters_per_minute=minute,
            characters_at_once=None if minute is None else max(minute, self.longest_prompt or 0),
        )

    @property
    def longest_prompt(self) -> int | None:
        """Characters of the longest prompt that could ever be taken."""
        at_once = self.characters_per_minute if self.characters_at_once is None else self.characters_at_once
        return min((bound for bound in (self.prompt_characters, at_once) if bound is not None), default=None)


@dataclass(frozen=True, slots=True)
class Excess:
    """What there was too much of, and after how many seconds it could be tried again."""

    kind: Kind
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much of something a caller has: at most `limit`, `remaining` of it now, all of it again after `reset_s`."""

    kind: Kind
    limit: int
    remaining: int
    reset_s: float


class Quota:
    """What one caller has used. What is refused costs nothing of it."""

    def __init__(self, ceilings: Ceilings, *, now: float) -> None:
        self.ceilings = ceilings
        self._inside = 0
        rate, characters = ceilings.requests_per_s, ceilings.characters_per_minute
        self._requests = None if rate is None else Bucket(rate, ceilings.burst, now=now)
        self._characters = None if characters is None else Bucket(characters / 60, ceilings.characters_at_once or characters, now=now)

    def enter(self, now: float) -> Excess | None:
        """Count a request that begins; None: it may, and `leave` is owed."""
        most = self.ceilings.concurrency
        if most is not None and self._inside >= most:
            return Excess("concurrency", CONCURRENCY_RETRY_S)
        if self._requests is not None and (wait_s := self._requests.take(1.0, now)):
            return Excess("requests", wait_s)
        self._inside += 1
        return None

    def leave(self) -> None:
        """A request that was let in has ended."""
        self._inside -= 1

    def read(self, characters: int, now: float) -> Excess | None:
        """Count a prompt of this length, no longer than `longest_prompt`."""
        if self._characters is not None and (wait_s := self._characters.take(characters, now)):
            return Excess("characters", wait_s)
        return None

    def unread(self, characters: int, now: float) -> None:
        """Give back what was counted of a prompt that is counted anew."""
        if self._characters is not None:
            self._characters.give(characters, now)

    def allowances(self, now: float) -> Iterator[Allowance]:
        """What is left of what is limited in time."""
        buckets: tuple[tuple[Kind, Bucket | None], ...] = (("requests", self._requests), ("characters", self._characters))
        for kind, bucket in buckets:
            if bucket is not None:
                yield Allowance(kind, math.floor(bucket.burst), math.floor(bucket.held(now)), bucket.full_in(now))
