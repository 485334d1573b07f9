"""Who has to leave so that pages become free: worked out on a copy of the books before anything is touched. Pure; no tensors."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from guardrail.engine.cope.kv import KVPool, KVSpan


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """A resident policy and the tenants whose policy it is (`*`: shared by all)."""

    key: str
    span: KVSpan
    tenants: AbstractSet[str]


@dataclass(frozen=True, slots=True, eq=False)
class IdleStream:
    """A growing answer whose last step has been answered, and the resident policy that its KV relies on (and pins)."""

    span: KVSpan
    prefix: KVSpan


class IdleStreams(Protocol):
    """Who keeps streams, as the one who makes room sees it."""

    def idle(self) -> Sequence[IdleStream]:
        """What may be dropped, the longest unused first."""
        ...

    def drop(self, stream: IdleStream) -> None:
        """Give its pages back and unpin its policy."""
        ...


@dataclass(frozen=True, slots=True)
class Leaving:
    """Who leaves."""

    prefixes: tuple[Ready, ...]
    streams: tuple[IdleStream, ...]


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

    def protect(self, ready: Ready, *, tenant: str) -> bool:
        """May `tenant` not evict this policy? True when another tenant, whose policy it is, would fall below its floor."""
        for owner in self._floors.keys() & ready.tenants:
            owned = self._owned[owner]
            left = np.count_nonzero(owned) - int((owned[ready.span.pages] == 1).sum())
            if owner != tenant and left < self._floors[owner]:
                return True
        return False


class Clearing:
    """One search for room on behalf of `tenant`."""

    def __init__(self, pool: KVPool, floors: Floors, tenant: str) -> None:
        self._owners = pool.ownership()
        self._floors = floors.copy()
        self._tenant = tenant
        self._freed = 0
        self._prefixes: list[Ready] = []
        self._streams: list[IdleStream] = []

    def choose(self, missing: int, ready: Sequence[Ready], idle: Sequence[IdleStream]) -> Leaving | None:
        """Who leaves so that `missing` pages become free; None when not even all who may leave free as many.

        `ready` and `idle` in the order in which they should leave. Policies that nobody relies on go first (they come back by copy),
        then idle streams, each with its policy if nobody else relies on that. Whoever turns out not to be needed stays.
        """
        for policy in ready:
            if self._freed < missing and not policy.span.pins:
                self._evict(policy)
        policies = {id(policy.span): policy for policy in ready}
        relied_on: dict[int, int] = {}
        for stream in idle:
            if self._freed >= missing:
                break
            self._take(stream.span)
            self._streams.append(stream)
            pins = relied_on[id(stream.prefix)] = relied_on.get(id(stream.prefix), stream.prefix.pins) - 1
            if self._freed < missing and not pins and id(stream.prefix) in policies:
                self._evict(policies[id(stream.prefix)])
        if self._freed < missing:
            return None
        self._spare(missing)
        return Leaving(tuple(self._prefixes), tuple(self._streams))

    def _evict(self, policy: Ready) -> None:
        if not self._floors.protect(policy, tenant=self._tenant):
            self._floors.remove(policy.tenants, policy.span.pages)
            self._take(policy.span)
            self._prefixes.append(policy)

    def _take(self, span: KVSpan) -> None:
        self._owners[span.pages] -= 1
        self._freed += int((self._owners[span.pages] == 0).sum())

    def _spare(self, missing: int) -> None:
        leaving = {id(policy.span) for policy in self._prefixes}
        for stream in reversed(self._streams.copy()):
            if id(stream.prefix) not in leaving and self._untake(stream.span, missing):
                self._streams.remove(stream)
        for policy in reversed(self._prefixes.copy()):
            if self._untake(policy.span, missing):
                self._prefixes.remove(policy)

    def _untake(self, span: KVSpan, missing: int) -> bool:
        freed = int((self._owners[span.pages] == 0).sum())
        if self._freed - freed < missing:
            return False
        self._owners[span.pages] += 1
        self._freed -= freed
        return True
