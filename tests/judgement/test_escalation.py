"""Escalation: what is doubtful is asked again, nothing else is, and the second answer counts."""

from hypothesis import given
from hypothesis import strategies as st

from guardrail.errors import ClassifierError
from guardrail.escalation import Answer, flow
from guardrail.testing import policy
from guardrail.types import ClassifyRequest, Escalation, Score

BAND = Escalation("judge", 0.3, 0.7)
SCORES = st.floats(0, 1).map(lambda value: Score(value, "first")) | st.just(ClassifierError("timeout", "late"))


def _requests(count: int) -> list[ClassifyRequest]:
    return [ClassifyRequest(policy(), f"text {number}") for number in range(count)]


def _drive(first: list[Answer], second: Answer, escalation: Escalation | None) -> tuple[list[Answer], list[tuple[str, int]]]:
    steps, asked = flow(_requests(len(first)), classifier="first", escalation=escalation), []
    try:
        ask = next(steps)
        while True:
            asked.append((ask.classifier, len(ask.requests)))
            ask = steps.send(first if ask.classifier == "first" else [second] * len(ask.requests))
    except StopIteration as stop:
        return stop.value, asked


@given(st.lists(SCORES, min_size=1, max_size=8), SCORES)
def test_exactly_the_doubtful_scores_are_replaced(first: list[Answer], second: Answer) -> None:
    answers, asked = _drive(first, second, BAND)
    doubtful = [isinstance(answer, Score) and 0.3 <= answer.value <= 0.7 for answer in first]
    assert answers == [second if again else answer for answer, again in zip(first, doubtful, strict=True)]
    assert asked == [("first", len(first))] + ([("judge", sum(doubtful))] if any(doubtful) else [])


def test_without_a_band_nobody_is_asked_again() -> None:
    answers, asked = _drive([Score(0.5, "first")], Score(0.9, "judge"), None)
    assert (answers, asked) == ([Score(0.5, "first")], [("first", 1)])


def test_nothing_to_ask_asks_nobody() -> None:
    assert list(flow([], classifier="first", escalation=BAND)) == []
