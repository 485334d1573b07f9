"""`judge_with: prompt`: an answer is judged with what the user said last, and what is found is told of the answer."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from guardrail.context import MOST, context_for, opening, shown, within
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


def test_a_long_prompt_is_cut_at_its_beginning() -> None:
    found = context_for(WITH, Stage.OUTPUT, "x" * 5_000 + "end")
    assert found is not None
    assert found.endswith("end")
    assert len(found) <= MOST + 2


@pytest.mark.parametrize(
    ("asked", "stage", "said"),
    [(WITHOUT, Stage.OUTPUT, "a"), (WITH, Stage.INPUT, "a"), (WITH, Stage.OUTPUT, None), (WITH, Stage.OUTPUT, " \n")],
)
def test_only_answers_under_policies_that_ask_for_it_are_judged_with_it(asked: Policy, stage: Stage, said: str | None) -> None:
    assert context_for(asked, stage, said) is None


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
