"""A client that leaves, whenever it does, leaves nothing running: no task, session, upstream connection or place."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from asgi_cases import CHAT, EVENTS, Proxy, config, proxied, stream

from guardrail.errors import ClassifierError
from guardrail.events import DecisionMade
from guardrail.testing import ScriptedClassifier, contains
from guardrail.types import Action, ClassifyRequest, Decision, Policy, Score, Stage, StreamMode

BODY = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()
CALM = "A calm day by the river, and then another one as calm. "
BAD = CALM + "Then something forbidden is told, and more of it."


class Sessions(ScriptedClassifier):
    """Judges with sessions, slowly enough that some judging is always under way, and counts those that are open."""

    def __init__(self) -> None:
        super().__init__({"*": contains("forbidden")}, delay_s=0.0005)
        self.open = 0

    def session(self, policies: Sequence[Policy], *, tenant: str = "*") -> "Growing":
        self.open += 1
        return Growing(self, policies)


class Growing:
    def __init__(self, owner: Sessions, policies: Sequence[Policy]) -> None:
        self._owner, self._policies, self._text, self._closed = owner, policies, "", False

    async def extend(self, text: str, *, deadline: float, final: bool = False) -> list[Score | ClassifierError]:
        self._text += text
        await asyncio.sleep(self._owner.delay_s)
        return [Score(0.9 if "forbidden" in self._text else 0.1, "s") for _ in self._policies]

    async def aclose(self) -> None:
        self._owner.open -= not self._closed
        self._closed = True


class Upstream:
    """Tells its answer in small pieces; `after` that many of them it says so. Knows how many of its answers are under way."""

    def __init__(self, text: str) -> None:
        self.events = stream(*[word + " " for word in text.split(" ")])
        self.running = 0
        self.after: tuple[int, asyncio.Event] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.running += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": list(EVENTS)})
            for number, piece in enumerate(self.events):
                if self.after is not None and self.after[0] == number:
                    self.after[1].set()
                await asyncio.sleep(0)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self.running -= 1


async def leave(app: Any, gone: asyncio.Event, frames: int | None, *, content: bytes = BODY) -> int:
    """Ask, and leave when `gone` is set, or after so many messages. How many messages there were."""
    asked = [{"type": "http.request", "body": content, "more_body": False}]
    sent = 0

    async def receive() -> dict[str, Any]:
        if asked:
            return asked.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal sent
        sent += 1
        if frames is not None and sent >= frames:
            gone.set()

    scope = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b"", "scheme": "http"}
    scope |= {"headers": [(b"content-type", b"application/json")], "client": ("127.0.0.1", 1), "server": ("guard", 80), "root_path": ""}
    await asyncio.wait_for(app(scope, receive, send), 20)
    return sent


@pytest.mark.parametrize(
    ("mode", "timing", "text"), [*((mode, "before", BAD) for mode in StreamMode), (StreamMode.OVERLAP, "parallel", CALM)]
)
async def test_wherever_a_client_leaves_nothing_is_left(mode: StreamMode, timing: str, text: str) -> None:
    route = {"path": CHAT, "timing": timing, "stream": {"mode": mode.value, "window": 20, "overlap": 5, "first_ms": 60_000}}
    upstream, classifier = Upstream(text), Sessions()
    async with proxied(config(route, server={"max_in_flight": 1}), upstream=upstream, classifier=classifier) as proxy:
        before = asyncio.all_tasks()

        def nothing_left() -> None:
            assert (classifier.open, upstream.running) == (0, 0)
            assert asyncio.all_tasks() <= before

        whole = await leave(proxy.app, asyncio.Event(), None)
        nothing_left()
        for frames in range(1, whole + 1):
            await leave(proxy.app, asyncio.Event(), frames)
            nothing_left()
        for pieces in range(len(upstream.events)):
            gone = asyncio.Event()
            upstream.after = (pieces, gone)
            await leave(proxy.app, gone, None)
            nothing_left()
        upstream.after = None
        assert (await proxy.ask(stream=True)).status_code == 200  # there is but one place


class Waiting(ScriptedClassifier):
    """Answers when it may."""

    def __init__(self) -> None:
        super().__init__({"*": contains("forbidden")})
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def classify(self, requests: Sequence[ClassifyRequest], *, deadline: float) -> list[Score | ClassifierError]:
        self.asked.set()
        await self.may_answer.wait()
        return await super().classify(requests, deadline=deadline)


class Silent:
    """An upstream that takes the prompt and never answers."""

    def __init__(self) -> None:
        self.reached, self.left = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()


def decided(proxy: Proxy, stage: Stage) -> list[Decision]:
    return [event.decision for event in proxy.sink.of(DecisionMade) if event.decision.stage is stage]


PROMPT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "something forbidden"}]}).encode()


async def test_a_prompt_that_the_upstream_has_is_judged_to_its_end_although_the_client_left() -> None:
    upstream, classifier, gone = Silent(), Waiting(), asyncio.Event()
    async with proxied(config({"timing": "parallel"}), upstream=upstream, classifier=classifier) as proxy:
        before = asyncio.all_tasks()
        asking = asyncio.create_task(leave(proxy.app, gone, None, content=PROMPT))
        await upstream.reached.wait()
        await classifier.asked.wait()
        gone.set()
        await upstream.left.wait()  # at once: only the judging goes on
        classifier.may_answer.set()
        assert await asking == 0
        assert [decision.action for decision in decided(proxy, Stage.INPUT)] == [Action.BLOCK]
        assert asyncio.all_tasks() <= before


async def test_a_prompt_that_the_upstream_has_is_recorded_as_unjudged_where_the_deadline_comes_first() -> None:
    upstream, gone = Silent(), asyncio.Event()
    classifier = ScriptedClassifier(fault="hang")
    async with proxied(config({"timing": "parallel", "deadline_ms": 50}), upstream=upstream, classifier=classifier) as proxy:
        before = asyncio.all_tasks()
        asking = asyncio.create_task(leave(proxy.app, gone, None, content=PROMPT))
        await upstream.reached.wait()
        gone.set()
        await asking
        (decision,) = decided(proxy, Stage.INPUT)
        assert decision.outcome.unjudged
        await asyncio.sleep(0)
        assert asyncio.all_tasks() <= before


async def test_a_prompt_that_nobody_had_is_not_judged_for_a_client_that_left() -> None:
    classifier, gone = Waiting(), asyncio.Event()
    async with proxied(classifier=classifier) as proxy:
        asking = asyncio.create_task(leave(proxy.app, gone, None, content=PROMPT))
        await classifier.asked.wait()
        gone.set()
        await asking
        assert decided(proxy, Stage.INPUT) == []
