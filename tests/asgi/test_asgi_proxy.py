"""What a client of the proxy sees, by the bytes."""

import asyncio
import json

import httpx
import pytest
from asgi_cases import BAD, BODY, CHAT, EVENTS, HI, Answering, Proxy, completion, config, proxied, stream

from guardrail.events import DecisionMade, RequestRefused
from guardrail.testing import ScriptedClassifier, contains
from guardrail.upstream.embedded import EmbeddedUpstream


def decisions(proxy: Proxy) -> list[str]:
    return [f"{event.decision.stage}:{event.decision.action.word}" for event in proxy.sink.of(DecisionMade)]


async def test_an_allowed_exchange_reaches_the_upstream_once_and_passes_byte_for_byte() -> None:
    answer = completion("Fine, thank you.", usage={"prompt_tokens": 3}, unknown={"kept": [1, 2]})
    upstream = Answering([answer[:20], answer[20:]])
    sent = b'{"model":"m",  "messages":[{"role":"user","content":"How are you?"}], "seed": 7}'
    async with proxied(upstream=upstream) as proxy:
        response = await proxy.client.post(CHAT, content=sent, headers={"content-type": "application/json"})
        assert (response.status_code, response.content) == (200, answer)
        assert upstream.bodies == [sent]
        assert decisions(proxy) == ["input:pass", "output:pass"]
        assert response.headers["x-guardrail-decision"] == "allow"
        assert float(response.headers["x-guardrail-overhead-ms"]) >= 0
        assert len(response.headers["x-guardrail-decision-id"].split(",")) == 2


async def test_an_allowed_stream_passes_byte_for_byte() -> None:
    frames = stream("All", " is", " well")
    async with proxied(upstream=Answering(frames, headers=EVENTS)) as proxy:
        response = await proxy.ask(stream=True)
        assert response.content == b"".join(frames)
        assert response.headers["content-type"] == "text/event-stream"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("timing", ["before", "parallel"])
async def test_a_blocked_prompt_is_400_and_nothing_of_an_answer_comes_back(timing: str, streamed: bool) -> None:
    upstream = EmbeddedUpstream()
    async with proxied(config({"timing": timing}), upstream=upstream) as proxy:
        response = await proxy.ask(BAD, model="embedded-echo", stream=streamed)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "content_filter"
        assert b"forbidden" not in response.content
        assert response.headers["x-guardrail-decision"] == "block"
        assert decisions(proxy) == ["input:block"]
        if timing == "before":
            assert upstream.hits == 0


async def test_parallel_calls_the_upstream_while_it_judges_and_cancels_it_on_a_block() -> None:
    called, cancelled = asyncio.Event(), asyncio.Event()

    async def upstream(scope: object, receive: object, send: object) -> None:
        called.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    classifier = ScriptedClassifier({"*": contains("forbidden")}, delay_s=0.05)
    async with proxied(config({"timing": "parallel"}), upstream=upstream, classifier=classifier) as proxy:
        asking = asyncio.create_task(proxy.ask(BAD))
        await asyncio.wait_for(called.wait(), 2)
        assert not asking.done()
        assert (await asking).status_code == 400
        assert cancelled.is_set()


async def test_parallel_releases_nothing_before_the_verdict() -> None:
    classifier = ScriptedClassifier({"*": contains("forbidden")}, delay_s=0.1)
    settings = config({"timing": "parallel", "output": {"policies": []}})
    async with proxied(settings, upstream=Answering(stream("x"), headers=EVENTS), classifier=classifier) as proxy:
        response = await proxy.ask(BAD, stream=True)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "content_filter")
        response = await proxy.ask("fine", stream=True)
        assert response.content == b"".join(stream("x"))


async def test_on_block_reply_answers_200_with_finish_reason_content_filter() -> None:
    async with proxied(config({"on_block": "reply"})) as proxy:
        choice = (await proxy.ask(BAD)).json()["choices"][0]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("content_filter", "This request was blocked by content policy.")
        streamed = await proxy.ask(BAD, stream=True)
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert streamed.content.endswith(b"data: [DONE]\n\n")


async def test_a_blocked_answer_is_replaced_and_its_usage_kept() -> None:
    upstream = Answering([completion(f"Here is {BAD}.", usage={"total_tokens": 9})])
    async with proxied(upstream=upstream) as proxy:
        response = await proxy.ask()
        document = response.json()
        assert response.status_code == 200
        assert document["choices"][0]["finish_reason"] == "content_filter"
        assert document["usage"] == {"total_tokens": 9}
        assert b"forbidden" not in response.content
        assert decisions(proxy) == ["input:pass", "output:block"]


async def test_only_the_bad_one_of_several_choices_is_replaced() -> None:
    async with proxied(upstream=Answering([completion("good one", BAD, "good two")])) as proxy:
        choices = (await proxy.ask(n=3)).json()["choices"]
        assert [choice["finish_reason"] for choice in choices] == ["stop", "content_filter", "stop"]
        assert [choices[0]["message"]["content"], choices[2]["message"]["content"]] == ["good one", "good two"]


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_blocked_stream_ends_in_content_filter_whatever_its_chunks(size: int) -> None:
    raw = b"".join(stream("some", "thing for", "bidden"))
    chunks = [raw[start : start + size] for start in range(0, len(raw), size)]
    async with proxied(upstream=Answering(chunks, headers=EVENTS)) as proxy:
        response = await proxy.ask(stream=True)
        frames = [json.loads(line[6:]) for line in response.content.split(b"\n\n") if line.startswith(b"data: {")]
        assert [choice["finish_reason"] for frame in frames for choice in frame["choices"]][-1] == "content_filter"
        assert response.content.endswith(b"data: [DONE]\n\n")
        assert b"bidden" not in response.content


async def test_the_answer_is_judged_by_what_it_is_not_by_what_was_asked() -> None:
    async with proxied(upstream=Answering([completion(BAD)])) as proxy:
        assert (await proxy.ask(stream=True)).json()["choices"][0]["finish_reason"] == "content_filter"
    async with proxied(upstream=Answering(stream(BAD), headers=EVENTS)) as proxy:
        assert b"forbidden" not in (await proxy.ask(stream=False)).content


async def test_a_shadow_route_judges_and_changes_nothing() -> None:
    answer = completion(BAD)
    async with proxied(config({"mode": "shadow"}), upstream=Answering([answer])) as proxy:
        response = await proxy.ask(BAD)
        assert (response.content, response.headers["x-guardrail-decision"]) == (answer, "pending")
        assert [event.decision.outcome.shadow.word for event in proxy.sink.of(DecisionMade)] == ["block", "block"]


@pytest.mark.parametrize("mode", ["checks nothing", "watches"])
async def test_an_unenforced_answer_is_not_held(mode: str) -> None:
    released = asyncio.Event()
    frames = stream("some", "thing forbidden")

    async def upstream(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(EVENTS)})
        await send({"type": "http.response.body", "body": frames[0], "more_body": True})
        await released.wait()
        await send({"type": "http.response.body", "body": b"".join(frames[1:])})

    section = [] if mode == "checks nothing" else [{"id": "harassment", "mode": "shadow"}]
    async with proxied(config({"output": {"policies": section}}), upstream=upstream) as proxy:
        sent: list[bytes] = []

        async def send(message: dict[str, object]) -> None:
            sent.append(bytes(message.get("body", b"")))
            if sent[-1]:
                released.set()  # the first piece came through before the upstream was done

        await asyncio.wait_for(proxy.app(scope(), receiver(BODY), send), 5)
        assert b"".join(sent) == b"".join(frames)
        assert [event.decision.outcome.shadow.word for event in proxy.sink.of(DecisionMade)] == ["pass", "block"][: 1 + len(section)]


async def test_a_watched_answer_that_cannot_be_read_passes_and_is_recorded_as_unjudged() -> None:
    upstream = Answering([b"<p>"], headers=[(b"content-type", b"text/html")])
    async with proxied(config({"mode": "shadow"}), upstream=upstream) as proxy:
        assert (await proxy.ask()).content == b"<p>"
        assert [event.decision.outcome.unjudged for event in proxy.sink.of(DecisionMade)] == [False, True]


def scope(headers: tuple[tuple[bytes, bytes], ...] = ()) -> dict[str, object]:
    path = CHAT
    return {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": list(headers)}


def receiver(body: bytes, gone: asyncio.Event | None = None) -> object:
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, object]:
        if messages:
            return messages.pop()
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    return receive


@pytest.mark.parametrize("waiting_for", ["classifier", "upstream"])
async def test_a_client_that_leaves_stops_the_judging_and_the_upstream_and_leaves_nothing_running(waiting_for: str) -> None:
    gone, reached, cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def upstream(scope: object, receive: object, send: object) -> None:
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    classifier = ScriptedClassifier(fault="hang" if waiting_for == "classifier" else None)
    async with proxied(upstream=upstream, classifier=classifier) as proxy:
        before = asyncio.all_tasks()
        sent: list[object] = []

        async def send(message: object) -> None:
            sent.append(message)

        serving = asyncio.create_task(proxy.app(scope(), receiver(BODY, gone), send))
        while not (reached.is_set() or (waiting_for == "classifier" and classifier.batches)):
            await asyncio.sleep(0.01)
        gone.set()
        await asyncio.wait_for(serving, 2)
        await asyncio.sleep(0)
        assert cancelled.is_set() == (waiting_for == "upstream")
        assert classifier.cancelled == (1 if waiting_for == "classifier" else 0)
        assert sent == []
        assert asyncio.all_tasks() <= before


async def test_an_upstream_that_goes_on_after_the_answer_is_whole_is_closed_before_the_answer_is_judged() -> None:
    closed, order = asyncio.Event(), []

    async def upstream(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(EVENTS)})
        await send({"type": "http.response.body", "body": b"".join(stream("fine")), "more_body": True})
        try:
            while True:
                await asyncio.sleep(0.02)
                await send({"type": "http.response.body", "body": b": still here\n\n", "more_body": True})
        finally:
            order.append("closed")
            closed.set()

    def judged(text: str) -> float:
        order.append(text)
        return 0.0

    async with proxied(upstream=upstream, classifier=ScriptedClassifier({"*": judged})) as proxy:
        before = asyncio.all_tasks()
        response = await asyncio.wait_for(proxy.ask("hello", stream=True), 2)
        assert response.content == b"".join(stream("fine"))
        assert order == ["hello", "closed", "fine"]
        assert asyncio.all_tasks() <= before


async def test_a_query_stays_here() -> None:
    queries: list[bytes] = []
    answer = Answering([completion("x")])

    async def upstream(scope: dict[str, bytes], receive: object, send: object) -> None:
        queries.append(scope["query_string"])
        await answer(scope, receive, send)

    async with proxied(upstream=upstream) as proxy:
        assert (await proxy.client.post(CHAT + "?model=other", json={"model": "m", "messages": HI})).status_code == 200
        assert (await proxy.client.get("/v1/models?limit=1")).status_code == 200
    assert queries == [b"", b""]


async def test_request_ids_are_taken_over_when_plain_and_made_when_not() -> None:
    upstream = Answering(
        [completion("x")],
        headers=[(b"content-type", b"application/json"), (b"x-request-id", b"theirs"), (b"x-guardrail-decision", b"spoof")],
    )
    async with proxied(upstream=upstream) as proxy:

        async def sent(value: str) -> httpx.Response:
            return await proxy.client.post(CHAT, json={"model": "m", "messages": HI}, headers={"x-request-id": value})

        response = await sent("abc-1")
        assert (response.headers["x-request-id"], response.headers["x-upstream-request-id"]) == ("abc-1", "theirs")
        assert upstream.seen[-1]["x-request-id"] == "abc-1"
        assert response.headers.get_list("x-guardrail-decision") == ["allow"]
        for odd in ("a b", "x" * 129, "<script>"):
            assert (await sent(odd)).headers["x-request-id"] not in (odd, "")
        assert {event.request_id for event in proxy.sink.of(DecisionMade)} >= {"abc-1"}


async def test_the_upstream_is_asked_not_to_encode_its_answer() -> None:
    upstream = Answering([completion("x")])
    async with proxied(upstream=upstream) as proxy:
        await proxy.client.post(CHAT, json={"model": "m", "messages": HI}, headers={"accept-encoding": "gzip, br"})
        assert upstream.seen[0]["accept-encoding"] == "identity"


async def test_request_headers_and_fields_cannot_weaken_the_guard() -> None:
    async with proxied() as proxy:
        body = {"model": "m", "messages": [{"role": "user", "content": BAD}], "guardrails": [], "metadata": {"guardrails": {}}}
        headers = {"x-guardrail-mode": "shadow", "x-guardrail-decision": "allow", "x-guardrails": "off"}
        assert (await proxy.client.post(CHAT, json=body, headers=headers)).status_code == 400


async def test_models_are_listed_from_the_callers_upstream_and_nothing_else_is_passed_on() -> None:
    async with proxied() as proxy:
        assert "embedded-echo" in (await proxy.client.get("/v1/models")).text
        for path in (
            "/v1/images/generations",
            "/v1/audio/speech",
            "/v1/messages/batches",
            "/v1/responses/resp_1",
            "/openai/v1/embeddings",
            "/",
            "/docs",
            "/__stats__",
            "/v1/models/../__stats__",
        ):
            for method in ("GET", "POST"):
                response = await proxy.client.request(method, path)
                assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found"), path
        assert {event.status for event in proxy.sink.of(RequestRefused)} == {404}


@pytest.mark.parametrize(
    "path",
    [
        "/v1//chat/completions",
        "//v1/chat/completions",
        "/v1/./chat/completions",
        "/v1/x/../chat/completions",
        "/V1/Chat/Completions",
        "/v1/chat/completions/",
        "/v1/chat%2Fcompletions",
        "/v1/chat/completions;x",
        "/v1%2fchat/completions",
        "/%761/chat/completions",
    ],
)
async def test_another_spelling_of_a_guarded_path_is_404(path: str) -> None:
    upstream = EmbeddedUpstream()
    async with proxied(upstream=upstream) as proxy:
        raw = path.encode()
        sent: list[dict[str, object]] = []

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        tricky = {**scope(), "path": httpx.URL("http://x" + path).path if "%" in path else path, "raw_path": raw}
        await proxy.app(tricky, receiver(BODY), send)
        assert (sent[0]["status"], upstream.hits) == (404, 0)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_of_a_guarded_path_are_405(method: str) -> None:
    async with proxied() as proxy:
        preflight = {"origin": "https://elsewhere.example", "access-control-request-method": "POST"}
        response = await proxy.client.request(method, CHAT, headers=preflight)
        assert (response.status_code, response.headers["allow"]) == (405, "POST")
