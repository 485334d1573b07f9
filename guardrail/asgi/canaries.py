"""Asks each classifier its known pair at start and then on a schedule, and remembers what it said."""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType

from guardrail.canary import Canary, check_canary
from guardrail.events import CanaryChecked, EventFanout
from guardrail.interfaces import Classifier, SupportsHealth

INTERVAL_S = 30.0
RETRY_S = 5.0  # while a pair is not told apart: a classifier that is well again must not wait long until it counts as that


class Canaries:
    """The last answers by classifier name. A classifier whose canary is None is not asked, and counts as well."""

    def __init__(
        self,
        classifiers: Mapping[str, Classifier],
        canaries: Mapping[str, Canary | None],
        events: EventFanout,
        *,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._classifiers = classifiers
        self._canaries = {name: canary for name, canary in canaries.items() if canary is not None}
        self._events = events
        self._interval_s = interval_s
        first = {name: CanaryChecked(name, name not in self._canaries, "not asked") for name in classifiers}
        self._last: Mapping[str, CanaryChecked] = MappingProxyType(first)

    @property
    def last(self) -> Mapping[str, CanaryChecked]:
        """What each classifier answered last; what it says of itself comes first, where it says that it cannot serve."""
        return MappingProxyType({name: self._now(name, answer) for name, answer in self._last.items()})

    @property
    def ok(self) -> bool:
        """Whether every classifier told its pair apart and can serve now."""
        return all(answer.ok for answer in self.last.values())

    def _now(self, name: str, answer: CanaryChecked) -> CanaryChecked:
        classifier = self._classifiers.get(name)
        outage = classifier.outage() if isinstance(classifier, SupportsHealth) else None
        return answer if outage is None else CanaryChecked(name, ok=False, detail=outage)

    async def ask(self) -> None:
        """Ask each classifier once."""
        asked = [check_canary(self._classifiers[name], canary, name=name) for name, canary in self._canaries.items()]
        answers = await asyncio.gather(*asked)
        self._last = MappingProxyType({**self._last, **{answer.classifier: answer for answer in answers}})
        for answer in answers:
            self._events.emit(answer)

    async def keep_asking(self) -> None:
        """Ask again after each interval, sooner while a classifier fails, until cancelled."""
        while True:
            failing = not all(answer.ok for answer in self._last.values())
            await asyncio.sleep(min(self._interval_s, RETRY_S) if failing else self._interval_s)
            await self.ask()


def canary_of(classifier: Classifier, default: Canary | None) -> Canary | None:
    """The pair a classifier must tell apart: its own (an attribute `canary`, None for a classifier that has none), or the default."""
    found: Canary | None = getattr(classifier, "canary", default)
    return found
