"""Which policies are resident: filled in chunks beside live traffic, pinned while in use, evicted to host memory and brought back."""

import contextlib
import itertools
from collections import OrderedDict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from guardrail.engine.cope.eviction import Clearing, Floors, Ready, StreamKeeper
from guardrail.engine.cope.filling import Filling
from guardrail.engine.cope.host_tier import HostTier
from guardrail.engine.cope.kv import PAGE, KVPool, KVSpan, OutOfPages
from guardrail.engine.cope.messages import Prefix
from guardrail.errors import ClassifierError

__all__ = ["Filling", "PrefixCounters", "PrefixStore", "State", "common_length"]

_LONGEST_LINEAGE = 8  # versions back that a head is looked for


class State(StrEnum):
    """`cold`: its ids are known, and perhaps host memory has its KV. `filling`: pages are being written. `ready`: resident."""

    UNKNOWN = "unknown"
    COLD = "cold"
    FILLING = "filling"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class PrefixCounters:
    """`evictions`, `reloads` (from host memory) and `shared_tokens` (not computed because an older version's were) since the start;
    the rest is now. Bytes count whole pages, each once. `offloaded` are in host memory and not resident; `offloaded_bytes` is what
    host memory holds, copies of resident ones included.
    """

    evictions: int
    reloads: int
    shared_tokens: int
    resident: int
    resident_bytes: int
    offloaded: int
    offloaded_bytes: int


@dataclass(slots=True)
class _Known:
    tokens: NDArray[np.int32]
    base: str | None
    tenants: set[str] = field(default_factory=set)


class PrefixStore:
    """Spans of policies by digest key. Not thread-safe: the engine's thread owns it, and the pool.

    `host_bytes` of host memory keep what had to leave the device. `floors` (bytes by tenant; `*` is the tenant of shared policies) are
    what other tenants' use does not evict. At most `most_known` policies' ids outlive the next `register` beside the resident ones.
    Raises ValueError when the floors promise more than the pool has.
    """

    def __init__(
        self,
        pool: KVPool,
        *,
        host_bytes: int = 0,
        floors: Mapping[str, int] = MappingProxyType({}),
        most_known: int = 4096,
    ) -> None:
        self.pool = pool
        self._tier = HostTier(pool, host_bytes)
        self._floors = Floors(pool, floors)
        self._distrusted: dict[str, KVSpan] = {}  # resident, and to be computed anew
        self._resident = np.zeros(pool.pages, np.int32)  # how many resident policies own each page
        self._most_known = most_known
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._ready: dict[str, Ready] = {}
        self._filling: dict[str, Filling] = {}
        self._streams: StreamKeeper | None = None
        self._clock = itertools.count()
        self._evictions = self._reloads = self._shared_tokens = 0

    @property
    def counters(self) -> PrefixCounters:
        """A snapshot."""
        return PrefixCounters(
            evictions=self._evictions,
            reloads=self._reloads,
            shared_tokens=self._shared_tokens,
            resident=len(self._ready),
            resident_bytes=int(np.count_nonzero(self._resident)) * self.pool.page_bytes,
            offloaded=sum(key not in self._ready for key in self._tier),
            offloaded_bytes=self._tier.nbytes,
        )

    def yields_to(self, streams: StreamKeeper) -> None:
        """From now on idle streams of this keeper leave like policies do where room is needed."""
        self._streams = streams

    def tick(self) -> int:
        """The time, in uses: what was used later has the higher number."""
        return next(self._clock)

    def state(self, key: str) -> State:
        """Where a policy stands."""
        if key in self._ready:
            return State.READY
        if key in self._filling:
            return State.FILLING
        return State.COLD if key in self._known else State.UNKNOWN

    def known(self, key: str) -> bool:
        """Can it be filled?"""
        return key in self._known

    def resident(self, key: str) -> bool:
        """Can it be acquired?"""
        return key in self._ready

    def register(self, prefix: Prefix) -> None:
        """Remember a policy's ids. A policy that several tenants register counts for the floor of each, and a new version for those of
        the old one.

        Raises ClassifierError: too_long when the pool could not hold it alone; malformed without tokens, or if its key names others.
        """
        if not len(prefix.tokens):
            raise ClassifierError("malformed", f"the prefix {prefix.key} has no tokens")
        room = self.pool.pages * PAGE
        if len(prefix.tokens) > room:
            raise ClassifierError(
                "too_long", f"the prefix {prefix.key} has {len(prefix.tokens)} tokens and the KV budget holds {room}; raise kv_bytes"
            )
        known = self._known.get(prefix.key)
        if known is None:
            known = self._known[prefix.key] = _Known(np.array(prefix.tokens, np.int32), prefix.base)
            if (old := self._known.get(prefix.base or "")) is not None:  # a new version takes its owners' room, not others'
                known.tenants |= old.tenants
        elif not np.array_equal(known.tokens, prefix.tokens):
            raise ClassifierError("malformed", f"the key {prefix.key} already names other tokens; a key is a digest over its tokens")
        known.base = prefix.base or known.base
        self._belongs(prefix.key, prefix.tenant)
        self._known.move_to_end(prefix.key)
        self._forget_oldest()

    def acquire(self, key: str, tenant: str) -> KVSpan | None:
        """A resident policy's span, pinned and now the most recently used; None when it is not resident.

        A policy that is not shared and that `tenant` uses counts for that tenant's floor, too.
        """
        ready = self._ready.get(key)
        if ready is None:
            return None
        if "*" not in ready.tenants:
            self._belongs(key, tenant)
        ready.used = self.tick()
        self._known.move_to_end(key)
        ready.span.pins += 1
        return ready.span

    def release(self, span: KVSpan) -> None:
        """Unpin. Raises ValueError for a span that is not pinned."""
        if span.pins <= 0:
            raise ValueError("a span was released more often than it was acquired")
        span.pins -= 1
        for key in [key for key, distrusted in self._distrusted.items() if distrusted is span and not span.pins]:
            self._discard(key)

    def distrust(self, key: str) -> None:
        """What was computed for a policy gave no number. Unless something behind it once did, it is computed anew, whole, once nobody
        relies on it; no version shares its head until then, and no copy of it is kept.
        """
        ready = self._ready.get(key)
        if ready is None or ready.span.proven or key in self._distrusted:
            return
        self._tier.drop(key)
        self._known[key].base = None
        self._distrusted[key] = ready.span
        if not ready.span.pins:
            self._discard(key)

    def fill(self, key: str) -> Filling:
        """Start making a policy resident, or the filling under way. Brought back from host memory it is `done` at once.

        Where there is no room yet the next `Filling.row` tries again. Raises ClassifierError (not_prepared) for an unknown key.
        """
        if key in self._filling:
            return self._filling[key]
        if key not in self._known:
            raise ClassifierError("not_prepared", f"the prefix {key} is not known here; prepare its policy first")
        self._known.move_to_end(key)
        span = self._ready[key].span if key in self._ready else KVSpan(self.pool)
        known = self._known[key]
        filling = Filling(known.tokens, span, begin=lambda it: self._begin(key, it), end=lambda it: self._end(key, it))
        if key in self._ready:
            filling.done = True
            return filling
        span.pins += 1
        self._filling[key] = filling
        with contextlib.suppress(OutOfPages):
            self._find_head(key, filling)
        filling.settle()
        return filling

    def make_room(self, pages: int, *, tenant: str) -> None:
        """Have `pages` pages free on behalf of a tenant: the least recently used of policies that nobody relies on (they move to host
        memory) and of idle streams leave. Raises OutOfPages when that is not enough, and then nobody has left.
        """
        self._make_room(pages, {tenant})

    def _make_room(self, pages: int, tenants: AbstractSet[str]) -> None:
        missing = pages - self.pool.free_pages
        if missing <= 0:
            return
        idle = self._streams.idle() if self._streams else ()
        leaving = Clearing(self.pool, self._floors, tenants).choose(missing, self._ready.values(), idle)
        if leaving is None:
            raise OutOfPages(pages, self.pool.free_pages)
        for who in leaving:
            if isinstance(who, Ready):
                self._evict(who)
            elif self._streams:
                self._streams.drop(who)

    def _evict(self, ready: Ready) -> None:
        if ready.key not in self._distrusted:
            self._tier.put(ready.key, ready.span)
        self._leave(ready)
        self._evictions += 1

    def _discard(self, key: str) -> None:
        """As an eviction, but nothing is kept of it."""
        del self._distrusted[key]
        if key in self._ready:
            self._leave(self._ready[key])

    def _leave(self, ready: Ready) -> None:
        self._distrusted.pop(ready.key, None)
        self._floors.remove(ready.tenants, ready.span.pages)
        self._resident[ready.span.pages] -= 1
        ready.span.drop()
        del self._ready[ready.key]

    def _begin(self, key: str, filling: Filling) -> None:
        self._find_head(key, filling)
        self._reserve(key, filling.span, len(filling.tokens))

    def _end(self, key: str, filling: Filling) -> None:
        filling.span.pins -= 1
        del self._filling[key]
        if filling.done:
            known = self._known[key]
            self._ready[key] = Ready(key, filling.span, known.tenants, self.tick())
            self._floors.add(known.tenants, filling.span.pages)
            self._resident[filling.span.pages] += 1
            self._shared_tokens += filling.shared

    def _find_head(self, key: str, filling: Filling) -> None:
        """Give an empty span what need not be computed: all, from host memory, or the head it has in common with an older version."""
        if len(filling.span.pages):
            return  # under way, or reserved for a pass that was never run
        if key in self._tier:
            self._bring_back(key, filling, len(filling.tokens), of=key)
            self._reloads += 1
            return
        base, shared = self._longest_head(key)
        if not shared:
            return
        if base in self._tier and base not in self._ready:
            self._bring_back(key, filling, shared, of=base)
        else:
            live = self._ready[base].span if base in self._ready else self._filling[base].span
            filling.span.share_head(live, shared)
        filling.shared = shared

    def _longest_head(self, key: str) -> tuple[str, int]:
        """The version whose KV holds the longest run of whole pages of this policy's first tokens, and how many tokens that is."""
        tokens, base = self._known[key].tokens, self._known[key].base
        best = ("", 0)
        for _ in range(_LONGEST_LINEAGE):
            if base is None or base == key or base not in self._known:
                break
            same = common_length(self._known[base].tokens, tokens)
            if base in self._filling:
                same = min(same, self._filling[base].span.length)
            elif base in self._distrusted or (base not in self._ready and base not in self._tier):
                same = 0
            if same // PAGE * PAGE > best[1]:
                best = (base, same // PAGE * PAGE)
            base = self._known[base].base
        return best

    def _bring_back(self, key: str, filling: Filling, length: int, *, of: str) -> None:
        """Copy the first `length` tokens of a copy in host memory, but for the pages that are on the device still."""
        span = filling.span
        with self._tier.held(of):
            there = self.pool.holding(self._tier.stamps(of)[: length // PAGE])
            there = there[: int(np.argmin(np.append(there, -1)))]  # a span shares a head, and nothing behind a gap
            span.adopt(there, filling.tokens[: len(there) * PAGE])
            try:
                self._reserve(key, span, len(filling.tokens))
            except OutOfPages:
                span.drop()
                raise
            self._tier.write(of, span, range(len(there), -(-length // PAGE)))
        span.append(filling.tokens[span.length : length])

    def _reserve(self, key: str, span: KVSpan, length: int) -> None:
        self._make_room(span.pages_for(length), self._known[key].tenants)
        span.reserve(length)

    def _belongs(self, key: str, tenant: str) -> None:
        known = self._known[key]
        if tenant not in known.tenants:
            known.tenants.add(tenant)
            if key in self._ready:
                self._floors.add({tenant}, self._ready[key].span.pages)

    def _forget_oldest(self) -> None:
        cold = len(self._known) - len(self._ready) - len(self._filling)
        oldest = (key for key in list(self._known) if self.state(key) is State.COLD)
        for key in itertools.islice(oldest, max(0, cold - self._most_known)):
            del self._known[key]
            self._tier.drop(key)


def common_length(left: NDArray[np.int32], right: NDArray[np.int32]) -> int:
    """How many first tokens two sequences have in common."""
    length = min(len(left), len(right))
    different = np.flatnonzero(left[:length] != right[:length])
    return int(different[0]) if len(different) else length
