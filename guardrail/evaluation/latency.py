"""How long a classifier takes, by the length and number of texts and the number of policies, beside another way to run the same model."""

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from guardrail.errors import GuardrailError
from guardrail.evaluation.overhead import quantile
from guardrail.interfaces import Classifier
from guardrail.types import ClassifyRequest, Policy, Score

FRAME = 2  # tokens a model puts around each text
WARM_UP = 3
LEAST_CALLS = 5
LEAST_TOKENS = 8  # of the shortest text where lengths are mixed
PATIENCE_S = 60.0

# Each is one token to models with a WordPiece vocabulary of English.
WORDS = tuple(
    """
    the city river house garden window morning music paper water train station market bread doctor school teacher letter summer winter
    kitchen table small green quiet early never often walk write carry open bring watch build learn follow remember between under before
    """.split()  # noqa: SIM905  (forty quoted words read worse)
)


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked at once: `texts` texts of `tokens` tokens each (`mixed`: of lengths spread evenly up to that) under the policies."""

    policies: Sequence[Policy]
    tokens: int
    texts: int = 1
    mixed: bool = False

    def asked(self, number: int) -> list[ClassifyRequest]:
        """The requests of the call of that number; no two calls share a text."""
        lengths = [LEAST_TOKENS + (self.tokens - LEAST_TOKENS) * place // max(1, self.texts - 1) for place in range(self.texts)]
        texts = [text_of(length if self.mixed else self.tokens, number * self.texts + place) for place, length in enumerate(lengths)]
        return [ClassifyRequest(policy, text) for text in texts for policy in self.policies]


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from asking to having all scores, over `calls` calls, one at a time, each for `at_once` texts.

    `reference_p50_ms`: of the other way to run the same model, asked the same in turn; `times_as_fast`: the middle one of the ratios of
    neighbouring calls, which noise moves less than it moves the times. Both are NaN where there is no other way.
    """

    tokens: int
    mixed: bool
    policies: int
    at_once: int
    threads: int
    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    texts_per_s: float
    reference_p50_ms: float
    times_as_fast: float


def text_of(tokens: int, number: int) -> str:
    """Everyday words that make `tokens` tokens (frame included), different ones for each number."""
    chosen = random.Random(f"{tokens}:{number}")  # noqa: S311  (text to measure with, not a secret)
    return " ".join(chosen.choices(WORDS, k=tokens - FRAME))


async def measure(classifier: Classifier, case: Case, *, seconds: float, threads: int = 1, reference: Classifier | None = None) -> Latency:
    """Ask one call after the other for `seconds`, and about five at least; `reference` is asked the same, in turn.

    The policies must be prepared. `threads` is only written down. Raises GuardrailError when a text is not scored.
    """
    took: list[float] = []
    other: list[float] = []
    number, until = 0, time.perf_counter() + seconds
    while len(took) < LEAST_CALLS or time.perf_counter() < until:
        requests = case.asked(number)
        ours = partial(_timed, classifier, requests)
        theirs = partial(_timed, reference, requests) if reference is not None else _nothing
        # Now one goes first, now the other.
        pair = (await ours(), await theirs()) if number % 2 else (await theirs(), await ours())[::-1]
        if number >= WARM_UP:
            took.append(pair[0])
            other.append(pair[1])
        number += 1
    return Latency(
        tokens=case.tokens,
        mixed=case.mixed,
        policies=len(case.policies),
        at_once=case.texts,
        threads=threads,
        calls=len(took),
        p50_ms=quantile(took, 0.5),
        p95_ms=quantile(took, 0.95),
        p99_ms=quantile(took, 0.99),
        texts_per_s=1000 * case.texts * len(took) / sum(took),
        reference_p50_ms=quantile(other, 0.5),
        times_as_fast=quantile([theirs / ours for ours, theirs in zip(took, other, strict=True)], 0.5),
    )


async def _nothing() -> float:
    return math.nan


async def _timed(classifier: Classifier, requests: Sequence[ClassifyRequest]) -> float:
    began = time.perf_counter()
    answers = await classifier.classify(requests, deadline=time.monotonic() + PATIENCE_S)
    took = (time.perf_counter() - began) * 1000
    for answer in answers:
        if not isinstance(answer, Score):
            raise GuardrailError(f"classifier {classifier.id} did not score a text: {answer}")
    return took
