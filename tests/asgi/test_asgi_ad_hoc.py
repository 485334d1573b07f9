"""Criteria that callers bring along: made ready beside live traffic, never at its cost."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
from asgi_cases import BAD, config, proxied

from guardrail.asgi.ad_hoc import MOST_REMEMBERED, MOST_WAITING, AdHocPolicies
from guardrail.config.tenants import hash_key
from guardrail.errors import ClassifierError
from guardrail.testing import ScriptedClassifier, contains, policy
from guardrail.types import Policy

KEYS = {name: f"a-long-key-of-{name}" for name in ("loud", "quiet")}
TENANTS = {name: {"api_keys": [hash_key(key)]} for name, key in KEYS.items()}


class Slow(ScriptedClassifier):
    """Prepares while its gate is open. `asked`: whether each preparation named the policy in force."""

    def __init__(self, *script: Any) -> None:
        super().__init__(*script)
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[bool] = []
        self.named: list[list[str]] = []
        self.busy = self.most = 0
        self.failure: Exception | None = None

    async def prepare(self, policies: Sequence[Policy]) -> None:
        self.asked.append("harassment" in [policy.id for policy in policies])
        self.named.append([policy.body for policy in policies])
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            await self.gate.wait()
            if self.failure is not None:
                raise self.failure
            await super().prepare(policies)
        finally:
            self.busy -= 1


async def label(proxy: Any, criteria: str, tenant: str | None = None) -> httpx.Response:
    headers = {"authorization": f"Bearer {KEYS[tenant]}"} if tenant else {}
    body = {"content_text": "x", "criteria_text": criteria}
    response: httpx.Response = await proxy.client.post("/v1/label", json=body, headers=headers)
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


async def test_one_tenant_never_takes_the_place_of_another_ones_few() -> None:
    slow = Slow({"*": contains("forbidden")})
    async with proxied(config(tenants=TENANTS), classifier=slow) as proxy:
        await label(proxy, "Mentions of quiet rivers.", "quiet")
        for number in range(MOST_REMEMBERED + 8):
            assert (await label(proxy, f"Mentions of the number {number}.", "loud")).status_code == 200
        before = len(slow.asked)
        assert (await label(proxy, "Mentions of quiet rivers.", "quiet")).status_code == 200
        assert len(slow.asked) == before  # it is ready still, because it was named whenever another one was prepared
        assert any("quiet rivers" in body for body in slow.named[-1])
        assert len(slow.named[-1]) <= MOST_REMEMBERED + 1
        await label(proxy, "Mentions of the number 0.", "loud")
        assert len(slow.asked) == before + 1


async def test_tenants_wait_in_turns_and_only_so_many_questions_of_one_wait() -> None:
    slow = Slow({"*": contains("forbidden")})
    async with proxied(config({"deadline_ms": 30_000}, tenants=TENANTS), classifier=slow) as proxy:
        slow.gate.clear()
        order: list[str] = []

        async def ask(criteria: str, tenant: str) -> int:
            status = (await label(proxy, criteria, tenant)).status_code
            order.append(tenant)
            return status

        loud = [asyncio.create_task(ask(f"Mentions of the number {number}.", "loud")) for number in range(MOST_WAITING + 3)]
        while not any(task.done() for task in loud):  # one is being prepared, MOST_WAITING wait, two are refused
            await asyncio.sleep(0.01)
        while sum(task.done() for task in loud) < 2:
            await asyncio.sleep(0.01)
        quiet = asyncio.create_task(ask("Mentions of quiet rivers.", "quiet"))
        for _ in range(20):
            await asyncio.sleep(0.01)
        refused = [task.result() for task in loud if task.done()]
        assert refused == [429, 429]
        slow.gate.set()
        told = await asyncio.gather(*loud, quiet)
    assert sorted(told) == [200] * (MOST_WAITING + 2) + [429] * 2
    assert order.index("quiet") - order.index("loud") < 8


async def test_too_many_waiting_is_told_with_a_time_to_come_back() -> None:
    slow = Slow({"*": contains("forbidden")})
    async with proxied(config({"deadline_ms": 500}), classifier=slow) as proxy:
        slow.gate.clear()
        told = await asyncio.gather(*(label(proxy, f"Mentions of the number {number}.") for number in range(MOST_WAITING + 2)))
        refused = [response for response in told if response.status_code == 429]
        assert [(response.headers["retry-after"], response.json()["error"]["code"]) for response in refused] == [("1", "too_many_policies")]
        assert {response.status_code for response in told} == {429, 503}
        slow.gate.set()
        assert (await label(proxy, "Mentions of rivers.")).status_code == 200  # those who left hold nobody up


async def test_policies_of_one_text_are_made_ready_each_by_its_own_name() -> None:
    slow = Slow()
    ad_hoc = AdHocPolicies({"slow": slow}, lambda _: ((), 1))
    for name in ("one", "twin", "one"):
        await ad_hoc.prepare("slow", policy(name, body="same"), tenant="acme", within_s=20)
    assert [each.id for each in slow.prepared] == ["one", "twin"]
    assert len(slow.asked) == 2
    await ad_hoc.aclose()
