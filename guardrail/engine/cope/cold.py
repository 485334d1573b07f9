"""Prefixes that are asked for and not resident: who waits for which, and which is filled next. Pure."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from guardrail.engine.cope.work import Place, Work

W = TypeVar("W", bound=Work)


@dataclass(slots=True)
class _Cold(Generic[W]):
    tenant: str
    tokens: int
    since: float
    level: int
    deadline: float
    works: list[W] = field(default_factory=list)
    live: int = 0
    blocked_until: float = 0.0
    begun: bool = False


class ColdPrefixes(Generic[W]):
    """The next prefix to fill is that of the smallest level; then one that is begun already; then of the tenant for whom least was
    filled; then of the earliest deadline. Who has waited for `patience_s` counts as of the smallest level.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._cold: dict[str, _Cold[W]] = {}
        self._tenants: Counter[str] = Counter()  # how many of them each tenant wanted first
        self._filled: dict[str, int] = {}  # tokens, by the tenant that wanted them first
        self._current: str | None = None
        self._settled = False  # nothing has changed since `_current` was chosen

    def __len__(self) -> int:
        return len(self._cold)

    @property
    def tokens(self) -> int:
        """Of all prefixes that somebody waits for, as far as they have yet to be run."""
        return sum(cold.tokens for cold in self._cold.values())

    def wait(self, work: W, *, tokens: int, now: float) -> None:
        """Wait for a prefix that has `tokens` tokens."""
        work.place = Place.COLD
        cold = self._cold.get(work.prefix)
        if cold is None:
            cold = self._cold[work.prefix] = _Cold(work.tenant, tokens, now, work.level, work.deadline)
            # A newcomer is not ahead of those who have waited while others were filled.
            least = min((self._filled.get(tenant, 0) for tenant in self._tenants), default=0)
            self._filled[work.tenant] = max(self._filled.get(work.tenant, 0), least)
            self._tenants[work.tenant] += 1
            self._settled = False
        elif work.level < cold.level:
            self._settled = False
        cold.level = min(cold.level, work.level)
        cold.deadline = min(cold.deadline, work.deadline)
        cold.works.append(work)
        cold.live += 1

    def choose(self, now: float) -> str | None:
        """The prefix to fill next; None when there is none that could be tried now."""
        if self._settled and self._current in self._cold:
            return self._current
        able = [key for key, cold in self._cold.items() if cold.blocked_until <= now]
        self._current = min(able, key=lambda key: self._rank(self._cold[key], now), default=None)
        self._settled = len(able) == len(self._cold)
        return self._current

    def filled(self, key: str, tokens: int) -> None:
        """So many more of its tokens are resident. Nothing, when nobody waits for it any more."""
        if cold := self._cold.get(key):
            cold.begun = True
            cold.tokens = max(0, cold.tokens - tokens)
            self._filled[cold.tenant] += tokens

    def block(self, key: str, until: float) -> list[W]:
        """There was no room for it: not before `until`. Who waits for it."""
        cold = self._cold.get(key)
        if cold is None:
            return []
        cold.blocked_until = until
        self._settled = False
        return [work for work in cold.works if not work.gone]

    def wanted(self, key: str) -> bool:
        """Does anybody still wait for it?"""
        return key in self._cold

    def dropped(self, key: str) -> None:
        """One of those who waited for it is gone."""
        cold = self._cold[key]
        cold.live -= 1
        if not cold.live:
            self.pop(key)

    def pop(self, key: str) -> list[W]:
        """Who still waited for it; nobody does any more."""
        cold = self._cold.pop(key, None)
        self._settled = False
        if cold is not None:
            self._tenants[cold.tenant] -= 1
            if not self._tenants[cold.tenant]:
                del self._tenants[cold.tenant]
        if not self._cold:
            self._filled.clear()
        return [] if cold is None else [work for work in cold.works if not work.gone]

    def wake_at(self) -> float | None:
        """When one of them may be tried (again); None when there is none."""
        return min((cold.blocked_until for cold in self._cold.values()), default=None)

    def sweep(self) -> None:
        """Free the memory of works that are gone."""
        for cold in self._cold.values():
            cold.works = [work for work in cold.works if not work.gone]

    def _rank(self, cold: _Cold[W], now: float) -> tuple[int, bool, int, float]:
        level = 0 if now - cold.since >= self._patience_s else cold.level
        return level, not cold.begun, self._filled[cold.tenant], cold.deadline
