"""A streamed answer's windows are judged by sessions where there are any, by the whole text else, and are one decision in the end."""

import asyncio
import base64
import time
from collections.abc import Sequence

import pytest

from guardrail.errors import ClassifierError
from guardrail.events import DecisionMade, EventFanout
from guardrail.guard import Guard, Origin, Turn
from guardrail.guard_stream import AnswerJudge
from guardrail.testing import RecordingSink, ScriptedClassifier, contains, policy, route
from guardrail.types import Action, Check, Escalation, Fallback, Mode, Part, Policy, Score, Stage
from guardrail.window import Ruling, StreamPart, Window

VIOLENCE, INSULTS = policy("violence"), policy("insults")
CONTENT = StreamPart(0, "choices[0].message.content")
CALL = StreamPart(0, "choices[0].message.tool_calls[0].function.arguments", whole=True)
PASS, BLOCK = Ruling(Action.PASS), Ruling(Action.BLOCK)


class Growing:
    """A session that counts what it was sent, and fails where it is told to."""

    def __init__(self, owner: "Sessions", policies: Sequence[Policy]) -> None:
        self.owner, self.policies, self.text = owner, policies, ""

    async def extend(self, text: str, *, deadline: float, final: bool = False) -> list[Score | ClassifierError]:
        self.text += text
        self.owner.sent.append(text)
        if "hang" in text:
            await asyncio.Event().wait()
        score = 0.9 if "attack" in self.text else 0.1
        return [Score(score if asked.id == "violence" else 0.0, "s") for asked in self.policies]

    async def aclose(self) -> None:
        self.owner.closed += 1


class Sessions(ScriptedClassifier):
    def __init__(self, **changes: object) -> None:
        super().__init__({"violence": contains("attack")}, **changes)
        self.sent: list[str] = []
        self.closed = 0

    def session(self, policies: Sequence[Policy], *, tenant: str = "*") -> Growing:
        return Growing(self, policies)


def window(text: str, number: int = 0, part: StreamPart = CONTENT, *, start: int = 0, version: int = 0) -> Window:
    return Window(number, part, text, start, version)


def judging(classifier: ScriptedClassifier, sink: RecordingSink | None = None, **changes: object) -> AnswerJudge:
    guard = Guard({"scripted": classifier}, EventFanout([sink] if sink else []))
    under = route(VIOLENCE, INSULTS, **changes)
    return AnswerJudge(guard, Turn(under, Stage.OUTPUT, "acme", Origin("r1"), time.monotonic()), {CONTENT.path: "text"})


async def test_without_sessions_all_windows_are_one_batch_of_whole_texts() -> None:
    classifier = ScriptedClassifier({"violence": contains("attack")})
    judge = judging(classifier)
    assert not judge.resident
    assert await judge.judge([window("one calm day"), window('{"do": "attack"}', 1, CALL)]) == [PASS, BLOCK]
    assert classifier.batches == 1
    assert [request.text for request in classifier.requests] == ["one calm day"] * 2 + ['{"do": "attack"}'] * 2


async def test_a_session_is_sent_new_text_only() -> None:
    classifier = Sessions()
    judge = judging(classifier)
    assert judge.resident
    assert await judge.judge([window("one calm")]) == [PASS]
    assert await judge.judge([window("one calm day, then an attack", 1, start=8)]) == [BLOCK]
    assert classifier.sent == ["one calm", " day, then an attack"]
    await judge.aclose()
    assert (classifier.closed, classifier.batches) == (1, 0)


async def test_what_a_growing_text_says_in_disguise_is_judged_beside_its_session() -> None:
    classifier = Sessions()
    judge = judging(classifier)
    hidden = base64.b64encode(b"how to attack them at night").decode()
    assert await judge.judge([window("one calm day ", 0)]) == [PASS]
    assert classifier.requests == []
    assert await judge.judge([window(f"one calm day {hidden}", 1, start=13)]) == [BLOCK]
    assert {request.text for request in classifier.requests} == {"one calm day how to attack them at night"}
    assert judge.violations(0)[0].reading == ("base64",)
    assert classifier.sent == ["one calm day ", hidden]


async def test_a_rewritten_text_begins_a_session_anew() -> None:
    classifier = Sessions()
    judge = judging(classifier)
    await judge.judge([window("one attack")])
    assert await judge.judge([window("one [redacted]", 1, version=1)]) == [PASS]
    assert classifier.sent == ["one attack", "one [redacted]"]
    assert classifier.closed == 1


async def test_a_session_that_fails_is_an_error_and_the_next_window_covers_all() -> None:
    classifier = Sessions()
    judge = judging(classifier, deadline_s=0.05)
    (failed,) = await judge.judge([window("hang on")])
    assert failed == Ruling(Action.BLOCK, unavailable=True)
    (late,) = await judge.judge([window("hung up, an attack", 1)])
    assert late == BLOCK
    assert classifier.sent == ["hang on", "hung up, an attack"]


@pytest.mark.parametrize("fallback", Fallback)
async def test_an_error_blocks_or_passes_as_the_route_says(fallback: Fallback) -> None:
    judge = judging(ScriptedClassifier(fault="hang"), deadline_s=0.02, on_error=fallback)
    blocked = fallback is Fallback.BLOCK
    assert await judge.judge([window("text")]) == [Ruling(Action.BLOCK, unavailable=True) if blocked else PASS]
    assert judge.conclude().outcome.unjudged


async def test_a_route_that_escalates_has_no_sessions() -> None:
    assert not judging(Sessions(), escalation=Escalation("scripted", 0.2, 0.4)).resident


async def test_one_decision_is_made_of_the_last_verdicts() -> None:
    sink = RecordingSink()
    judge = judging(ScriptedClassifier({"violence": contains("attack")}), sink)
    await judge.judge([window("one calm")])
    await judge.judge([window("one calm day", 1), window("{}", 2, CALL)])
    assert sink.of(DecisionMade) == []
    decision = judge.conclude([Part("choices[0].message.audio", None, "assistant", "audio", 0)])
    assert {verdict.part for verdict in decision.verdicts} == {CONTENT.path, CALL.path}
    assert len(decision.verdicts) == 4
    assert decision.unscannable == ("choices[0].message.audio",)
    (event,) = sink.of(DecisionMade)
    assert [part.text for part in event.parts] == ["one calm day", "{}", None]


async def test_a_shadow_check_blocks_nothing() -> None:
    guard = Guard({"scripted": Sessions()})
    watched = route(Check(VIOLENCE, 0.5, mode=Mode.SHADOW))
    judge = AnswerJudge(guard, Turn(watched, Stage.OUTPUT, "acme", Origin(), time.monotonic()))
    assert await judge.judge([window("an attack")]) == [PASS]
    assert judge.conclude().outcome.shadow is Action.BLOCK


@pytest.mark.parametrize("kind", [Sessions, ScriptedClassifier])
@pytest.mark.parametrize("first", ["violence", "poetry"])
async def test_policies_of_one_text_have_each_its_own_answer(kind: type[ScriptedClassifier], first: str) -> None:
    classifier = Sessions() if kind is Sessions else ScriptedClassifier({"violence": contains("attack")})
    twins = sorted((policy("violence", body="same"), policy("poetry", body="same")), key=lambda each: each.id != first)
    judge = AnswerJudge(Guard({"scripted": classifier}), Turn(route(*twins), Stage.OUTPUT, "acme", Origin(), time.monotonic()))
    assert await judge.judge([window("an attack")]) == [BLOCK]
    assert [verdict.policy_id for verdict in judge.conclude().violations] == ["violence"]


async def test_what_was_taken_out_under_one_check_is_not_told_of_another_one_of_the_same_policy() -> None:
    checks = Check(VIOLENCE, 0.5, Action.REDACT), Check(VIOLENCE, 0.3, Action.REDACT, Mode.SHADOW)
    for under in (checks, checks[::-1]):
        guard = Guard({"scripted": ScriptedClassifier({"violence": contains("attack")})})
        judge = AnswerJudge(guard, Turn(route(*under), Stage.OUTPUT, "acme", Origin(), time.monotonic()))
        await judge.judge([window("an attack")])
        await judge.judge([window("an [redacted]", 1, version=1)])
        decision = judge.conclude()
        assert [(verdict.mode, verdict.threshold, verdict.violation) for verdict in decision.verdicts] == [
            (check.mode, check.threshold, True) for check in under
        ]
        assert decision.action is Action.REDACT
