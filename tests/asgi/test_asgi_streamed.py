"""A streamed answer that is let out while it is judged, from its bytes to the client's."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from asgi_cases import CHAT, EVENTS, Answering, completion, config, proxied

from guardrail.asgi import GuardMiddleware
from guardrail.asgi.streamed import StreamedAnswer, UnjudgedError, Ways
from guardrail.assembly import open_guard
from guardrail.errors import UpstreamError
from guardrail.events import DecisionMade, EventFanout
from guardrail.guard import Guard, Origin, Turn
from guardrail.guard_stream import AnswerJudge
from guardrail.testing import RecordingSink, ScriptedClassifier, contains, policy, route
from guardrail.types import Action, Check, Decision, Fallback, Stage, Streaming, StreamMode
from guardrail.wire.chat_release import ChatRelease

HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
LIVE = [StreamMode.WINDOW, StreamMode.OVERLAP, StreamMode.WATCH]
CALM = "The garden is calm today and the river runs slowly past the old mill."


def event(index: int = 0, reason: str | None = None, **fields: Any) -> bytes:
    return b"data: " + json.dumps({**HEAD, "choices": [{"index": index, "delta": fields, "finish_reason": reason}]}).encode() + b"\n\n"


def told(*texts: str, reason: str = "stop") -> list[bytes]:
    return [event(role="assistant"), *(event(content=text) for text in texts), event(reason=reason), b"data: [DONE]\n\n"]


class Reader:
    """What the client has."""

    def __init__(self) -> None:
        self.content = b""
        self.pieces = 0

    async def write(self, content: bytes) -> None:
        self.content += content
        self.pieces += 1

    @property
    def choices(self) -> list[dict[str, Any]]:
        lines = [line[6:] for line in self.content.decode().split("\n\n") if line.startswith("data: {")]
        return [choice for line in lines for choice in json.loads(line)["choices"]]

    def text(self, index: int = 0) -> str:
        return "".join(choice["delta"].get("content") or "" for choice in self.choices if choice["index"] == index)

    def end(self, index: int = 0) -> dict[str, Any]:
        (end,) = [choice for choice in self.choices if choice["index"] == index and choice["finish_reason"]]
        return end


def answer(
    mode: StreamMode, reader: Reader, classifier: ScriptedClassifier | None = None, *, choices: int = 1, overlap: int = 10, **changes: Any
) -> StreamedAnswer:
    classifier = classifier or ScriptedClassifier({"violence": contains("attack")})
    sinks = [changes.pop("sink")] if "sink" in changes else []
    under = route(Check(policy("violence"), 0.5, changes.pop("action", Action.BLOCK)), **changes)
    judge = AnswerJudge(Guard({"scripted": classifier}, EventFanout(sinks)), Turn(under, Stage.OUTPUT, "acme", Origin(), time.monotonic()))
    ways = Ways(reader.write, "Withheld.", choices, under.unscannable)
    return StreamedAnswer(Streaming(mode, 20, overlap, 0.05), judge, ChatRelease(), ways)


async def play(streamed: StreamedAnswer, events: Sequence[bytes]) -> Decision:
    try:
        for piece in events:
            await streamed.receive(piece)
            await asyncio.sleep(0)
            if streamed.over:
                break
        decision = await streamed.finish()
        await streamed.let_out()
        return decision
    finally:
        await streamed.aclose()


def words(text: str) -> list[str]:
    return [word + " " for word in text.split(" ")]


@pytest.mark.parametrize("mode", LIVE)
async def test_an_answer_that_may_pass_comes_out_whole_and_in_pieces(mode: StreamMode) -> None:
    reader = Reader()
    decision = await play(answer(mode, reader), told(*words(CALM)))
    assert reader.text() == CALM + " "
    assert reader.pieces > 3
    assert reader.end()["finish_reason"] == "stop"
    assert reader.content.endswith(b"data: [DONE]\n\n")
    assert decision.action is Action.PASS


@pytest.mark.parametrize("mode", LIVE)
async def test_a_block_ends_the_stream_and_says_how_much_is_out(mode: StreamMode) -> None:
    reader = Reader()
    decision = await play(answer(mode, reader), told(*words(CALM + " Now the attack begins and nothing else is to be read here.")))
    end = reader.end()
    out = end["released_chars"]
    assert end["finish_reason"] == "content_filter"
    assert end["content_filter_results"]["violence"]["filtered"]
    assert reader.text()[:out] == reader.text() == f"{CALM} Now the attack begins and nothing else is to be read here."[:out]
    assert "attack" not in reader.text() or mode is StreamMode.WATCH
    assert out > 20
    assert reader.content.endswith(b"data: [DONE]\n\n")
    assert decision.action is Action.BLOCK


@pytest.mark.parametrize("mode", LIVE)
async def test_a_block_before_anything_is_out_says_the_notice(mode: StreamMode) -> None:
    reader = Reader()
    await play(answer(mode, reader), told("An attack."))
    if mode is not StreamMode.WATCH:
        assert (reader.text(), reader.end()["released_chars"]) == ("Withheld.", 0)
    assert reader.end()["finish_reason"] == "content_filter"


@pytest.mark.parametrize("mode", LIVE)
async def test_a_tool_call_that_violates_never_comes_out(mode: StreamMode) -> None:
    reader = Reader()
    call = {"index": 0, "id": "t", "type": "function", "function": {"name": "run", "arguments": '{"do": '}}
    more = {"index": 0, "function": {"arguments": '"attack"}'}}
    events = [
        event(content="Let us see."),
        event(tool_calls=[call]),
        event(tool_calls=[more]),
        event(reason="tool_calls"),
        b"data: [DONE]\n\n",
    ]
    await play(answer(mode, reader), events)
    assert b"tool_calls" not in reader.content
    assert reader.end()["finish_reason"] == "content_filter"
    passed = Reader()
    await play(answer(mode, passed, ScriptedClassifier()), events)
    assert passed.content.count(b"arguments") == 2
    assert passed.end()["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("mode", LIVE)
async def test_one_bad_choice_leaves_the_others(mode: StreamMode) -> None:
    reader = Reader()
    events = [event(0, content="A calm "), event(1, content="An attack"), event(0, content="day."), event(1, " stop"), event(0, "stop")]
    await play(answer(mode, reader, choices=2), [*events, b"data: [DONE]\n\n"])
    assert (reader.text(0), reader.end(0)["finish_reason"]) == ("A calm day.", "stop")
    assert reader.end(1)["finish_reason"] == "content_filter"


@pytest.mark.parametrize("mode", LIVE)
@pytest.mark.parametrize("fields", [{"content": "An attack"}, {"tool_calls": []}])
async def test_a_choice_that_nobody_asked_for_is_no_answer_and_stands_for_none(mode: StreamMode, fields: dict[str, Any]) -> None:
    reader = Reader()
    events = [event(0, content="A calm "), event(1, "stop", **fields), event(0, content="day and"), event(0, "stop"), b"data: [DONE]\n\n"]
    with pytest.raises(UpstreamError, match="more choices"):
        await play(answer(mode, reader), events)
    assert [choice for choice in reader.choices if choice["index"] != 0] == []


async def test_nothing_is_judged_or_written_once_an_answer_is_concluded() -> None:
    class Stalling(ScriptedClassifier):
        async def classify(self, requests: Any, *, deadline: float) -> Any:
            if any("river" in request.text for request in requests):
                await asyncio.Event().wait()
            return await super().classify(requests, deadline=deadline)

    class Slow(Reader):
        async def write(self, content: bytes) -> None:
            await asyncio.sleep(0.02 if b"content_filter" in content else 0)
            await super().write(content)

    reader = Slow()
    streamed = answer(StreamMode.OVERLAP, reader, Stalling({"violence": contains("attack")}))
    before = asyncio.all_tasks()
    await streamed.receive(event(content="The garden is calm today. "))
    while not reader.content:
        await asyncio.sleep(0)
    await streamed.receive(event(reasoning_content="The river runs slowly past the old mill. "))
    await streamed.receive(event(content="The attack begins and nothing of it is to be read. "))
    while not streamed.over:
        await asyncio.sleep(0)
    decision = await asyncio.wait_for(streamed.finish(), 5)
    assert decision.action is Action.BLOCK
    assert asyncio.all_tasks() <= before
    assert reader.end()["finish_reason"] == "content_filter"
    assert reader.content.endswith(b"data: [DONE]\n\n")
    await streamed.aclose()


@pytest.mark.parametrize("mode", LIVE)
async def test_what_cannot_be_judged_ends_the_answer_unless_the_route_lets_it_pass(mode: StreamMode) -> None:
    reader = Reader()
    with pytest.raises(UnjudgedError):
        await play(answer(mode, reader, ScriptedClassifier(fault="hang"), deadline_s=0.02), told(*words(CALM)))
    assert reader.text() == "" or mode is StreamMode.WATCH
    passed = Reader()
    decision = await play(answer(mode, passed, ScriptedClassifier(fault="hang"), deadline_s=0.02, on_error=Fallback.PASS), told("Hi there"))
    assert (passed.text(), decision.outcome.unjudged) == ("Hi there", True)


@pytest.mark.parametrize("mode", LIVE)
async def test_a_part_that_cannot_be_read_blocks_its_choice(mode: StreamMode) -> None:
    reader = Reader()
    events = [event(content="Hi "), event(audio={"id": "a", "data": "AAAA"}), event(reason="stop"), b"data: [DONE]\n\n"]
    decision = await play(answer(mode, reader), events)
    assert reader.end()["finish_reason"] == "content_filter"
    assert b"AAAA" not in reader.content
    assert decision.unscannable


async def test_the_first_window_is_judged_although_the_upstream_is_slow() -> None:
    reader = Reader()
    streamed = answer(StreamMode.OVERLAP, reader, overlap=2)
    await streamed.receive(event(content="one two three "))
    assert reader.text() == ""
    await asyncio.sleep(0.3)
    assert reader.text().startswith("one two ")
    await streamed.aclose()


@pytest.mark.parametrize("mode", LIVE)
async def test_nothing_is_left_running_when_the_answer_breaks_off(mode: StreamMode) -> None:
    classifier = ScriptedClassifier(fault="hang")
    streamed = answer(mode, Reader(), classifier, deadline_s=0.05)
    receiving = asyncio.create_task(streamed.receive(b"".join(told(*words(CALM))[:-2])))
    await asyncio.sleep(0.02)
    receiving.cancel()
    before = asyncio.all_tasks() - {asyncio.current_task(), receiving}
    await streamed.aclose()
    assert before
    assert asyncio.all_tasks() - {asyncio.current_task(), receiving} == set()
    assert classifier.cancelled >= 1


async def test_what_is_out_is_recorded_as_unjudged_where_even_the_judging_of_what_broke_off_is_stopped() -> None:
    classifier, sink = ScriptedClassifier({"violence": contains("attack")}), RecordingSink()
    before = asyncio.all_tasks()
    streamed = answer(StreamMode.WATCH, Reader(), classifier, sink=sink)
    await streamed.receive(b"".join(told(*words(CALM))[:-2]))
    classifier.fault = "hang"
    closing = asyncio.create_task(streamed.aclose())
    while all(request.text != CALM + " " for request in classifier.requests):
        await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    (event,) = sink.of(DecisionMade)
    assert [part.text for part in event.parts] == [CALM + " "]
    assert [verdict.error for verdict in event.decision.verdicts] == ["abandoned"]
    assert await streamed.aclose() is None
    assert len(sink.of(DecisionMade)) == 1
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before


async def test_what_was_found_in_the_beginning_stays_found_where_the_rest_is_not_judged() -> None:
    """On a route that only annotates."""
    before = asyncio.all_tasks()
    classifier, sink = ScriptedClassifier({"violence": contains("attack")}), RecordingSink()
    streamed = answer(StreamMode.WATCH, Reader(), classifier, sink=sink, action=Action.ANNOTATE)
    await streamed.receive(event(content="The attack begins, and that is found out. "))
    while asyncio.all_tasks() - before:
        await asyncio.sleep(0)
    classifier.fault = "hang"
    await streamed.receive(event(content="More"))
    closing = asyncio.create_task(streamed.aclose())
    while classifier.batches < 2:
        await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    (made,) = sink.of(DecisionMade)
    assert [part.text for part in made.parts] == ["The attack begins, and that is found out. More"]
    assert made.decision.action is Action.ANNOTATE
    assert [verdict.violation for verdict in made.decision.verdicts] == [True]


async def test_a_stream_that_ends_too_soon_is_an_error_and_what_is_left_stays_in() -> None:
    reader = Reader()
    with pytest.raises(UpstreamError, match="finish_reason"):
        await play(answer(StreamMode.WINDOW, reader), told(*words(CALM))[:-2])
    assert CALM.startswith(reader.text())
    assert len(reader.text()) < len(CALM)


@pytest.mark.parametrize("text", [CALM, "The attack", "A calm day, then the attack " + CALM])
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_every_mode_decides_as_the_answer_sent_whole(text: str, size: int) -> None:
    events = told(*(text[start : start + size] for start in range(0, len(text), size)))
    for mode in LIVE:
        decision = await play(answer(mode, Reader()), events)
        assert (decision.action is Action.BLOCK) == ("attack" in text)


def live(mode: StreamMode, **more: Any) -> Any:
    return config({"path": CHAT, "stream": {"mode": mode.value, "window": 20, "overlap": 10, "first_ms": 60_000}, **more})


def reading(content: bytes) -> Reader:
    reader = Reader()
    reader.content = content
    return reader


@pytest.mark.parametrize("mode", StreamMode)
async def test_a_client_gets_an_answer_that_may_pass_and_its_decision_is_told_once(mode: StreamMode) -> None:
    async with proxied(live(mode), upstream=Answering(told(*words(CALM)), headers=EVENTS)) as proxy:
        answered = await proxy.ask(stream=True)
        assert answered.status_code == 200
        assert reading(answered.content).text() == CALM + " "
        outputs = [event for event in proxy.sink.of(DecisionMade) if event.decision.stage is Stage.OUTPUT]
        assert [event.decision.action for event in outputs] == [Action.PASS]
        assert [part.text for part in outputs[0].parts] == [CALM + " "]


@pytest.mark.parametrize("mode", StreamMode)
@pytest.mark.parametrize("timing", ["before", "parallel"])
async def test_a_client_gets_the_end_that_a_block_has(mode: StreamMode, timing: str) -> None:
    bad = CALM + " Now something forbidden is told and nothing of it should be read, nor what comes after it."
    async with proxied(live(mode, timing=timing), upstream=Answering(told(*words(bad)), headers=EVENTS)) as proxy:
        reader = reading((await proxy.ask(stream=True)).content)
        assert reader.end()["finish_reason"] == "content_filter"
        assert "forbidden" not in reader.text() or mode is StreamMode.WATCH
        assert ("released_chars" in reader.end()) == (mode is not StreamMode.HOLD)
        assert proxy.sink.of(DecisionMade)[-1].decision.action is Action.BLOCK


@pytest.mark.parametrize("mode", LIVE)
async def test_the_upstream_is_closed_when_nothing_more_can_come_out(mode: StreamMode) -> None:
    closed = asyncio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(EVENTS)})
        try:
            while True:
                await send({"type": "http.response.body", "body": event(content="something forbidden and more "), "more_body": True})
                await asyncio.sleep(0.001)
        finally:
            closed.set()

    async with proxied(live(mode), upstream=endless) as proxy:
        reader = reading((await proxy.ask(stream=True)).content)
        assert reader.end()["finish_reason"] == "content_filter"
        assert reader.content.endswith(b"data: [DONE]\n\n")
        await asyncio.wait_for(closed.wait(), 5)


@pytest.mark.parametrize("mode", LIVE)
@pytest.mark.parametrize("timing", ["before", "parallel"])
async def test_a_block_does_not_wait_for_the_upstreams_next_chunk(mode: StreamMode, timing: str) -> None:
    closed = asyncio.Event()

    async def stalling(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(EVENTS)})
        try:
            for word in words("Something forbidden is told here, and then nothing comes for a long while."):
                await send({"type": "http.response.body", "body": event(content=word), "more_body": True})
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with proxied(live(mode, timing=timing), upstream=stalling) as proxy:
        before = asyncio.all_tasks()
        reader = reading((await asyncio.wait_for(proxy.ask(stream=True), 20)).content)
        assert reader.end()["finish_reason"] == "content_filter"
        assert reader.content.endswith(b"data: [DONE]\n\n")
        assert closed.is_set()
        assert asyncio.all_tasks() <= before
        assert proxy.sink.of(DecisionMade)[-1].decision.action is Action.BLOCK


async def test_what_cannot_be_judged_does_not_wait_for_the_upstream_either() -> None:
    async def stalling(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(EVENTS)})
        await send({"type": "http.response.body", "body": event(content=CALM), "more_body": True})
        await asyncio.Event().wait()

    settings = live(StreamMode.OVERLAP, deadline_ms=30, input={"policies": []})
    async with proxied(settings, upstream=stalling) as proxy:
        proxy.classifier.fault = "hang"
        answered = await asyncio.wait_for(proxy.ask(stream=True), 20)
        assert answered.status_code == 503
        proxy.classifier.fault = None


@pytest.mark.parametrize("mode", LIVE)
async def test_an_answer_that_cannot_be_judged_is_withheld(mode: StreamMode) -> None:
    settings = live(mode, deadline_ms=30, input={"policies": []})
    async with proxied(settings, upstream=Answering(told(*words(CALM)), headers=EVENTS)) as proxy:
        proxy.classifier.fault = "hang"
        answered = await proxy.ask(stream=True)
        assert (answered.status_code == 503) == (mode is not StreamMode.WATCH)
        assert b"guardrail_unavailable" in answered.content
        assert b"[DONE]" not in answered.content
        proxy.classifier.fault = None


async def test_an_upstream_that_breaks_off_is_told_and_nothing_unjudged_follows() -> None:
    async with proxied(live(StreamMode.WINDOW), upstream=Answering(told(*words(CALM))[:-2], headers=EVENTS)) as proxy:
        content = (await proxy.ask(stream=True)).content
        assert b"upstream_error" in content
        assert CALM.startswith(reading(content.rpartition(b"data: ")[0]).text())


async def test_a_whole_answer_is_held_under_every_mode() -> None:
    async with proxied(live(StreamMode.WATCH), upstream=Answering([completion("something forbidden")])) as proxy:
        assert (await proxy.ask()).json()["choices"][0]["finish_reason"] == "content_filter"


@pytest.mark.parametrize("mode", LIVE)
@pytest.mark.parametrize("sends", [1, 2, 4])
async def test_a_client_that_leaves_ends_upstream_and_judging(mode: StreamMode, sends: int) -> None:
    """After the head, the first text, or later: however much it has."""
    closed, gone, sent = asyncio.Event(), asyncio.Event(), []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(EVENTS)})
        try:
            while True:
                await send({"type": "http.response.body", "body": event(content="calm words and more "), "more_body": True})
                await asyncio.sleep(0.001)
        finally:
            closed.set()

    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()
    asked = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if asked:
            return asked.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if len(sent) >= sends:
            gone.set()

    async with proxied(live(mode), upstream=endless) as proxy:
        before = asyncio.all_tasks()
        scope = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b"", "scheme": "http"}
        scope |= {"headers": [(b"content-type", b"application/json")], "client": ("127.0.0.1", 1), "server": ("guard", 80), "root_path": ""}
        await asyncio.wait_for(proxy.app(scope, receive, send), 10)
        await asyncio.wait_for(closed.wait(), 5)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() <= before


@pytest.mark.parametrize("mode", LIVE)
async def test_an_app_behind_the_middleware_is_told_that_nobody_listens_once_its_answer_is_cut_off(mode: StreamMode) -> None:
    told = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": list(EVENTS)})
        for word in words("Something forbidden is told here, and then nothing comes for a long while."):
            await send({"type": "http.response.body", "body": event(content=word), "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        told.set()

    guard = open_guard(live(mode, input={"policies": []}), classifiers={"embedded": ScriptedClassifier({"*": contains("forbidden")})})
    async with guard, httpx.AsyncClient(transport=httpx.ASGITransport(GuardMiddleware(app, guard)), base_url="http://app") as client:
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        reader = reading((await asyncio.wait_for(client.post(CHAT, json=body), 20)).content)
    assert told.is_set()
    assert reader.end()["finish_reason"] == "content_filter"
