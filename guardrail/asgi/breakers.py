"""The circuit breakers of a running guard: one for each classifier, one for each upstream."""

import time
from collections.abc import Callable, Iterable, Mapping

from guardrail.breaker import Breaker, BreakerSettings, State
from guardrail.config.breakers import BreakerConfig
from guardrail.config.models import Config
from guardrail.events import BreakerChanged, EventFanout, Guarded


class Breakers:
    """By name; empty where the configuration turns them off. `clock` is in seconds."""

    def __init__(self, config: Config, events: EventFanout, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._events = events
        self._clock = clock
        self.classifiers = self._made("classifier", config.breakers.classifiers, config.classifiers)
        self.upstreams = self._made("upstream", config.breakers.upstreams, config.upstreams)

    def states(self) -> dict[str, dict[str, str]]:
        """The state of each."""
        both = (("classifiers", self.classifiers), ("upstreams", self.upstreams))
        return {kind: {name: breaker.state for name, breaker in breakers.items()} for kind, breakers in both}

    def _made(self, kind: Guarded, config: BreakerConfig | None, names: Iterable[str]) -> Mapping[str, Breaker]:
        if config is None:
            return {}
        settings = BreakerSettings(config.failures, config.window_s, config.open_s)
        return {name: Breaker(settings, clock=self._clock, changed=self._teller(kind, name)) for name in names}

    def _teller(self, kind: Guarded, name: str) -> Callable[[State], None]:
        return lambda state: self._events.emit(BreakerChanged(kind, name, state))
