"""Criteria that callers bring along: made ready beside live traffic, never at its cost."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
from asgi_cases import BAD, config, proxied

from guardrail.errors import ClassifierError
from guardrail.testing import ScriptedClassifier, contains
from guardrail.types import Policy


class Slow(ScriptedClassifier):
    """Prepares while its gate is open. `asked`: whether each preparation named the policy in force."""

    def __init__(self, *script: Any) -> None:
        super().__init__(*script)
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[bool] = []
        self.busy = self.most = 0
        self.failure: Exception | None = None

    async def prepare(self, policies: Sequence[Policy]) -> None:
        self.asked.append("harassment" in [policy.id for policy in policies])
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            await self.gate.wait()
            if self.failure is not None:
                raise self.failure
            await super().prepare(policies)
        finally:
            self.busy -= 1


async def label(proxy: Any, criteria: str) -> httpx.Response:
    response: httpx.Response = await proxy.client.post("/v1/label", json={"content_text": "x", "criteria_text": criteria})
    return response


async def test_criteria_are_made_ready_one_at_a_time_each_once_and_nobody_waits_longer_than_the_route() -> None:
    slow = Slow({"*": contains("forbidden")})
    async with proxied(config({"deadline_ms": 200}), classifier=slow) as proxy:
        slow.gate.clear()
        texts = ["Mentions of rivers.", "Mentions of rivers.", "Mentions of hills."]
        before = len(slow.asked)
        told = await asyncio.gather(*(label(proxy, text) for text in texts))
        assert [response.status_code for response in told] == [503, 503, 503]
        assert len(slow.asked) - before == 1
        assert (await proxy.client.post("/v1/guard/check", json={"text": BAD})).json()["action"] == "block"
        slow.gate.set()
        for text in texts * 2:
            assert (await label(proxy, text)).status_code == 200
        assert (len(slow.asked) - before, slow.most) == (2, 1)
        assert all(harassed for harassed in slow.asked[before:])


async def test_criteria_that_cannot_be_made_ready_block_no_others() -> None:
    slow = Slow({"*": contains("forbidden")})
    async with proxied(classifier=slow) as proxy:
        slow.failure = ClassifierError("too_long", "x")
        assert (await label(proxy, "Mentions of rivers.")).status_code == 503
        slow.failure = None
        assert (await label(proxy, "Mentions of rivers.")).status_code == 200


async def test_only_so_many_criteria_are_remembered() -> None:
    slow = Slow({"*": contains("forbidden")})
    async with proxied(classifier=slow) as proxy:
        before = len(slow.asked)
        for number in [*range(65), 0]:
            await label(proxy, f"Mentions of the number {number}.")
        assert len(slow.asked) - before == 66


async def test_a_guard_that_ends_waits_for_no_criteria() -> None:
    slow = Slow({"*": contains("forbidden")})
    async with proxied(config({"deadline_ms": 100}), classifier=slow) as proxy:
        slow.gate.clear()
        assert (await label(proxy, "Mentions of rivers.")).status_code == 503
    assert slow.busy == 0
