"""The guard: one decision whatever a classifier does, one event a decision, and no question asked twice."""

import asyncio
import math
import time
from dataclasses import replace

import pytest

from guardrail.canary import Canary, check_canary
from guardrail.errors import ClassifierError
from guardrail.events import DecisionMade, EventFanout
from guardrail.guard import Guard, Origin, Turn
from guardrail.testing import RecordingSink, ScriptedClassifier, contains, policy, route
from guardrail.types import Action, Check, Escalation, Fallback, Mode, Part, Policy, Score, Stage
from guardrail.verdict_cache import VerdictCache

VIOLENCE, INSULTS = policy("violence"), policy("insults")
ROUTE = route(VIOLENCE, INSULTS)
FAILURES = [
    (RuntimeError("no model"), "crash"),
    (ClassifierError("overloaded", "full"), "overloaded"),
    ("hang", "timeout"),
    ("short", "malformed"),
    ("not_a_number", "not_a_number"),
]


def _guard(classifier: ScriptedClassifier) -> tuple[Guard, RecordingSink]:
    sink = RecordingSink()
    return Guard({"scripted": classifier}, EventFanout([sink])), sink


async def test_each_part_is_judged_under_each_policy() -> None:
    guard, sink = _guard(ScriptedClassifier({"violence": contains("attack"), "insults": contains("fool")}))
    parts = (Part("messages[0].content", "attack"), Part("messages[1].content", "good morning"))
    decision = await guard.check(parts, route=ROUTE, tenant="acme", origin=Origin("r1", "gpt", "chat", stream=True))
    assert decision.action is Action.BLOCK
    assert [(verdict.policy_id, verdict.part) for verdict in decision.violations] == [("violence", "messages[0].content")]
    assert len(decision.verdicts) == 4
    (event,) = sink.of(DecisionMade)
    assert (event.decision, event.request_id, event.model, event.stream) == (decision, "r1", "gpt", True)
    assert (decision.tenant, decision.route, decision.stage) == ("acme", "test", Stage.INPUT)


async def test_equal_texts_are_asked_once_and_blank_ones_never() -> None:
    classifier = ScriptedClassifier()
    guard, _ = _guard(classifier)
    parts = [Part(f"messages[{number}].name", text) for number, text in enumerate(("ann", "ann", "", "  \n", "bob"))]
    decision = await guard.check(parts, route=ROUTE)
    assert classifier.batches == 1
    assert len(classifier.requests) == 4
    assert len(decision.verdicts) == 6


async def test_many_verdicts_let_others_have_their_turn() -> None:
    async def count_turns(parts: int) -> int:
        guard, turns = Guard({"scripted": ScriptedClassifier()}), 0
        judging = asyncio.create_task(guard.check([Part(f"messages[{number}].name", str(number)) for number in range(parts)], route=ROUTE))
        while not judging.done():
            await asyncio.sleep(0)
            turns += 1
        assert len((await judging).verdicts) == 2 * parts
        return turns

    assert await count_turns(6000) - await count_turns(1) >= 10


async def test_policies_of_one_digest_and_repeated_checks_are_asked_once() -> None:
    classifier = ScriptedClassifier({"violence": contains("attack")})
    guard, _ = _guard(classifier)
    checks = Check(VIOLENCE, 0.5), Check(INSULTS, 0.5), Check(VIOLENCE, 0.99, mode=Mode.SHADOW)
    decision = await guard.check([Part("a", "attack"), Part("b", "hello"), Part("c", "attack")], route=route(*checks))
    assert [(request.policy.id, request.text) for request in classifier.requests] == [
        ("violence", "attack"), ("insults", "attack"), ("violence", "hello"), ("insults", "hello"),
    ]  # fmt: skip
    assert [(verdict.part, verdict.policy_id, verdict.threshold, verdict.violation) for verdict in decision.verdicts] == [
        (part, *told, part != "b" and told == ("violence", 0.5))
        for part in "abc"
        for told in (("violence", 0.5), ("insults", 0.5), ("violence", 0.99))
    ]


async def test_a_lone_surrogate_spoils_no_batch() -> None:
    classifier = ScriptedClassifier({"violence": lambda text: float(len(text.encode()) > 5)})
    guard, sink = _guard(classifier)
    parts = (Part("messages[0].content", "attack \ud800 now"), Part("messages[1].content", "né"))
    decision = await guard.check(parts, route=ROUTE)
    assert [verdict.part for verdict in decision.violations] == ["messages[0].content"]
    assert {request.text for request in classifier.requests} == {"attack ? now", "né"}
    assert [part.text for part in sink.of(DecisionMade)[0].parts] == ["attack ? now", "né"]


async def test_nothing_to_judge_passes_without_a_call() -> None:
    classifier = ScriptedClassifier(fault=RuntimeError("must not be asked"))
    guard, sink = _guard(classifier)
    assert (await guard.check("", route=ROUTE)).action is Action.PASS
    assert (await guard.check("attack", route=route())).action is Action.PASS
    assert classifier.batches == 0
    assert len(sink.of(DecisionMade)) == 2


@pytest.mark.parametrize(("fault", "code"), FAILURES)
@pytest.mark.parametrize("on_error", Fallback)
async def test_a_failing_classifier_is_an_error_verdict_and_the_route_says_what_follows(
    fault: object, code: str, on_error: Fallback
) -> None:
    guard, sink = _guard(ScriptedClassifier({"*": 0.0}, fault=fault))
    decision = await guard.check("good morning", route=replace(ROUTE, on_error=on_error, deadline_s=0.05))
    assert {verdict.error for verdict in decision.verdicts} == {code}
    assert decision.outcome.unjudged
    assert decision.action is (Action.BLOCK if on_error is Fallback.BLOCK else Action.PASS)
    assert decision.outcome.unavailable is (on_error is Fallback.BLOCK)
    assert len(sink.of(DecisionMade)) == 1


@pytest.mark.parametrize(
    ("answer", "code"),
    [(math.nan, "not_a_number"), (math.inf, "not_a_number"), (-math.inf, "not_a_number")]
    + [(answer, "malformed") for answer in (-0.1, 1.1, 2, "0.2", None, True, [0.1])],
)
async def test_what_is_no_score_is_an_error_and_spoils_no_neighbour(answer: object, code: str) -> None:
    guard, _ = _guard(ScriptedClassifier({"violence": lambda _: {"it": answer} if answer is True else answer, "insults": 0.9}))
    verdicts = {verdict.policy_id: verdict for verdict in (await guard.check("hello", route=ROUTE)).verdicts}
    assert (verdicts["violence"].error, verdicts["insults"].score) == (code, 0.9)


async def test_an_unknown_classifier_is_an_error() -> None:
    guard, _ = _guard(ScriptedClassifier())
    decision = await guard.check("hello", route=replace(ROUTE, classifier="gone"))
    assert (decision.outcome.unavailable, decision.verdicts[0].error) == (True, "crash")


async def test_a_classifier_that_ignores_its_cancellation_does_not_hold_the_request() -> None:
    class Stubborn(ScriptedClassifier):
        async def classify(self, requests, *, deadline):  # type: ignore[no-untyped-def]
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                await asyncio.sleep(0.3)
            return [Score(0.0, self.id)] * len(requests)

    guard, _ = _guard(Stubborn())
    started = time.monotonic()
    decision = await guard.check("hello", route=replace(ROUTE, deadline_s=0.05))
    assert time.monotonic() - started < 0.25
    assert decision.verdicts[0].error == "timeout"
    await asyncio.sleep(0.35)


async def test_cancelling_the_caller_cancels_the_judging() -> None:
    classifier = ScriptedClassifier(fault="hang")
    guard, sink = _guard(classifier)
    task = asyncio.create_task(guard.check("hello", route=ROUTE))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert classifier.cancelled == 1
    assert sink.events == []


async def test_shadow_checks_are_judged_and_change_nothing() -> None:
    guard, _ = _guard(ScriptedClassifier({"violence": 0.9}))
    decision = await guard.check("hello", route=route(Check(VIOLENCE, 0.5, Action.BLOCK, Mode.SHADOW)))
    assert (decision.action, decision.outcome.shadow) == (Action.PASS, Action.BLOCK)


async def test_unreadable_parts_are_named_and_follow_the_route() -> None:
    guard, _ = _guard(ScriptedClassifier())
    parts = (Part("messages[0].content[0]", None, kind="image"), Part("messages[0].content[1].text", "hello"))
    blocked = await guard.check(parts, route=ROUTE)
    passed = await guard.check(parts, route=replace(ROUTE, unscannable=Fallback.PASS))
    assert (blocked.action, blocked.outcome.unavailable, blocked.unscannable) == (Action.BLOCK, False, ("messages[0].content[0]",))
    assert (passed.action, passed.outcome.unjudged) == (Action.PASS, True)


async def test_doubtful_scores_go_to_the_second_classifier() -> None:
    first, judge = ScriptedClassifier({"violence": 0.6, "insults": 0.1}), ScriptedClassifier({"*": 0.95}, id="judge@1")
    guard = Guard({"scripted": first, "judge": judge})
    decision = await guard.check("hello", route=replace(ROUTE, escalation=Escalation("judge", 0.4, 0.7)))
    assert [(verdict.score, verdict.classifier) for verdict in decision.verdicts] == [(0.95, "judge@1"), (0.1, "scripted")]


CANARY = Canary(VIOLENCE, "attack them", "good morning")


@pytest.mark.parametrize(
    ("script", "fault", "ok", "detail"),
    [
        ({"violence": contains("attack")}, None, True, ""),
        ({"violence": 0.499}, None, False, "violating text scored 0.499 against threshold 0.5"),
        ({"violence": 0.9}, None, False, "benign text scored 0.900 against threshold 0.5"),
        ({}, "hang", False, "violating text was not judged (timeout); benign text was not judged (timeout)"),
    ],
)
async def test_a_canary_is_right_only_when_both_texts_are(script: dict[str, object], fault: object, ok: bool, detail: str) -> None:
    checked = await check_canary(ScriptedClassifier(script, fault=fault), CANARY, name="scripted", deadline_s=0.05)
    assert (checked.classifier, checked.ok, checked.detail) == ("scripted", ok, detail)


async def test_a_sink_that_fails_hurts_neither_the_decision_nor_its_neighbours() -> None:
    class Broken:
        def emit(self, event: object) -> None:
            raise RuntimeError("sink")

    sink = RecordingSink()
    events = EventFanout([Broken(), sink])
    decision = await Guard({"scripted": ScriptedClassifier()}, events).check("hello", route=ROUTE)
    assert decision.action is Action.PASS
    assert (events.failures, len(sink.of(DecisionMade))) == (len(sink.events), 1)


TWINS = [policy("weapons", body="same"), policy("poetry", body="same")]  # some classifiers go by a policy's id


@pytest.mark.parametrize("policies", [TWINS, TWINS[::-1]], ids=["first", "last"])
@pytest.mark.parametrize("beside", Mode)
async def test_policies_of_one_text_have_each_its_own_answer(policies: list[Policy], beside: Mode) -> None:
    classifier = ScriptedClassifier({"weapons": contains("attack")})
    checks = [Check(each, 0.5, mode=Mode.ENFORCE if each.id == "weapons" else beside) for each in policies]
    decision = await Guard({"scripted": classifier}, cache=VerdictCache(entries=9, size=9_999, max_age_s=60)).check(
        "an attack", route=route(*checks)
    )
    assert decision.action is Action.BLOCK
    assert [verdict.policy_id for verdict in decision.violations] == ["weapons"]
    assert len(classifier.requests) == 2


async def test_what_one_of_two_policies_of_one_text_could_not_judge_is_said_of_that_one_alone() -> None:
    full = ClassifierError("overloaded", "full")

    def weapons(text: str) -> float | ClassifierError:
        if len(text) > 2_000:
            return ClassifierError("too_long", "too long")
        return 0.9 if "attack" in text else full

    def poetry(text: str) -> float | ClassifierError:
        return ClassifierError("too_long", "too long") if len(text) > 2_000 else full

    guard = Guard({"scripted": ScriptedClassifier({"weapons": weapons, "poetry": poetry})})
    decision = await guard.check("attack " + "a calm day " * 300, route=route(*TWINS))
    assert [(verdict.policy_id, verdict.score, verdict.error) for verdict in decision.verdicts] == [
        ("weapons", 0.9, None), ("poetry", None, "overloaded"),
    ]  # fmt: skip


@pytest.mark.parametrize("released", [True, False])
async def test_what_is_out_already_is_recorded_as_unjudged_where_its_judging_is_stopped(released: bool) -> None:
    guard, sink = _guard(ScriptedClassifier(fault="hang"))
    parts = (Part("messages[0].content", "attack"), Part("messages[1].content", ""))
    turn = Turn(ROUTE, Stage.INPUT, "acme", Origin("r1"), time.monotonic(), released=released)
    judging = asyncio.create_task(guard.decide(parts, turn))
    await asyncio.sleep(0)
    judging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await judging
    events = sink.of(DecisionMade)
    assert len(events) == released
    for event in events:
        assert (event.decision.outcome.unjudged, event.request_id, event.parts) == (True, "r1", parts)
        assert [(verdict.policy_id, verdict.part, verdict.error) for verdict in event.decision.verdicts] == [
            ("violence", "messages[0].content", "abandoned"),
            ("insults", "messages[0].content", "abandoned"),
        ]
