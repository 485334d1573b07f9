"""How long a classifier takes for one text, by the length of the text and the number of policies."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from guardrail.errors import GuardrailError
from guardrail.evaluation.overhead import quantile
from guardrail.interfaces import Classifier
from guardrail.types import ClassifyRequest, Policy, Score

FRAME = 2  # tokens a model puts around each text
WARM_UP = 3
LEAST_TEXTS = 5
PATIENCE_S = 60.0

# Each is one token to models with a WordPiece vocabulary of English.
WORDS = tuple(
    """
    the city river house garden window morning music paper water train station market bread doctor school teacher letter summer winter
    kitchen table small green quiet early never often walk write carry open bring watch build learn follow remember between under before
    """.split()  # noqa: SIM905  (forty quoted words read worse)
)


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from asking about one text to having all scores, over `texts` texts, one at a time."""

    tokens: int
    policies: int
    texts: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


def text_of(tokens: int, number: int) -> str:
    """Everyday words that make `tokens` tokens (frame included), different ones for each number."""
    chosen = random.Random(f"{tokens}:{number}")  # noqa: S311  (text to measure with, not a secret)
    return " ".join(chosen.choices(WORDS, k=tokens - FRAME))


async def measure(classifier: Classifier, policies: Sequence[Policy], *, tokens: int, seconds: float) -> Latency:
    """Ask about one text after the other for `seconds`, and about five at least. Raises GuardrailError when one is not scored.

    The policies must be prepared.
    """
    took: list[float] = []
    number, until = 0, time.perf_counter() + seconds
    while len(took) < LEAST_TEXTS or time.perf_counter() < until:
        text = text_of(tokens, number)
        began = time.perf_counter()
        answers = await classifier.classify([ClassifyRequest(policy, text) for policy in policies], deadline=time.monotonic() + PATIENCE_S)
        if number >= WARM_UP:
            took.append((time.perf_counter() - began) * 1000)
        number += 1
        for answer in answers:
            if not isinstance(answer, Score):
                raise GuardrailError(f"classifier {classifier.id} did not score a text of {tokens} tokens: {answer}")
    return Latency(tokens, len(policies), len(took), quantile(took, 0.5), quantile(took, 0.95), quantile(took, 0.99))
