"""Who has to leave so that pages become free: worked out on a copy of the books before anything is touched. Pure; no tensors."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from guardrail.engine.cope.kv import KVPool, KVSpan


@dataclass(slots=True, eq=False)
class Ready:
    """A resident policy, the tenants whose policy it is (`*`: shared by all), and when it was last used (ticks of the store's clock)."""

    key: str
    span: KVSpan
    tenants: AbstractSet[str]
    used: int


@dataclass(slots=True, eq=False)
class StreamKV:
    """A growing answer's KV, the resident policy that it relies on (and pins), and when it was last used."""

    span: KVSpan
    prefix: KVSpan
    used: int


class StreamKeeper(Protocol):
    """Who keeps streams, as the one who makes room sees it."""

    def idle(self) -> Sequence[StreamKV]:
        """What may be dropped: no step of it is under way."""
        ...

    def drop(self, stream: StreamKV) -> None:
        """Give its pages back and unpin its policy."""
        ...


class Floors:
    """For each tenant with a floor, how often its resident policies own each page; a page counts once however many own it."""

    def __init__(self, pool: KVPool, floors: Mapping[str, int]) -> None:
        """Raises ValueError when the floors promise more than the pool has."""
        self._pool = pool
        self._floors = {tenant: -(-floor // pool.page_bytes) for tenant, floor in floors.items() if floor > 0}
        if sum(self._floors.values()) > pool.pages:
            raise ValueError(
                f"the tenants' floors take {sum(self._floors.values())} pages of {pool.page_bytes} bytes and the pool has {pool.pages}; "
                "lower them or raise the KV budget"
            )
        self._owned = {tenant: np.zeros(pool.pages, np.int32) for tenant in self._floors}

    def copy(self) -> "Floors":
        """The same books, to work something out with."""
        twin = Floors(self._pool, {})
        twin._floors = self._floors
        twin._owned = {tenant: owned.copy() for tenant, owned in self._owned.items()}
        return twin

    def add(self, tenants: Iterable[str], pages: NDArray[np.int64]) -> None:
        """A policy of these tenants is resident in these pages."""
        for tenant in self._floors.keys() & set(tenants):
            self._owned[tenant][pages] += 1

    def remove(self, tenants: Iterable[str], pages: NDArray[np.int64]) -> None:
        """It is not any more."""
        for tenant in self._floors.keys() & set(tenants):
            self._owned[tenant][pages] -= 1

    def pages(self, tenant: str) -> int:
        """Pages that a tenant's resident policies own (0 for one without a floor: nobody counts)."""
        return int(np.count_nonzero(self._owned[tenant])) if tenant in self._owned else 0

    def protect(self, ready: Ready, *, against: AbstractSet[str]) -> bool:
        """Would evicting this policy for these tenants take another one, whose policy it is, below its floor?"""
        for owner in (self._floors.keys() & ready.tenants) - against:
            owned = self._owned[owner]
            if np.count_nonzero(owned) - int((owned[ready.span.pages] == 1).sum()) < self._floors[owner]:
                return True
        return False


class Clearing:
    """One search for room on behalf of `tenants`."""

    def __init__(self, pool: KVPool, floors: Floors, tenants: AbstractSet[str]) -> None:
        self._owners = pool.ownership()
        self._floors = floors.copy()
        self._tenants = tenants
        self._freed = 0
        self._leaving: list[Ready | StreamKV] = []
        self._pins: dict[int, int] = {}

    def choose(self, missing: int, ready: Iterable[Ready], idle: Iterable[StreamKV]) -> list[Ready | StreamKV] | None:
        """Who leaves, in order, so that `missing` pages become free; None when not even all who may leave free as many.

        The least recently used first, policies that nobody relies on and idle streams alike: to bring a policy back from host memory takes
        about as long as to run a stream's content again. A policy may follow the last stream that pinned it. Who turns out not to be
        needed stays (the more recently used first), as one whose pages are all shared.
        """
        pinned: dict[int, Ready] = {}
        everyone: list[Ready | StreamKV] = [*ready, *idle]
        for who in sorted(everyone, key=lambda one: one.used):
            if self._freed >= missing:
                break
            if isinstance(who, StreamKV):
                self._take(who)
                prefix = id(who.prefix)
                self._pins[prefix] = self._pins.get(prefix, who.prefix.pins) - 1
                if not self._pins[prefix] and prefix in pinned and self._freed < missing:
                    self._evict(pinned[prefix])
            elif self._pins.get(id(who.span), who.span.pins):
                pinned[id(who.span)] = who
            else:
                self._evict(who)
        if self._freed < missing:
            return None
        self._spare(missing)
        return self._leaving

    def _evict(self, policy: Ready) -> None:
        if not self._floors.protect(policy, against=self._tenants):
            self._floors.remove(policy.tenants, policy.span.pages)
            self._take(policy)

    def _take(self, who: Ready | StreamKV) -> None:
        self._owners[who.span.pages] -= 1
        self._freed += int((self._owners[who.span.pages] == 0).sum())
        self._leaving.append(who)

    def _spare(self, missing: int) -> None:
        for who in reversed(self._leaving.copy()):
            freed = int((self._owners[who.span.pages] == 0).sum())
            relied_on = isinstance(who, StreamKV) and any(other.span is who.prefix for other in self._leaving)
            if self._freed - freed >= missing and not relied_on:
                self._owners[who.span.pages] += 1
                self._freed -= freed
                self._leaving.remove(who)
