"""A bound on how many values one metric attribute takes: each new value is a new time series somewhere."""

from typing import Final

from guardrail.telemetry import names
from guardrail.telemetry.summary import short

IDS: Final = 1000  # configured names: routes, tenants, policies, classifiers, upstreams
CLIENT_WORDS: Final = 64  # words that come from outside: models, codes


class Distinct:
    """Passes the first `limit` distinct values and answers `other` for the rest."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def __call__(self, value: str, *, admit: bool = True) -> str:
        """The value, or `other`. `admit` False never takes a place: for values that nothing has confirmed yet."""
        word = short(value)
        if word in self._known:
            return word
        if not admit or len(self._known) >= self._limit:
            return names.OTHER
        self._known.add(word)
        return word
