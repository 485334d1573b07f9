"""Which classifier is asked what, and what is asked again: a generator, so that the flow reads as a story and needs no clock.

The shape is that of httpx's auth flows: the generator yields questions and receives answers; whoever drives it does the waiting.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from guardrail.errors import ClassifierError
from guardrail.types import ClassifyRequest, Escalation, Score

Answer = Score | ClassifierError
Flow = Generator["Ask", Sequence[Answer], list[Answer]]


@dataclass(frozen=True, slots=True)
class Ask:
    """Questions for one classifier; the driver must send back one answer for each, in order."""

    classifier: str
    requests: tuple[ClassifyRequest, ...]


def flow(requests: Sequence[ClassifyRequest], *, classifier: str, escalation: Escalation | None) -> Flow:
    """Ask `classifier` everything, then the escalation's classifier whatever scored inside its band.

    The second answer replaces the first, also when it is an error: a doubtful score whose judge failed is unjudged, not settled.
    """
    if not requests:
        return []
    answers = list((yield Ask(classifier, tuple(requests))))
    if escalation is None:
        return answers
    doubtful = [
        place for place, answer in enumerate(answers) if isinstance(answer, Score) and escalation.low <= answer.value <= escalation.high
    ]
    if doubtful:
        again = yield Ask(escalation.classifier, tuple(requests[place] for place in doubtful))
        for place, answer in zip(doubtful, again, strict=True):
            answers[place] = answer
    return answers
