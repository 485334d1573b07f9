"""Policies that callers bring along, made ready one at a time: never many beside the traffic that the published ones guard.

No caller starves another: the tenants' policies are made ready in turns, and where room is needed it is of who takes the most of it.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from guardrail.errors import ClassifierError, WireError
from guardrail.interfaces import Classifier
from guardrail.types import Policy

MOST_REMEMBERED = 64
"""Policies taken to be ready still, of all tenants together; they are named with each that is prepared, so that it forgets none of them."""
MOST_WAITING = 32
"""Questions of one tenant that may wait for a policy of theirs to be made ready."""

_Key = tuple[str, tuple[str, str], int]
"""A classifier, a policy's key, a generation."""


@dataclass(frozen=True, slots=True)
class _Ready:
    policy: Policy
    tenant: str


class AdHocPolicies:
    """Prepares policies beside the published ones. `published(classifier)` are those and the number of their generation.

    One preparation runs at a time, each policy's once for all who wait for it; it goes on where nobody waits any more, so that what it
    costs is never paid twice. Those remembered go with a generation, or when there are too many: then the one that was used the longest
    time ago of the tenant who has the most.
    """

    def __init__(self, classifiers: Mapping[str, Classifier], published: Callable[[str], tuple[Sequence[Policy], int]]) -> None:
        self._classifiers = classifiers
        self._published = published
        self._ready: dict[_Key, _Ready] = {}  # used the longest time ago first
        self._turns = _Turns()
        self._running: tuple[_Key, asyncio.Task[None]] | None = None

    def is_ready(self, classifier: str, policy: Policy) -> bool:
        """Whether a policy was made ready and is remembered."""
        return (classifier, policy.key, self._published(classifier)[1]) in self._ready

    async def prepare(self, classifier: str, policy: Policy, *, tenant: str, within_s: float) -> None:
        """Return once the policy is ready.

        Raises ClassifierError (`timeout` after `within_s` seconds, or as the classifier does), WireError (429) where too many questions of
        the tenant wait already.
        """
        key = (classifier, policy.key, self._published(classifier)[1])
        if self._remembered(key):
            return
        try:
            async with asyncio.timeout(within_s):
                if self._running is None or self._running[0] != key:
                    await self._turns.take(tenant)
                    if self._remembered(key):
                        self._turns.give()
                        return
                    task = asyncio.create_task(self._prepare(key, _Ready(policy, tenant)))
                    task.add_done_callback(self._over)
                    self._running = key, task
                await asyncio.shield(self._running[1])
        except TimeoutError:
            raise ClassifierError("timeout", f"policy {policy.id} was not ready within {within_s:g} s") from None

    async def aclose(self) -> None:
        """Stop preparing and forget what was prepared."""
        if self._running is not None:
            self._running[1].cancel()
            await asyncio.wait((self._running[1],))
        self._ready.clear()

    def _remembered(self, key: _Key) -> bool:
        if key not in self._ready:
            return False
        self._ready[key] = self._ready.pop(key)
        return True

    async def _prepare(self, key: _Key, wanted: _Ready) -> None:
        """Those in force are named with it, so that it is never they that make room for it: the new ones too, published meanwhile."""
        classifier, asked, _ = key
        while True:
            policies, current = self._published(classifier)
            self._make_room(classifier, current)
            kept = (ready.policy for (name, _, _), ready in self._ready.items() if name == classifier)
            await self._classifiers[classifier].prepare((*policies, *kept, wanted.policy))
            generation = self._published(classifier)[1]
            if generation == current:
                break
        self._ready[classifier, asked, generation] = wanted

    def _make_room(self, classifier: str, generation: int) -> None:
        """Room for one more: what belongs to an earlier generation goes, and then what the tenant with the most used the longest ago."""
        for key in [key for key in self._ready if key[0] == classifier and key[2] != generation]:
            del self._ready[key]
        while len(self._ready) >= MOST_REMEMBERED:
            held = Counter(ready.tenant for ready in self._ready.values())
            most = max(held.values())
            del self._ready[next(key for key, ready in self._ready.items() if held[ready.tenant] == most)]

    def _over(self, task: asyncio.Task[None]) -> None:
        self._running = None
        self._turns.give()
        if not task.cancelled():
            task.exception()  # those who wait are told; where nobody does, the next one asks anew


class _Turns:
    """Lets one go at a time. Those who wait go tenant by tenant, each tenant's in the order they came."""

    def __init__(self) -> None:
        self._busy = False
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the tenant whose turn it is first

    async def take(self, tenant: str) -> None:
        """Wait for the turn. Raises WireError (429) where too many of the tenant wait already."""
        if not self._busy:
            self._busy = True
            return
        queue = self._waiting.setdefault(tenant, deque())
        if len(queue) >= MOST_WAITING:
            raise WireError(429, "too_many_policies", "Too many policies of this caller are being made ready; try again shortly.")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()  # it came while its owner left
            else:
                with contextlib.suppress(ValueError):
                    queue.remove(turn)
            raise

    def give(self) -> None:
        """Let the next one go."""
        while self._waiting:
            tenant = next(iter(self._waiting))
            queue = self._waiting.pop(tenant)
            while queue and queue[0].done():  # its owner has left
                queue.popleft()
            turn = queue.popleft() if queue else None
            if queue:
                self._waiting[tenant] = queue
            if turn is not None:
                turn.set_result(None)
                return
        self._busy = False
