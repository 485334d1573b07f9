"""A tenant's limits: on the proxy, the check endpoints and the middleware; counted before the body is read; nobody else's business."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from asgi_cases import CHAT, HI, Proxy, config, proxied
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from guardrail.asgi import GuardMiddleware
from guardrail.asgi.quotas import Quotas, spelled
from guardrail.asgi.service import GuardService
from guardrail.assembly import open_guard
from guardrail.config.models import Config
from guardrail.config.tenants import hash_key
from guardrail.errors import LimitError, WireError
from guardrail.events import RequestRefused
from guardrail.testing import RecordingSink, ScriptedClassifier
from guardrail.types import Part

ACME, ORBIT = {"authorization": "Bearer acme-key"}, {"x-api-key": "orbit-key"}
CHECK = "/v1/guard/check"


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


CRITERIA = "Mentions of forbidden things."


async def test_criteria_of_a_caller_count_when_they_are_made_ready() -> None:
    clock = Clock()
    async with limited(clock, characters_per_minute=len(CRITERIA) + 30) as proxy:

        async def label(criteria: str) -> httpx.Response:
            return await proxy.client.post("/v1/label", json={"content_text": "x" * 10, "criteria_text": criteria}, headers=ACME)

        assert (await label(CRITERIA)).status_code == 200
        assert [(await label(CRITERIA)).status_code for _ in range(2)] == [200, 200]  # ready already: the text alone counts
        prepared = proxy.classifier.prepared
        clock.now += 30
        other = await label(CRITERIA.replace("forbidden", "different"))
        assert (other.status_code, other.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert proxy.classifier.prepared == prepared
        clock.now += 60
        assert (await label(CRITERIA.replace("forbidden", "different"))).status_code == 200
        too_long = await label("Mentions of things. " * 10)
        assert (too_long.status_code, too_long.json()["error"]["code"]) == (400, "prompt_too_long")


def settings(**acme: Any) -> Config:
    tenants = {"acme": {"api_keys": [hash_key("acme-key")], "limits": acme}, "orbit": {"api_keys": [hash_key("orbit-key")]}}
    return config(tenants=tenants)


def service_of(proxy: Proxy) -> GuardService:
    (app,) = (route.app for route in proxy.app.routes if getattr(route, "path", "") == CHECK)  # type: ignore[attr-defined]
    found: GuardService = app._service
    return found


@contextlib.asynccontextmanager
async def limited(clock: Clock, upstream: Any = None, **acme: Any) -> AsyncIterator[Proxy]:
    async with proxied(settings(**acme), upstream=upstream) as proxy:
        service_of(proxy).quotas = Quotas(settings(**acme), clock=clock)
        yield proxy


async def chat(proxy: Proxy, headers: dict[str, str], **body: Any) -> httpx.Response:
    return await proxy.client.post(CHAT, json={"model": "m", "messages": HI, **body}, headers=headers)


async def test_more_than_the_rate_is_429_in_the_words_of_openais_clients() -> None:
    clock = Clock()
    async with limited(clock, requests_per_s=0.4, burst=2) as proxy:
        first, second, third = [await chat(proxy, ACME) for _ in range(3)]
        assert [answer.status_code for answer in (first, second, third)] == [200, 200, 429]
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in (first, second, third)] == ["1", "0", "0"]
        assert second.headers["x-ratelimit-reset-requests"] == "5s"
        assert third.headers["retry-after"] == "3"
        assert third.json()["error"]["code"] == "rate_limit_exceeded"
        assert third.json()["error"]["type"] == "rate_limit_error"
        refused = proxy.sink.of(RequestRefused)
        assert [(event.status, event.code, event.tenant, event.limit) for event in refused] == [
            (429, "rate_limit_exceeded", "acme", "requests")
        ]
        clock.now += 2.5
        assert [(await chat(proxy, ACME)).status_code for _ in range(2)] == [200, 429]


async def test_one_tenant_does_not_spend_what_is_anothers() -> None:
    async with limited(Clock(), requests_per_s=1, burst=1) as proxy:
        assert [(await chat(proxy, ACME)).status_code for _ in range(4)] == [200, 429, 429, 429]
        answers = [await chat(proxy, ORBIT) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert not [name for name in answers[0].headers if name.startswith("x-ratelimit")]


SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "messages": ("/v1/messages", {"model": "m", "messages": HI, "max_tokens": 9}),
    "responses": ("/v1/responses", {"model": "m", "input": "hi"}),
    "check": (CHECK, {"text": "hi"}),
    "label": ("/v1/label", {"content_text": "hi", "labeler_id": "harassment"}),
    "detector": ("/api/v1/text/contents", {"contents": ["hi"]}),
}


@pytest.mark.parametrize("name", SHAPES)
async def test_every_endpoint_counts_and_refuses_in_its_own_shape(name: str) -> None:
    path, body = SHAPES[name]
    async with limited(Clock(), requests_per_s=1, burst=1) as proxy:
        assert (await chat(proxy, ACME)).status_code == 200
        headers = ACME | {"detector-id": "guardrail"}
        answer = await proxy.client.post(path, json=body, headers=headers)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        told = answer.json()
        if name == "detector":
            assert (told["code"], set(told)) == (429, {"code", "message"})
        elif name == "messages":
            assert (told["type"], told["error"]["type"]) == ("error", "rate_limit_error")
        else:
            assert told["error"]["code"] == "rate_limit_exceeded"


async def test_the_list_of_models_counts_too() -> None:
    async with limited(Clock(), requests_per_s=1, burst=1) as proxy:
        answers = [await proxy.client.get("/v1/models", headers=ACME) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
        assert proxy.sink.of(RequestRefused)[-1].tenant == "acme"


async def test_the_request_is_counted_before_its_body_is_read() -> None:
    async with limited(Clock(), requests_per_s=1, burst=1) as proxy:
        await chat(proxy, ACME)
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            raise AssertionError("the body was asked for")

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": CHAT,
            "raw_path": CHAT.encode(),
            "root_path": "",
            "headers": [(b"authorization", b"Bearer acme-key")],
            "query_string": b"",
        }
        await proxy.app(scope, receive, send)  # type: ignore[arg-type]
        assert sent[0]["status"] == 429


async def test_as_many_at_once_as_allowed_and_the_place_is_free_again_afterwards() -> None:
    held, go = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        held.set()
        await go.wait()
        await send({"type": "http.response.start", "status": 500, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b"{}"})

    async with limited(Clock(), upstream=slow, concurrency=1) as proxy:
        first = asyncio.create_task(chat(proxy, ACME))
        await held.wait()
        second = await chat(proxy, ACME)
        assert (second.status_code, second.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert (await proxy.client.post(CHECK, json={"text": "x"}, headers=ORBIT)).status_code == 200
        go.set()
        assert (await first).status_code == 500
        assert (await proxy.client.post(CHECK, json={"text": "x"}, headers=ACME)).status_code == 200


async def test_a_prompt_is_bounded_in_length_and_in_characters_a_minute() -> None:
    clock = Clock()
    async with limited(clock, prompt_characters=30, characters_per_minute=40) as proxy:

        async def ask(length: int, path: str = CHECK) -> httpx.Response:
            body = {"text": "x" * length} if path == CHECK else {"model": "m", "messages": [{"role": "user", "content": "x" * length}]}
            return await proxy.client.post(path, json=body, headers=ACME)

        for path in (CHECK, CHAT):
            long = await ask(31, path)
            assert (long.status_code, long.json()["error"]["code"]) == (400, "prompt_too_long")
        assert [(await ask(30)).status_code, (await ask(20)).status_code] == [200, 429]
        again = await ask(20, CHAT)
        assert (again.status_code, again.headers["retry-after"]) == (429, "15")
        assert again.headers["x-ratelimit-remaining-characters"] == "10"
        clock.now += 15
        assert (await ask(20)).status_code == 200
        assert {event.limit for event in proxy.sink.of(RequestRefused)} == {"prompt", "characters"}


async def test_the_body_and_the_tokens_asked_for_are_bounded() -> None:
    async with limited(Clock(), max_body_bytes=1024, max_tokens=64) as proxy:
        assert (await chat(proxy, ACME, max_tokens=64)).status_code == 200
        assert (await chat(proxy, ACME, max_tokens=65)).json()["error"]["code"] == "max_tokens_exceeded"
        assert (await chat(proxy, ACME)).json()["error"]["param"] == "max_completion_tokens"
        assert (await chat(proxy, ORBIT)).status_code == 200
        tools = [{"type": "function", "function": {"name": "look", "description": "y" * 2000, "parameters": {}}}]
        assert (await chat(proxy, ACME, max_tokens=1, tools=tools)).status_code == 413
        assert (await chat(proxy, ORBIT, tools=tools)).status_code == 200


async def test_a_middleware_counts_as_the_proxy_does() -> None:
    async def answer(request: Request) -> JSONResponse:
        await request.body()
        return JSONResponse({"id": "c", "object": "chat.completion", "choices": []})

    guard = open_guard(settings(requests_per_s=1, burst=1), classifiers={"embedded": ScriptedClassifier()}, sinks=[RecordingSink()])
    app = GuardMiddleware(Starlette(routes=[Route(CHAT, answer, methods=["POST"])]), guard)
    async with guard, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        body = {"model": "m", "messages": HI}
        statuses = [(await client.post(CHAT, json=body, headers=ACME)).status_code for _ in range(2)]
    assert statuses == [200, 429]


async def test_an_unknown_key_costs_no_tenant_anything() -> None:
    async with limited(Clock(), requests_per_s=1, burst=1) as proxy:
        assert [(await chat(proxy, {"x-api-key": "other"})).status_code for _ in range(3)] == [401] * 3
        assert (await chat(proxy, ACME)).status_code == 200


async def test_an_upstreams_own_limits_do_not_stand_beside_ours() -> None:
    upstream = [(b"content-type", b"application/json"), (b"x-ratelimit-limit-requests", b"9999"), (b"x-ratelimit-limit-tokens", b"7")]

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 429, "headers": upstream})
        await send({"type": "http.response.body", "body": b"{}"})

    async with limited(Clock(), upstream=answer, requests_per_s=1, burst=5) as proxy:
        ours, theirs = await chat(proxy, ACME), await chat(proxy, ORBIT)
        assert ours.headers.get_list("x-ratelimit-limit-requests") == ["5"]
        assert "x-ratelimit-limit-tokens" not in ours.headers
        assert theirs.headers["x-ratelimit-limit-tokens"] == "7"


def test_each_of_several_workers_allows_its_part() -> None:
    quotas = Quotas(settings(requests_per_s=8, burst=8, concurrency=4), workers=4, clock=Clock())
    assert dict(quotas.headers("acme"))[b"x-ratelimit-limit-requests"] == b"2"


def test_a_prompt_that_one_process_takes_is_taken_by_each_of_several() -> None:
    quotas = Quotas(settings(prompt_characters=10_000, characters_per_minute=10_000), workers=4, clock=Clock())
    quotas.read("acme", [Part("text", "x" * 10_000)])
    with pytest.raises(LimitError):
        quotas.read("acme", [Part("text", "x")])
    with pytest.raises(WireError, match="this caller may send 10000"):
        quotas.read("acme", [Part("text", "x" * 10_001)])


@pytest.mark.parametrize(("seconds", "word"), [(0, "0ms"), (0.0201, "21ms"), (1, "1s"), (59.2, "1m0s"), (360, "6m0s")])
def test_durations_are_spelled_as_openai_does(seconds: float, word: str) -> None:
    assert spelled(seconds) == word
