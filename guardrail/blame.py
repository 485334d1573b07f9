"""Whose fault a classifier's errors are: its own, or that of the texts and callers it was asked by, which nobody else should suffer for."""

import logging
import math
import time
from collections.abc import Callable, Sequence

from guardrail.errors import ClassifierError
from guardrail.escalation import Answer, Ask
from guardrail.interfaces import Classifier, SupportsProgress
from guardrail.types import Score

logger = logging.getLogger(__name__)

_OF_THE_TEXT = frozenset({"too_long", "not_prepared"})
_LONG = 20_000  # characters from which a call that is not answered in time says nothing of its classifier
_LATELY_S = 1.0


class Effort:
    """What one classifier gets done, as it is seen whenever it is asked something: calls answered, and passes where it counts them."""

    def __init__(self, classifier: Classifier | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress: SupportsProgress | None = classifier if isinstance(classifier, SupportsProgress) else None
        self._clock = clock
        self._answered = self._passes = 0
        self._done = self._count()
        self._moved = -math.inf

    def begin(self) -> float:
        """When a call begins, for `worked`."""
        self._look()
        return self._clock()

    def worked(self, ask: Ask, answers: Sequence[Answer], *, began: float, deadline: float) -> bool | None:
        """Whether the classifier works, by what it answered to a call. None: nothing can be said of it.

        A time that is up counts only where the classifier had any, and got nothing done in it, nor just before: one that works on what
        others asked has too much to do, one that hangs gets nothing done whoever asks. Where it counts its passes, a full queue says
        nothing either: what waits in it does.
        """
        if any(isinstance(answer, Score) for answer in answers):
            self._answered += 1
            self._look()
            return True
        self._look()
        excused = set(_OF_THE_TEXT)
        busy = self._moved >= min(began, self._clock() - _LATELY_S)
        if busy or began >= deadline or sum(map(len, {request.text for request in ask.requests})) > _LONG:
            excused.add("timeout")
        if self._progress is not None:
            excused.add("overloaded")
        return None if {answer.code for answer in answers if isinstance(answer, ClassifierError)} <= excused else False

    def _look(self) -> None:
        done = self._count()
        if done > self._done:
            self._moved = self._clock()
        self._done = done  # less than before where an engine was started again

    def _count(self) -> int:
        if self._progress is not None:
            try:
                self._passes = self._progress.passes()
            except Exception:  # border: a classifier is foreign code; one that cannot say what it got done has done no more than before
                logger.exception("a classifier could not say what it got done")
        return self._answered + self._passes
