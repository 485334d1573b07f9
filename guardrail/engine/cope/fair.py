"""Works of one priority: tenants share by tokens, and within a tenant's share the earlier deadline goes first. Pure.

Surplus round robin (Adiseshu, Parulkar, Varghese 1996, the variant of deficit round robin that lets a share be overdrawn): in a round
every tenant may take a quantum of tokens. A work begun within the quantum is finished, and what it took beyond it is missing in the
next round, so that large works cost their tenant as much as small ones. Unlike the original, tenants take no fixed turns within a
round: the earliest deadline among those that have something left goes first.
"""

import heapq
from typing import Generic, TypeVar

from guardrail.engine.cope.work import Place, Work

W = TypeVar("W", bound=Work)


class _Share(Generic[W]):
    """A tenant that has works waiting."""

    __slots__ = ("allowance", "heap")

    def __init__(self, allowance: int) -> None:
        self.allowance = allowance
        self.heap: list[tuple[float, int, W]] = []


class FairQueue(Generic[W]):
    """`quantum`: tokens that each tenant may take in a round. `most_owed`: beyond it what was taken too much is forgiven, since it was
    room that others could not have used.
    """

    def __init__(self, quantum: int, *, most_owed: int) -> None:
        self.live = 0  # works in here that are still wanted
        self._quantum = quantum
        self._least = -most_owed
        self._shares: dict[str, _Share[W]] = {}
        # Tenants that have none waiting, in this round: leaving and coming back is no way to a second quantum.
        self._away: dict[str, int] = {}
        # (deadline, serial, tenant) of the first works of tenants that have (_within), or have not (_beyond), something left.
        # An entry that is not true any more is dropped when it is met.
        self._paused: set[str] = set()
        self._within: list[tuple[float, int, str]] = []
        self._beyond: list[tuple[float, int, str]] = []

    def push(self, work: W) -> None:
        """Wait. A work may come back after it was popped."""
        work.place = Place.READY
        self.live += 1
        share = self._shares.get(work.tenant)
        if share is None:
            share = self._shares[work.tenant] = _Share(self._away.pop(work.tenant, self._quantum))
        heapq.heappush(share.heap, (work.deadline, work.serial, work))
        if share.heap[0][2] is work:
            self._offer(work.tenant, share)

    def pop(self, *, borrow: bool = False) -> W | None:
        """The next work, or None when there is none; it is charged to nobody yet.

        With `borrow` no new round begins: a tenant whose turn it is waits for something, and the others go on at their own expense.
        """
        while True:
            tenant = self._first(within=True) or (self._first(within=False) if borrow else None)
            if tenant is None:
                if borrow or not self._next_round():
                    return None
                continue
            share = self._shares[tenant]
            work = heapq.heappop(share.heap)[2]
            if share.heap:
                self._offer(tenant, share)
            else:
                self._away[tenant] = share.allowance
                del self._shares[tenant]
            if not work.gone:
                self.live -= 1
                return work

    def charge(self, tenant: str, tokens: int) -> None:
        """Take tokens from a tenant's share of this round; negative: give them back."""
        share = self._shares.get(tenant)
        if share is None:
            self._away[tenant] = max(self._least, self._away.get(tenant, self._quantum) - tokens)
            return
        before = share.allowance > 0
        share.allowance = max(self._least, share.allowance - tokens)
        if before != (share.allowance > 0):
            self._offer(tenant, share)

    def pause(self, tenant: str) -> None:
        """None of a tenant's works is popped any more, until `resume`."""
        self._paused.add(tenant)

    def resume(self) -> None:
        """Nobody is paused any more."""
        paused, self._paused = self._paused, set()
        for tenant in paused & self._shares.keys():
            self._offer(tenant, self._shares[tenant])

    def dropped(self) -> None:
        """One of the works in here is gone."""
        self.live -= 1

    def sweep(self) -> None:
        """Free the memory of works that are gone."""
        for tenant, share in list(self._shares.items()):
            share.heap = [entry for entry in share.heap if not entry[2].gone]
            heapq.heapify(share.heap)
            if not share.heap:
                self._away[tenant] = share.allowance
                del self._shares[tenant]
        self._offer_all()

    def _offer(self, tenant: str, share: _Share[W]) -> None:
        deadline, serial, _ = share.heap[0]
        heapq.heappush(self._within if share.allowance > 0 else self._beyond, (deadline, serial, tenant))

    def _offer_all(self) -> None:
        self._within.clear()
        self._beyond.clear()
        for tenant, share in self._shares.items():
            self._offer(tenant, share)

    def _first(self, *, within: bool) -> str | None:
        heap = self._within if within else self._beyond
        while heap:
            deadline, serial, tenant = heapq.heappop(heap)
            share = None if tenant in self._paused else self._shares.get(tenant)
            if share is not None and share.heap[0][:2] == (deadline, serial) and (share.allowance > 0) == within:
                return tenant
        return None

    def _next_round(self) -> bool:
        """Enough quanta for one tenant to have something left; False when nobody waits."""
        if not self._shares:
            self._away.clear()  # nobody was kept waiting, so nobody owes anybody anything
            return False
        rounds = min(-share.allowance for share in self._shares.values()) // self._quantum + 1
        for share in self._shares.values():
            share.allowance = min(share.allowance + rounds * self._quantum, self._quantum)
        owing = {tenant: allowance + rounds * self._quantum for tenant, allowance in self._away.items()}
        self._away = {tenant: allowance for tenant, allowance in owing.items() if allowance <= 0}
        self._offer_all()
        return True
