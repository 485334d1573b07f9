"""Policies that a caller brings along, made ready one at a time: never many beside the traffic that the published ones guard."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from guardrail.errors import ClassifierError
from guardrail.interfaces import Classifier
from guardrail.types import Policy

_MOST_REMEMBERED = 64  # taken to be ready still; classifiers may forget what was prepared before that many others

_Key = tuple[str, str, int]


class AdHocPolicies:
    """Prepares policies beside the published ones. `published(classifier)` are those and the number of their generation.

    One preparation runs at a time, each policy's once for all who wait for it; it goes on where nobody waits any more, so that what it
    costs is never paid twice. Those remembered go in the order they came, and all of them with a generation.
    """

    def __init__(self, classifiers: Mapping[str, Classifier], published: Callable[[str], tuple[Sequence[Policy], int]]) -> None:
        self._classifiers = classifiers
        self._published = published
        self._ready: dict[_Key, None] = {}  # earliest first
        self._one = asyncio.Semaphore(1)
        self._running: tuple[_Key, asyncio.Task[None]] | None = None

    async def prepare(self, classifier: str, policy: Policy, *, within_s: float) -> None:
        """Return once the policy is ready. Raises ClassifierError (`timeout` after `within_s` seconds, or as the classifier does)."""
        key = (classifier, policy.digest, self._published(classifier)[1])
        if key in self._ready:
            return
        try:
            async with asyncio.timeout(within_s):
                if self._running is None or self._running[0] != key:
                    await self._one.acquire()
                    if key in self._ready:
                        self._one.release()
                        return
                    task = asyncio.create_task(self._prepare(key, policy))
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

    async def _prepare(self, key: _Key, policy: Policy) -> None:
        """Those in force are named with it, so that it is never they that make room for it: the new ones too, published meanwhile."""
        classifier, digest, _ = key
        while True:
            policies, current = self._published(classifier)
            await self._classifiers[classifier].prepare((*policies, policy))
            generation = self._published(classifier)[1]
            if generation == current:
                break
        while len(self._ready) >= _MOST_REMEMBERED:
            del self._ready[next(iter(self._ready))]
        self._ready[classifier, digest, generation] = None

    def _over(self, task: asyncio.Task[None]) -> None:
        self._running = None
        self._one.release()
        if not task.cancelled():
            task.exception()  # those who wait are told; where nobody does, the next one asks anew
