"""Texts too long for a classifier are judged in windows: all of them, overlapping, and no error among them is lost."""

import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.errors import ClassifierError
from guardrail.guard import Guard
from guardrail.testing import ScriptedClassifier, policy, route
from guardrail.types import Action, ClassifyRequest, Fallback, Score, Span
from guardrail.windows import OVERLAP, SMALLEST, Partial, merged, windowed

VIOLENCE = policy("violence")


def reading(limit: int, rule=lambda text: 0.02):
    """A classifier's rule that refuses what is longer than `limit` characters, as one with a context length does."""

    def answer(text: str) -> object:
        return ClassifierError("too_long", f"{len(text)} characters, {limit} fit") if len(text) > limit else rule(text)

    return answer


def drive(text: str, limit: int) -> tuple[list[str], object]:
    """The windows that were asked and answered, and the answer."""
    request, read, rule = ClassifyRequest(VIOLENCE, text), [], reading(limit)
    steps = windowed([request], [ClassifierError("too_long", "all of it")])
    try:
        asked = next(steps)
        while True:
            read += [window.text for window in asked if len(window.text) <= limit]
            told = [rule(window.text) for window in asked]
            asked = steps.send([answer if isinstance(answer, ClassifierError) else Score(answer, "scripted") for answer in told])
    except StopIteration as stop:
        return read, stop.value[0]


@given(st.lists(st.sampled_from(["word ", "longerword", "\n", "é", "日本語 "]), min_size=400, max_size=4_000), st.integers(SMALLEST, 5_000))
def test_every_character_is_in_a_window_and_neighbours_overlap(pieces: list[str], limit: int) -> None:
    text = "".join(f"{number}:{piece}" for number, piece in enumerate(pieces))
    read, answer = drive(text, limit)
    if len(text) <= SMALLEST:
        assert isinstance(answer, Partial)
        return
    assert isinstance(answer, Score)
    spans = sorted((text.index(window), text.index(window) + len(window)) for window in read)
    assert (spans[0][0], spans[-1][1]) == (0, len(text))
    assert all(before[1] - after[0] >= min(OVERLAP // 2, 100) for before, after in pairwise(spans))


async def test_a_violation_anywhere_in_a_long_text_is_found_and_placed() -> None:
    text = "all is calm. " * 2_000 + "now the attack begins" + " all is calm." * 3_000
    guard = Guard({"scripted": ScriptedClassifier({"violence": reading(8_000, lambda window: 0.97 if "attack" in window else 0.02)})})
    decision = await guard.check(text, route=route(VIOLENCE))
    assert decision.action is Action.BLOCK
    (verdict,) = decision.verdicts
    assert "attack" in text[verdict.span.start : verdict.span.end]
    assert verdict.span.end - verdict.span.start <= 8_000


async def test_several_long_texts_are_asked_together() -> None:
    classifier = ScriptedClassifier({"*": reading(8_000)})
    decision = await Guard({"scripted": classifier}).check("calm " * 2_000, route=route(VIOLENCE, policy("insults")))
    assert decision.action is Action.PASS
    assert classifier.batches == 2


@pytest.mark.parametrize("fallback", [Fallback.BLOCK, Fallback.PASS])
async def test_a_window_that_was_not_judged_leaves_the_text_unjudged_unless_another_violates(fallback: Fallback) -> None:
    def rule(window: str) -> object:
        return ClassifierError("crash", "lost") if "lost" in window else 0.97 if "attack" in window else 0.02

    guard = Guard({"scripted": ScriptedClassifier({"violence": reading(8_000, rule)})})
    unsettled = await guard.check("calm " * 2_500 + "lost" + " calm" * 2_500, route=route(VIOLENCE, on_error=fallback))
    assert unsettled.outcome.unjudged
    assert unsettled.action is (Action.BLOCK if fallback is Fallback.BLOCK else Action.PASS)
    settled = await guard.check("attack " + "calm " * 2_500 + "lost" + " calm" * 2_500, route=route(VIOLENCE, on_error=fallback))
    assert settled.action is Action.BLOCK
    assert settled.verdicts[0].score == 0.97


async def test_a_policy_that_leaves_no_room_stays_an_error() -> None:
    classifier = ScriptedClassifier({"violence": reading(0)})
    decision = await Guard({"scripted": classifier}).check("calm " * 400, route=route(VIOLENCE))
    assert decision.verdicts[0].error == "too_long"
    assert classifier.batches < 10


def test_letters_of_four_tokens_each_are_judged_beside_a_policy_that_takes_half_of_the_room() -> None:
    read, answer = drive("\U0001033c" * 3_000, limit=4_096 // 4)
    assert isinstance(answer, Score)
    assert all(read)


def test_a_thousand_long_texts_cost_a_thousand_times_one() -> None:
    def steps(texts: int) -> int:
        """Calls, of generators' turns too: what it costs, whatever the machine."""
        counted = [0]

        def count(frame: object, event: str, argument: object) -> None:
            counted[0] += event == "call"

        requests = [ClassifyRequest(VIOLENCE, f"{number} " + "calm " * 400) for number in range(texts)]
        cutting = windowed(requests, [ClassifierError("too_long", "all of it")] * texts)
        sys.setprofile(count)
        try:
            assert len(next(cutting)) == 2 * texts
        finally:
            sys.setprofile(None)
        return counted[0]

    assert steps(400) < 5 * steps(100)


def test_the_highest_window_answers_and_flags_are_united() -> None:
    low, high = Score(0.2, "c", flags=("header_lookalike",)), Score(0.9, "c", span=Span(3, 5))
    answer = merged([(Span(0, 50), low), (Span(40, 90), high)])
    assert answer == Score(0.9, "c", span=Span(43, 45), flags=("header_lookalike",))
