"""Asks each classifier its known pair at start and then on a schedule, and remembers what it said."""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType

from guardrail.canary import Canary, check_canary
from guardrail.events import CanaryChecked, EventFanout
from guardrail.interfaces import Classifier

INTERVAL_S = 30.0


class Canaries:
    """The last answers by classifier name. Without a canary every classifier counts as well."""

    def __init__(
        self, classifiers: Mapping[str, Classifier], canary: Canary | None, events: EventFanout, *, interval_s: float = INTERVAL_S
    ) -> None:
        self._classifiers = classifiers
        self._canary = canary
        self._events = events
        self._interval_s = interval_s
        self._last: Mapping[str, CanaryChecked] = MappingProxyType(
            {name: CanaryChecked(name, canary is None, "not asked yet") for name in classifiers}
        )

    @property
    def last(self) -> Mapping[str, CanaryChecked]:
        """What each classifier answered last."""
        return self._last

    @property
    def ok(self) -> bool:
        """Whether every classifier told its pair apart."""
        return all(answer.ok for answer in self._last.values())

    async def ask(self) -> None:
        """Ask each classifier once."""
        if self._canary is None:
            return
        asked = [check_canary(classifier, self._canary, name=name) for name, classifier in self._classifiers.items()]
        answers = await asyncio.gather(*asked)
        self._last = MappingProxyType({answer.classifier: answer for answer in answers})
        for answer in answers:
            self._events.emit(answer)

    async def keep_asking(self) -> None:
        """Ask again after each interval, until cancelled."""
        while self._canary is not None:
            await asyncio.sleep(self._interval_s)
            await self.ask()
