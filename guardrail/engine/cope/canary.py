"""A fixed row under a fixed prefix, judged again and again: a score that has moved says that an engine is broken though it answers."""

import logging
import math

import numpy as np
from numpy.typing import NDArray

from guardrail.engine.cope.answer import probability
from guardrail.engine.cope.faults import EngineFault
from guardrail.engine.cope.messages import Ask, Prefix, Priority, Told
from guardrail.errors import ClassifierError

TENANT = "canary"
_PREFIX_TOKENS, _ROW_TOKENS = 70, 24  # two pages, the second not full

logger = logging.getLogger("guardrail.engine")


class Canary:
    """Due every `every_s` seconds, and whenever the engine has reason to doubt itself. Scores may differ by `tolerance`."""

    def __init__(self, vocabulary: int, *, every_s: float, tolerance: float) -> None:
        ids = np.random.default_rng(7).integers(0, vocabulary, _PREFIX_TOKENS + _ROW_TOKENS, dtype=np.int32)
        self.prefix = Prefix("canary", ids[:_PREFIX_TOKENS], tenant=TENANT)
        self._row: NDArray[np.int32] = ids[_PREFIX_TOKENS:]
        self._every_s = every_s
        self._tolerance = tolerance
        self._out = self._missed = False
        self.next = -math.inf
        """When it is due again."""
        self.expected: float | None = None
        """Its score at the start; None until it was judged once."""

    def due(self, now: float) -> Ask | None:
        """The question, when it is time for it and it is not out yet. The first one, and one that a doubt calls for, go first."""
        if self._out or now < self.next:
            return None
        doubted = self.next == -math.inf
        self._out, self.next = True, now + self._every_s
        if doubted:
            return self.ask(math.inf)
        return self.ask(now + max(10.0, self._every_s), Priority.BACKGROUND)

    def ask(self, deadline: float, priority: Priority = Priority.INPUT) -> Ask:
        """The question itself."""
        return Ask(self.prefix.key, self._row, deadline, priority, TENANT)

    def doubt(self) -> None:
        """Judge it before anything else."""
        self.next = -math.inf

    def judge(self, outcome: Told | ClassifierError | None) -> None:
        """What became of it. Raises EngineFault when twice in succession it had no score, or another one than at the start.

        Being late says nothing about the engine but that others went first.
        """
        self._out = False
        if isinstance(outcome, ClassifierError) and outcome.code in ("timeout", "overloaded"):
            return
        complaint = self._complaint(outcome)
        if complaint and self._missed:
            raise EngineFault(complaint)
        self._missed = bool(complaint)
        if complaint:
            logger.warning("%s; it is asked again", complaint)
            self.doubt()

    def _complaint(self, outcome: Told | ClassifierError | None) -> str:
        if not isinstance(outcome, Told):
            return f"the canary could not be scored: {outcome}"
        try:
            score = probability(outcome.read, most_outside=1.0)
        except ClassifierError as error:
            return f"the canary could not be scored: {error}"
        if self.expected is None:
            self.expected = score
        if abs(score - self.expected) <= self._tolerance:
            return ""
        return f"the canary's score is {score:.4f} and was {self.expected:.4f} at the start; the engine is not to be trusted"
