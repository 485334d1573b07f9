"""Group 10: whatever fails, nothing passes because of it, and it shows."""

import asyncio
import math
import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from asgi_cases import BAD, CHAT, EVENTS, POLICIES, Answering, completion, config, proxied, stream

from guardrail.asgi import canaries
from guardrail.assembly import CANARY_BENIGN, CANARY_VIOLATING, open_guard, shipped_canary
from guardrail.errors import ClassifierError
from guardrail.events import DecisionMade, PoliciesPublished, PoliciesRefused
from guardrail.testing import ScriptedClassifier

FAULTS: dict[str, Any] = {
    "error 500": ClassifierError("server_error", "status 500"),
    "defect": RuntimeError("a defect"),
    "hangs": "hang",
    "NaN": "not_a_number",
    "an answer missing": "short",
}
GARBAGE: dict[str, Any] = {"infinity": math.inf, "minus one": -1.0, "two": 2.0, "a word": "safe", "nothing": None, "a list": [0.0]}
FAST = {"deadline_ms": 50}


async def until(true: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if true():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not become true within 20 s")


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_broken_classifier_blocks_the_prompt(fault: str) -> None:
    upstream = Answering([completion("fine")])
    async with proxied(config(FAST), upstream=upstream, classifier=ScriptedClassifier(fault=FAULTS[fault])) as proxy:
        answer = await proxy.ask()
        assert (answer.status_code, answer.json()["error"]["code"], upstream.bodies) == (503, "guardrail_unavailable", [])
        assert answer.headers["x-should-retry"] == "false"
        (event,) = proxy.sink.of(DecisionMade)
        assert event.decision.outcome.unjudged


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_a_garbled_score_is_never_a_low_one(garbage: str) -> None:
    upstream = Answering([completion("fine")])
    async with proxied(upstream=upstream, classifier=ScriptedClassifier({"*": lambda _: GARBAGE[garbage]})) as proxy:
        assert (await proxy.ask()).status_code == 503
        assert upstream.bodies == []


@pytest.mark.parametrize("mode", ["hold", "window", "overlap"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_classifier_that_breaks_after_the_prompt_withholds_the_answer(fault: str, mode: str) -> None:
    class Breaking(ScriptedClassifier):
        async def classify(self, requests: Any, *, deadline: float) -> Any:
            self.fault = FAULTS[fault] if any("secret answer" in request.text for request in requests) else None
            return await super().classify(requests, deadline=deadline)

    settings = config({"path": CHAT, "stream": {"mode": mode}, **FAST})
    async with proxied(settings, upstream=Answering(stream("secret answer"), headers=EVENTS), classifier=Breaking()) as proxy:
        answer = await proxy.ask(stream=True)
        assert "secret" not in answer.text
        assert "guardrail_unavailable" in answer.text


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
async def test_a_constant_score_fails_readiness(score: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "RETRY_S", 0.02)
    classifier = ScriptedClassifier({"*": score})
    classifier.canary = shipped_canary()  # type: ignore[attr-defined]
    async with proxied(classifier=classifier) as proxy:
        ready = await proxy.client.get("/readyz")
        assert (ready.status_code, ready.json()["classifiers"]["embedded"]["ok"]) == (503, False)
        classifier._script["*"] = lambda text: float(text == CANARY_VIOLATING)
        status = 503
        for _ in range(500):
            status = (await proxy.client.get("/readyz")).status_code
            if status == 200:
                break
            await asyncio.sleep(0.02)
        assert status == 200
        assert CANARY_BENIGN in {request.text for request in classifier.requests}


async def test_the_known_pair_is_never_answered_from_memory() -> None:
    classifier = ScriptedClassifier({"*": lambda text: float(text == CANARY_VIOLATING)})
    classifier.canary = canary = shipped_canary()  # type: ignore[attr-defined]
    async with open_guard(config(), classifiers={"embedded": classifier}) as guard:
        assert guard.canaries is not None
        for _ in range(2):
            for text in (CANARY_VIOLATING, CANARY_BENIGN):
                await guard.check(text, policies=[canary.policy])
        asked = len(classifier.requests)
        assert asked == 4  # the pair at the start, and each text once as traffic
        classifier.fault = "not_a_number"
        await guard.canaries.ask()
        assert len(classifier.requests) == asked + 2
        assert not guard.canaries.ok


async def test_a_full_house_refuses_and_recovers() -> None:
    upstream = Answering([completion("fine")])
    async with proxied(config(server={"max_in_flight": 1}), upstream=upstream, classifier=ScriptedClassifier(delay_s=0.1)) as proxy:
        answers = await asyncio.gather(*(proxy.ask(f"question {number}") for number in range(4)))
        assert sorted(answer.status_code for answer in answers) == [200, 503, 503, 503]
        assert len(upstream.bodies) == 1
        assert (await proxy.ask()).status_code == 200


async def test_a_classifiers_full_queue_is_unjudged_never_a_pass() -> None:
    upstream = Answering([completion("fine")])
    full = ScriptedClassifier(fault=ClassifierError("overloaded", "the queue is full"))
    async with proxied(upstream=upstream, classifier=full) as proxy:
        assert (await proxy.ask()).status_code == 503
        assert upstream.bodies == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(Path(POLICIES["folder"]) / "harassment.md", tmp_path)
    return tmp_path


async def test_a_policy_file_that_becomes_invalid_keeps_the_old_one_and_alarms(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with proxied(config(policies={"folder": str(folder), "shipped": False})) as proxy:
        (folder / "harassment.md").write_text("not a policy")
        await until(lambda: bool(proxy.sink.of(PoliciesRefused)))
        assert (await proxy.ask(BAD)).status_code == 400
        ready = (await proxy.client.get("/readyz")).json()
        assert (ready["refused"], ready["generation"]) == (True, 1)
        assert any(record.levelname == "ERROR" and "refused" in record.getMessage() for record in caplog.records)


async def test_two_workers_come_to_the_same_policies_and_say_which(folder: Path) -> None:
    settings = config(policies={"folder": str(folder), "shipped": False})
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(proxied(settings, upstream=Answering([completion("fine")]))) for _ in range(2)]
        assert {(await worker.ask(BAD)).status_code for worker in workers} == {400}
        file = folder / "harassment.md"
        file.write_text(file.read_text().replace("threshold: 0.5", "threshold: 0.99", 1))
        await until(lambda: all(len(worker.sink.of(PoliciesPublished)) == 2 for worker in workers))
        assert {(await worker.ask(BAD)).status_code for worker in workers} == {200}
        assert {(await worker.client.get("/readyz")).json()["generation"] for worker in workers} == {2}
        told = {(await worker.ask()).headers["x-guardrail-policy-version"] for worker in workers}
        assert told == {(await worker.client.get("/readyz")).json()["policy_set"] for worker in workers}
        assert len(told) == 1
