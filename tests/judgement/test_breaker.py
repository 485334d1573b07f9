"""The circuit breaker: opens after failures in a row, tries with one call at a time, and listens to no call of an earlier time."""

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.breaker import Breaker, BreakerSettings
from guardrail.errors import ClassifierError
from guardrail.guard import Guard
from guardrail.testing import ScriptedClassifier, contains, policy, route
from guardrail.types import Action, Fallback

SETTINGS = BreakerSettings(failures=3, window_s=10, open_s=5)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def call(breaker: Breaker, ok: bool | None) -> bool:
    ticket = breaker.begin()
    if ticket is None:
        return False
    breaker.end(ticket, ok)
    return True


def test_it_opens_after_failures_in_a_row_and_one_trial_closes_it(clock: Clock) -> None:
    told: list[str] = []
    breaker = Breaker(SETTINGS, clock=clock, changed=told.append)
    assert [call(breaker, ok) for ok in (False, False, True, False, None, False)] == [True] * 6
    assert breaker.state == "closed"
    assert call(breaker, False)
    assert (breaker.state, breaker.retry_after_s) == ("open", 5.0)
    clock.now = 4.9
    assert breaker.begin() is None
    clock.now = 5.0
    trial = breaker.begin()
    assert trial is not None
    assert breaker.begin() is None
    breaker.end(trial, True)
    assert call(breaker, True)
    assert told == ["open", "half_open", "closed"]


def test_a_trial_that_fails_opens_it_again_and_one_without_a_result_makes_room_for_another(clock: Clock) -> None:
    breaker = Breaker(SETTINGS, clock=clock)
    for _ in range(3):
        call(breaker, False)
    clock.now = 5.0
    assert call(breaker, None)
    assert call(breaker, False)
    assert (breaker.state, breaker.begin()) == ("open", None)
    clock.now = 10.0
    assert breaker.begin() is not None  # never ended
    assert breaker.begin() is None
    clock.now = 15.0
    assert call(breaker, True)
    assert breaker.state == "closed"


@pytest.mark.parametrize(("ok", "state"), [(True, "closed"), (False, "open"), (None, "half_open")])
def test_a_trial_that_takes_longer_than_the_pause_still_counts(clock: Clock, ok: bool | None, state: str) -> None:
    breaker = Breaker(SETTINGS, clock=clock)
    for _ in range(3):
        call(breaker, False)
    clock.now = 5.0
    slow = breaker.begin()
    clock.now = 10.0
    assert slow is not None
    assert breaker.begin() is not None
    breaker.end(slow, ok)
    assert breaker.state == state
    assert (breaker.begin() is None) == (state != "closed")  # the second trial has the place


def test_what_works_again_but_slowly_is_not_shut_out_for_ever(clock: Clock) -> None:
    breaker = Breaker(SETTINGS, clock=clock)
    for _ in range(3):
        call(breaker, False)
    waiting: list[tuple[float, int]] = []
    for clock.now in range(1, 60):
        while waiting and waiting[0][0] <= clock.now:
            breaker.end(waiting.pop(0)[1], True)
        ticket = breaker.begin()
        if ticket is not None:
            waiting.append((clock.now + 8, ticket))
    assert breaker.state == "closed"


def test_failures_spread_over_more_than_the_window_do_not_open_it(clock: Clock) -> None:
    breaker = Breaker(SETTINGS, clock=clock)
    for clock.now in range(0, 100, 6):
        assert call(breaker, False)
    assert breaker.state == "closed"


def test_a_call_from_before_it_opened_neither_closes_nor_opens_it(clock: Clock) -> None:
    breaker = Breaker(SETTINGS, clock=clock)
    early = [breaker.begin() for _ in range(5)]
    for ticket in early[:3]:
        assert ticket is not None
        breaker.end(ticket, False)
    clock.now = 5.0
    trial = breaker.begin()
    assert trial is not None
    assert early[3] is not None
    breaker.end(early[3], True)
    assert breaker.state == "half_open"
    breaker.end(trial, True)
    assert early[4] is not None
    breaker.end(early[4], False)
    assert [call(breaker, ok) for ok in (False, False)] == [True, True]
    assert breaker.state == "closed"


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 8), st.sampled_from(["begin", "ok", "bad", "none"]), st.integers(0, 30)), max_size=80))
def test_while_it_is_not_closed_at_most_one_call_goes_in_its_pause(steps: list[tuple[float, str, int]]) -> None:
    clock = Clock()
    breaker = Breaker(SETTINGS, clock=clock)
    running: list[int] = []
    let_out: list[float] = []
    for pause, what, which in steps:
        clock.now += pause
        if what == "begin":
            closed = breaker.state == "closed"
            ticket = breaker.begin()
            if ticket is not None:
                running.append(ticket)
                if not closed:
                    let_out.append(clock.now)
            else:
                assert not closed
        elif running:
            before = breaker.state
            ticket = running.pop(which % len(running))
            breaker.end(ticket, {"ok": True, "bad": False, "none": None}[what])
            if before == "half_open" and (breaker.state != before or what == "none"):
                let_out.clear()
        assert all(later - earlier >= SETTINGS.open_s for earlier, later in itertools.pairwise(let_out))


VIOLENCE = policy("violence")


async def test_an_open_breaker_makes_errors_at_once_which_the_route_decides_about_and_never_passes(clock: Clock) -> None:
    classifier = ScriptedClassifier({"*": contains("attack")}, fault=RuntimeError("down"))
    guard = Guard({"scripted": classifier}, breakers={"scripted": Breaker(SETTINGS, clock=clock)})
    for _ in range(3):
        await guard.check("hello", route=route(VIOLENCE))
    asked = classifier.batches
    blocked = await guard.check("hello", route=route(VIOLENCE))
    passed = await guard.check("hello", route=route(VIOLENCE, on_error=Fallback.PASS))
    assert classifier.batches == asked
    for decision, action in ((blocked, Action.BLOCK), (passed, Action.PASS)):
        assert [verdict.error for verdict in decision.verdicts] == ["circuit_open"]
        assert (decision.action, decision.outcome.unjudged) == (action, True)
    classifier.fault = None
    clock.now = 5.0
    assert (await guard.check("an attack", route=route(VIOLENCE))).action is Action.BLOCK
    assert (await guard.check("hello", route=route(VIOLENCE))).outcome.unjudged is False


@pytest.mark.parametrize(
    ("answer", "text"),
    [(ClassifierError("too_long", "…"), "hello"), (ClassifierError("timeout", "…"), "long " * 5_000)],
)
async def test_what_may_be_the_fault_of_the_text_opens_nothing(clock: Clock, answer: ClassifierError, text: str) -> None:
    classifier = ScriptedClassifier({"*": lambda _: answer})
    breaker = Breaker(SETTINGS, clock=clock)
    guard = Guard({"scripted": classifier}, breakers={"scripted": breaker})
    for _ in range(5):
        assert (await guard.check(text, route=route(VIOLENCE))).outcome.unjudged
    assert breaker.state == "closed"


class Turns(ScriptedClassifier):
    """One that takes its callers' texts in turn, and counts its passes; a short text is done in one. `stands`: its worker hangs."""

    stands = False
    done = 0
    full = False

    def passes(self) -> int:
        return self.done

    async def classify(self, requests: Any, *, deadline: float) -> Any:
        if self.full:
            raise ClassifierError("overloaded", "so much is waiting already")
        while self.stands or len(requests[0].text) > 1_000:
            await asyncio.sleep(0.002)
            self.done += not self.stands
        return await super().classify(requests, deadline=deadline)


def guarded(classifier: ScriptedClassifier, clock: Clock) -> tuple[Guard, Breaker]:
    breaker = Breaker(SETTINGS, clock=clock)
    return Guard({"scripted": classifier}, breakers={"scripted": breaker}), breaker


async def burst(guard: Guard, length: int, *, deadline_s: float = 0.3) -> None:
    """What one tenant sends at once."""
    asked = [guard.check(("a note " * length)[:length], route=route(VIOLENCE, deadline_s=deadline_s), tenant="acme") for _ in range(10)]
    decisions = await asyncio.gather(*asked)
    assert all(decision.outcome.unjudged for decision in decisions)


async def test_one_tenants_burst_of_slow_texts_shuts_nobody_out(clock: Clock) -> None:
    classifier = Turns({"*": 0.1})
    guard, breaker = guarded(classifier, clock)
    await burst(guard, 19_000, deadline_s=1)
    assert breaker.state == "closed"
    assert not (await guard.check("Good morning", route=route(VIOLENCE), tenant="beta")).outcome.unjudged


async def test_a_queue_that_one_tenant_filled_shuts_nobody_out(clock: Clock) -> None:
    classifier = Turns({"*": 0.1})
    guard, breaker = guarded(classifier, clock)
    classifier.full = True
    await burst(guard, 10)
    assert breaker.state == "closed"


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("classifier", [Turns({"*": 0.1}), ScriptedClassifier({"*": 0.1})])
async def test_one_that_hangs_is_left_alone_though_one_tenant_asks(classifier: ScriptedClassifier, at_once: bool, clock: Clock) -> None:
    guard, breaker = guarded(classifier, clock)
    classifier.fault, classifier.stands = "hang", True  # type: ignore[attr-defined]
    if at_once:
        await burst(guard, 200)
    for _ in range(3):
        await guard.check("hello", route=route(VIOLENCE, deadline_s=0.2), tenant="acme")
    assert breaker.state == "open"


async def test_who_is_late_while_others_are_answered_says_nothing_of_the_classifier(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unfair(ScriptedClassifier):
        async def classify(self, requests: Any, *, deadline: float) -> Any:
            if len(requests[0].text) > 1_000:
                await asyncio.Event().wait()
            return await super().classify(requests, deadline=deadline)

    guard, breaker = guarded(Unfair({"*": 0.1}), clock)
    late = asyncio.gather(*(guard.check("x" * 2_000, route=route(VIOLENCE, deadline_s=1)) for _ in range(10)))
    await asyncio.sleep(0)
    assert not (await guard.check("Good morning", route=route(VIOLENCE), tenant="beta")).outcome.unjudged
    await late
    assert breaker.state == "closed"
    monkeypatch.setattr("guardrail.blame._LATELY_S", 0)
    await burst(guard, 2_000)  # nobody is answered meanwhile, and what it does is not known
    assert breaker.state == "open"


async def test_one_score_among_errors_says_that_the_classifier_works(clock: Clock) -> None:
    classifier = ScriptedClassifier({"violence": ClassifierErrorRule(), "harassment": 0.1})
    breaker = Breaker(SETTINGS, clock=clock)
    guard = Guard({"scripted": classifier}, breakers={"scripted": breaker})
    for _ in range(5):
        await guard.check("hello", route=route(VIOLENCE, policy("harassment")))
    assert breaker.state == "closed"


async def test_a_text_is_as_long_as_it_is_however_many_policies_ask_about_it(clock: Clock) -> None:
    classifier = ScriptedClassifier({"*": lambda _: ClassifierError("timeout", "…")})
    breaker = Breaker(SETTINGS, clock=clock)
    guard = Guard({"scripted": classifier}, breakers={"scripted": breaker})
    policies = [policy(name) for name in ("violence", "harassment", "toxicity", "hate")]
    for _ in range(3):
        await guard.check("long " * 1_200, route=route(*policies))
    assert breaker.state == "open"


class ClassifierErrorRule:
    def __call__(self, text: str) -> Any:
        del text
        return ClassifierError("crash", "…")


async def test_a_caller_that_leaves_is_no_failure_and_gives_the_trial_back(clock: Clock) -> None:
    classifier = ScriptedClassifier({"*": 0.1}, fault=RuntimeError("down"))
    breaker = Breaker(SETTINGS, clock=clock)
    guard = Guard({"scripted": classifier}, breakers={"scripted": breaker})
    for _ in range(3):
        await guard.check("hello", route=route(VIOLENCE))
    clock.now = 5.0
    classifier.fault = "hang"
    asked = classifier.batches
    gone = asyncio.create_task(guard.check("hello", route=route(VIOLENCE, deadline_s=60)))
    while classifier.batches == asked:
        await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait((gone,))
    classifier.fault = None
    assert (await guard.check("hello", route=route(VIOLENCE))).outcome.unjudged is False


class Silent(ScriptedClassifier):
    """One that cannot say what it got done."""

    asked = 0

    def passes(self) -> int:
        self.asked += 1
        if self.asked > 1:
            raise RuntimeError("its worker is gone")
        return 0


async def test_a_classifier_that_cannot_say_what_it_got_done_is_asked_all_the_same(clock: Clock) -> None:
    guard, _ = guarded(Silent({"*": 0.1}), clock)
    assert not (await guard.check("hello", route=route(VIOLENCE))).outcome.unjudged
