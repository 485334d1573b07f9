"""The public fakes do what they say through the real guard."""

import asyncio

import pytest

from guardrail.errors import ClassifierError
from guardrail.guard import Guard
from guardrail.testing import ScriptedClassifier, contains, policy, route
from guardrail.types import Action


async def test_a_rule_scores_the_policy_it_is_written_for() -> None:
    classifier = ScriptedClassifier({"violence": contains("attack"), "*": {"exactly this": 0.8}})
    guard = Guard({"scripted": classifier})
    decision = await guard.check("An ATTACK", route=route(policy("violence"), policy("harassment")))
    assert [verdict.policy_id for verdict in decision.violations] == ["violence"]
    assert (await guard.check("exactly this", route=route(policy("harassment")))).action is Action.BLOCK
    assert (await guard.check("something else", route=route(policy("harassment")))).action is Action.PASS
    assert [request.text for request in classifier.requests] == ["An ATTACK", "An ATTACK", "exactly this", "something else"]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (RuntimeError("boom"), "crash"),
        (ClassifierError("overloaded", "full"), "overloaded"),
        ("hang", "timeout"),
        ("short", "malformed"),
        ("not_a_number", "not_a_number"),
    ],
)
async def test_each_fault_becomes_an_error_verdict(fault: object, error: str) -> None:
    classifier = ScriptedClassifier(fault=fault)  # type: ignore[arg-type]
    decision = await Guard({"scripted": classifier}).check("text", route=route(policy(), deadline_s=0.05))
    assert [verdict.error for verdict in decision.verdicts] == [error]
    assert decision.outcome.unavailable
    await asyncio.sleep(0)  # the guard does not wait for the cancellation to be delivered
    assert classifier.cancelled == (1 if fault == "hang" else 0)
