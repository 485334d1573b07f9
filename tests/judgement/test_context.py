"""`judge_with: prompt`: an answer is judged with what the user said, and what is found is told of the answer."""

import asyncio
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.context import MOST, PIECES, contexts_for, opening, shown, within
from guardrail.errors import ClassifierError
from guardrail.guard import Guard, Origin, Turn
from guardrail.guard_stream import AnswerJudge
from guardrail.interfaces import Session
from guardrail.testing import ScriptedClassifier, contains, policy, route
from guardrail.types import Action, ClassifyRequest, Part, Policy, Score, Span, Stage
from guardrail.verdict_cache import VerdictCache
from guardrail.window import StreamPart, Window

WITH, WITHOUT = policy("advice", judge_with="prompt"), policy("insults")
ROUTE = route(WITH, WITHOUT)
ANSWER = Part("choices[0].message.content", "yes, take two", "assistant", choice=0)


def turn(said: str | None, stage: Stage = Stage.OUTPUT) -> Turn:
    return Turn(ROUTE, stage, "acme", Origin(), time.monotonic(), context=said)


def test_the_prompt_stands_before_the_answer_in_one_documented_form() -> None:
    request = ClassifyRequest(WITH, "yes", "may I?", Stage.OUTPUT)
    assert shown(request).text == "[user]: may I?\n\n[assistant]: yes"
    assert shown(request).context is None
    assert shown(ClassifyRequest(WITH, "yes")).text == "yes"


@settings(deadline=None)
@given(st.integers(0, 20_000), st.integers(0, 20_000), st.sampled_from(["x", "y ", "\n", "how? "]))
def test_no_padding_pushes_anything_out_of_sight(before: int, behind: int, padding: str) -> None:
    asked = "how many pills are too many?"
    said = (padding * before)[:before] + asked + (padding * behind)[:behind] + "end"
    found = [each or "" for each in contexts_for(WITH, Stage.OUTPUT, said)]
    assert any(asked in each for each in found)
    assert all(each.endswith("end") and len(each) <= MOST + 4 for each in found)
    assert found[0].endswith(said[-MOST:])


def test_a_prompt_that_takes_too_many_pieces_is_shown_in_none() -> None:
    assert contexts_for(WITH, Stage.OUTPUT, "x" * (MOST - 300) * PIECES * 2) == ()


@pytest.mark.parametrize(
    ("asked", "stage", "said"),
    [(WITHOUT, Stage.OUTPUT, "a"), (WITH, Stage.INPUT, "a"), (WITH, Stage.OUTPUT, None), (WITH, Stage.OUTPUT, " \n")],
)
def test_only_answers_under_policies_that_ask_for_it_are_judged_with_it(asked: Policy, stage: Stage, said: str | None) -> None:
    assert contexts_for(asked, stage, said) == (None,)


@pytest.mark.parametrize(
    ("span", "found"), [(Span(20, 25), Span(5, 10)), (Span(10, 25), Span(0, 10)), (Span(0, 15), None), (Span(3, 4), None), (None, None)]
)
def test_spans_are_the_answers(span: Span | None, found: Span | None) -> None:
    assert within(Score(0.9, "c", span), 15) == Score(0.9, "c", found)
    assert within(Score(0.9, "c", span), 0).span == span


async def test_each_policy_is_asked_in_its_own_way_in_one_batch() -> None:
    before = len(opening("is one enough?"))
    classifier = ScriptedClassifier({"advice": lambda text: Score(0.9, "scripted", Span(before, before + 3)), "insults": 0.1})
    decision = await Guard({"scripted": classifier}).decide((ANSWER,), turn("is one enough?"))
    assert [request.text for request in classifier.requests] == ["[user]: is one enough?\n\n[assistant]: yes, take two", "yes, take two"]
    assert [request.context for request in classifier.requests] == [None, None]
    assert classifier.batches == 1
    assert decision.violations[0].span == Span(0, 3)
    assert decision.violations[0].policy_digest == WITH.digest


PADDED = f"{'nothing at all ' * 150}how many pills?{' nothing at all' * 150}"


@pytest.mark.parametrize("long", [300, 20_000])
async def test_an_answer_is_judged_with_every_piece_of_a_long_prompt(long: int) -> None:
    classifier = ScriptedClassifier({"advice": lambda text: 0.9 if "pills" in text and "two" in text else 0.1, "insults": 0.0})
    said = f"how many pills?{' nothing at all' * (long // 15)}"
    decision = await Guard({"scripted": classifier}).decide((ANSWER,), turn(said))
    assert [(verdict.policy_id, verdict.error) for verdict in decision.violations] == [("advice", None)]
    assert len(decision.verdicts) == 2


async def test_an_answer_to_a_prompt_that_is_too_long_to_be_shown_is_unjudged() -> None:
    decision = await Guard({"scripted": ScriptedClassifier()}).decide((ANSWER,), turn("x" * 200_000))
    assert [(verdict.policy_id, verdict.error) for verdict in decision.verdicts] == [("advice", "too_long"), ("insults", None)]
    assert decision.outcome.unavailable


async def test_windows_of_an_answer_under_one_piece_do_not_stand_for_another() -> None:
    """A text that is too long in the sight of one piece alone: what its windows say is that piece's."""

    class Short(ScriptedClassifier):
        async def classify(self, requests: Sequence[ClassifyRequest], *, deadline: float) -> list[Score | ClassifierError]:
            told = await super().classify(requests, deadline=deadline)
            return [
                ClassifierError("too_long", "too long") if len(each.text) > 2_500 else one for each, one in zip(requests, told, strict=True)
            ]

    def advice(text: str) -> float | ClassifierError:
        if "broken" in text:
            return ClassifierError("crash", "broken")
        return 0.9 if "pills" in text and "two" in text else 0.1

    answer = Part("choices[0].message.content", "take two" + " of them" * 200 + " broken", "assistant", choice=0)
    decision = await Guard({"scripted": Short({"advice": advice})}).decide((answer,), turn(PADDED))
    assert [verdict.policy_id for verdict in decision.violations] == ["advice"]


async def test_another_prompt_is_another_question_to_the_cache() -> None:
    classifier = ScriptedClassifier()
    guard = Guard({"scripted": classifier}, cache=VerdictCache(entries=100, size=100_000, max_age_s=60.0))
    for said in ("one?", "two?", "one?", None):
        await guard.decide((ANSWER,), turn(said))
    assert [request.text.partition("\n")[0] for request in classifier.requests] == [
        "[user]: one?", "yes, take two", "[user]: two?", "yes, take two",
    ]  # fmt: skip


async def test_prompts_themselves_are_judged_alone() -> None:
    classifier = ScriptedClassifier()
    await Guard({"scripted": classifier}).decide((Part("messages[0].content", "hi"),), turn("earlier", Stage.INPUT))
    assert {request.text for request in classifier.requests} == {"hi"}


class Growing(ScriptedClassifier):
    """Sessions that answer by the script, of all they have read."""

    def session(self, policies: Sequence[Policy], *, tenant: str = "*") -> Session:
        del tenant
        outer = self

        class One:
            text = ""

            async def extend(self, text: str, *, deadline: float, final: bool = False) -> object:
                del deadline, final
                self.text += text
                read.append(self.text)
                return [outer._answer(ClassifyRequest(each, self.text)) for each in policies]

            async def aclose(self) -> None:
                await asyncio.sleep(0)

        return One()  # type: ignore[return-value]


read: list[str] = []


@pytest.mark.parametrize("pieces", [2, 40])
async def test_a_streamed_answer_is_judged_with_every_piece_of_a_long_prompt(pieces: int) -> None:
    read.clear()
    classifier = Growing({"advice": lambda text: 0.9 if "pills" in text and "two" in text else 0.1, "insults": 0.0})
    judge = AnswerJudge(Guard({"scripted": classifier}), turn("how many pills?" + " nothing at all" * (30 * pieces)))
    part = StreamPart(0, "choices[0].message.content")
    actions = []
    for number, text in enumerate(("yes, ", "yes, take two"), start=1):
        (ruled,) = await judge.judge([Window(number, part, text, 0, 0)])
        actions.append(ruled.action)
    await judge.aclose()
    assert actions == [Action.PASS, Action.BLOCK]
    assert bool(read) is (pieces == 2) is judge.resident  # many sessions hold too much memory


@pytest.mark.parametrize("kind", [Growing, ScriptedClassifier])
async def test_a_streamed_answer_is_judged_with_the_prompt_from_its_beginning(kind: type[ScriptedClassifier]) -> None:
    read.clear()
    classifier = kind({"advice": lambda text: 0.9 if "pills" in text and "two" in text else 0.1, "insults": contains("pills")})
    judge = AnswerJudge(Guard({"scripted": classifier}), turn("how many pills?"))
    part = StreamPart(0, "choices[0].message.content")
    actions = []
    for number, text in enumerate(("yes, ", "yes, take two"), start=1):
        (ruled,) = await judge.judge([Window(number, part, text, 0, 0)])
        actions.append(ruled.action)
    decision = judge.conclude()
    await judge.aclose()
    assert actions == [Action.PASS, Action.BLOCK]
    assert [verdict.policy_id for verdict in decision.violations] == ["advice"]
    if kind is Growing:
        assert read == [
            "[user]: how many pills?\n\n[assistant]: yes, ",
            "yes, ",
            "[user]: how many pills?\n\n[assistant]: yes, take two",
            "yes, take two",
        ]
