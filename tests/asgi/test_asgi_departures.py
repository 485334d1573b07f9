"""A client that leaves, whenever it does, leaves nothing running: no task, session, upstream connection or place."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from asgi_cases import CHAT, EVENTS, Answering, Proxy, config, proxied, stream

from guardrail.errors import ClassifierError, UpstreamError
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


async def leave(app: Any, gone: asyncio.Event, frames: int | None, *, content: bytes = BODY, got: list[bytes] | None = None) -> int:
    """Ask, and leave when `gone` is set, or after so many messages. How many messages there were; what was in them goes to `got`."""
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
        if got is not None:
            got.append(message.get("body", b""))
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


def read(got: list[bytes]) -> str:
    """The text that a client has."""
    events = [json.loads(line[6:]) for line in b"".join(got).decode().split("\n\n") if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event.get("choices", ()))


class Stalling:
    """An upstream that says this much of its answer, in these pieces of bytes, and nothing more. It waits where a piece is an event."""

    def __init__(self, *pieces: bytes | asyncio.Event) -> None:
        self.pieces = pieces
        self.stalls = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(EVENTS)})
        for piece in self.pieces:
            if isinstance(piece, asyncio.Event):
                await piece.wait()
            else:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        self.stalls.set()
        await asyncio.Event().wait()


SHADOW = {"mode": "shadow"}
"""A route that only watches answers."""


def watching(**more: Any) -> dict[str, Any]:
    return {"path": CHAT, "input": {"policies": []}, "stream": {"mode": "watch", "first_ms": 60_000}, **more}


@pytest.mark.parametrize("route", [watching(), watching() | SHADOW], ids=["watch", "shadow"])
async def test_what_a_client_has_is_judged_and_recorded_although_it_left(route: dict[str, Any]) -> None:
    upstream, got = Stalling(*stream("Now something ", "forbidden is told")[:-2]), []
    async with proxied(config(route), upstream=upstream) as proxy:
        before = asyncio.all_tasks()
        await leave(proxy.app, upstream.stalls, None, got=got)
        assert read(got) == "Now something forbidden is told"
        (event,) = proxy.sink.of(DecisionMade)
        assert [part.text for part in event.parts] == [read(got)]
        assert event.decision.outcome.shadow is Action.BLOCK
        assert not event.decision.outcome.unjudged
        assert asyncio.all_tasks() <= before


async def test_a_record_of_what_a_client_has_covers_what_came_behind_the_last_check() -> None:
    judged, got = asyncio.Event(), []

    class Telling(ScriptedClassifier):
        async def classify(self, requests: Sequence[ClassifyRequest], *, deadline: float) -> list[Score | ClassifierError]:
            asyncio.get_running_loop().call_later(0.05, judged.set)
            return await super().classify(requests, deadline=deadline)

    first, *rest = stream("The garden is calm. ", "Now something ", "forbidden is told")[1:-2]
    upstream = Stalling(first, judged, *rest)
    route = watching(stream={"mode": "watch", "first_ms": 20})
    async with proxied(config(route), upstream=upstream, classifier=Telling({"*": contains("forbidden")})) as proxy:
        await leave(proxy.app, upstream.stalls, None, got=got)
        (event,) = proxy.sink.of(DecisionMade)
        assert [part.text for part in event.parts] == ["The garden is calm. Now something forbidden is told"] == [read(got)]
        assert event.decision.action is Action.BLOCK


@pytest.mark.parametrize("route", [watching(), watching() | SHADOW], ids=["watch", "shadow"])
async def test_what_a_client_has_is_recorded_as_unjudged_where_the_deadline_comes_first(route: dict[str, Any]) -> None:
    upstream = Stalling(*stream("Now something ", "forbidden is told")[:-2])
    async with proxied(config(route | {"deadline_ms": 50}), upstream=upstream, classifier=ScriptedClassifier(fault="hang")) as proxy:
        before = asyncio.all_tasks()
        await leave(proxy.app, upstream.stalls, None)
        (event,) = proxy.sink.of(DecisionMade)
        assert [part.text for part in event.parts] == ["Now something forbidden is told"]
        assert event.decision.outcome.unjudged
        await asyncio.sleep(0)
        assert asyncio.all_tasks() <= before


async def test_what_cannot_be_read_of_an_answer_that_is_only_watched_is_recorded_as_unjudged() -> None:
    head, first, second = stream("A calm day. ", "Now something forbidden")[:3]
    upstream, got = Stalling(head, first, second[:-9]), []
    async with proxied(config(watching() | SHADOW), upstream=upstream) as proxy:
        await leave(proxy.app, upstream.stalls, None, got=got)
        assert b"forbidden" in b"".join(got)
        (event,) = proxy.sink.of(DecisionMade)
        assert [part.text for part in event.parts] == ["A calm day. ", None]
        assert event.decision.outcome.unjudged


@pytest.mark.parametrize("route", [watching(), watching() | SHADOW], ids=["watch", "shadow"])
async def test_what_a_client_has_of_an_answer_that_broke_off_is_judged_and_recorded(route: dict[str, Any]) -> None:
    upstream = Answering(stream("Now something ", "forbidden is told")[:-2], headers=EVENTS, error=UpstreamError("timeout", "slow"))
    async with proxied(config(route), upstream=upstream) as proxy:
        assert b"upstream_error" in (await proxy.ask(stream=True)).content
        (event,) = proxy.sink.of(DecisionMade)
        assert [part.text for part in event.parts] == ["Now something forbidden is told"]
        assert event.decision.outcome.shadow is Action.BLOCK


@pytest.mark.parametrize("mode", [*StreamMode, "shadow"])
async def test_wherever_a_client_leaves_the_record_holds_all_that_it_has(mode: str) -> None:
    settings = {"mode": "watch" if mode == "shadow" else mode, "window": 20, "overlap": 5, "first_ms": 60_000}
    route = watching(stream=settings) | (SHADOW if mode == "shadow" else {})
    async with proxied(config(route), upstream=Upstream(BAD), classifier=Sessions()) as proxy:
        whole = await leave(proxy.app, asyncio.Event(), None)
        for frames in range(1, whole + 1):
            proxy.sink.events.clear()
            got: list[bytes] = []
            await leave(proxy.app, asyncio.Event(), frames, got=got)
            events = proxy.sink.of(DecisionMade)
            recorded = "".join(part.text or "" for event in events for part in event.parts)
            decision = events[0].decision if events else None
            cut = decision is not None and decision.action is Action.BLOCK
            assert len(events) == 1 or not read(got)
            assert recorded.startswith(read(got)) or cut, (frames, read(got), recorded)
            assert decision is None or (decision.outcome.shadow is Action.BLOCK) == ("forbidden" in recorded)
