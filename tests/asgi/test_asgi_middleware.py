"""The middleware around an app that exists already."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from asgi_cases import BAD, CHAT, HI, completion, config
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from starlette.background import BackgroundTask
from starlette.middleware.gzip import GZipMiddleware
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from guardrail.asgi import GuardMiddleware
from guardrail.assembly import open_guard
from guardrail.testing import ScriptedClassifier, contains


def app_with(**options: Any) -> FastAPI:
    guard = open_guard(config(options.pop("route", None)), classifiers={"embedded": ScriptedClassifier({"*": contains("forbidden")})})

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with guard:
            yield

    app = FastAPI(lifespan=lifespan)
    app.state.seen, app.state.lengths = [], []

    @app.post(CHAT)
    async def chat(request: Request) -> Response:
        document = await request.json()
        app.state.seen.append(document)
        app.state.lengths.append((request.headers.get("content-length"), str(len(await request.body()))))
        text = document["messages"][-1]["content"]
        if text == "crash":
            raise RuntimeError("a defect of the app")
        if document.get("stream"):

            async def pieces() -> AsyncIterator[bytes]:
                yield (
                    b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"'
                    + text.encode()
                )
                yield b'"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

            return StreamingResponse(pieces(), media_type="text/event-stream")
        return Response(completion(text.replace("repeat ", "for" + "bidden ")), media_type="application/json")

    @app.post("/v1/embeddings")
    async def embeddings() -> dict[str, str]:
        return {"unjudged": "yes"}

    @app.get("/hello")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    @app.websocket("/v1/realtime")
    async def realtime(socket: Any) -> None:
        await socket.accept()

    for middleware in options.pop("inside", []):
        app.add_middleware(middleware, minimum_size=1)
    app.add_middleware(GuardMiddleware, guard=guard, **options)
    return app


def ask(client: TestClient, text: str, **more: Any) -> httpx.Response:
    return client.post(CHAT, json={"model": "m", "messages": [{"role": "user", "content": text}], **more})  # type: ignore[return-value]


def test_the_apps_own_completions_are_guarded_and_the_rest_is_left_alone() -> None:
    app = app_with()
    with TestClient(app) as client:
        assert ask(client, "hello").json()["choices"][0]["message"]["content"] == "hello"
        assert ask(client, BAD).status_code == 400
        assert len(app.state.seen) == 1
        assert ask(client, "repeat it").json()["choices"][0]["finish_reason"] == "content_filter"
        assert ask(client, "hello", stream=True).text.endswith("data: [DONE]\n\n")
        assert client.get("/hello").json() == {"hello": "world"}
        assert "x-guardrail-decision" not in client.get("/hello").headers


def test_inference_paths_that_are_not_judged_are_404_unless_the_operator_names_them() -> None:
    with TestClient(app_with()) as client:
        assert client.post("/v1/images/generations", json={}).status_code == 404
        assert client.post("/other/embeddings", json={}).status_code == 404
        assert client.post("/v1/embeddings", json={}).status_code == 400
        with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect("/v1/realtime"):
            pass
        assert closed.value.code == 1008
    with TestClient(app_with(unguarded=["/v1/embeddings"])) as client:
        assert client.post("/v1/embeddings", json={}).json() == {"unjudged": "yes"}
    with TestClient(app_with(unguarded=["/v1/*"])) as client:
        assert client.post("/v1/embeddings", json={}).status_code == 400


def test_an_app_that_compresses_for_its_clients_is_still_judged() -> None:
    with TestClient(app_with(inside=[GZipMiddleware])) as client:
        response = client.post(
            CHAT, json={"model": "m", "messages": [{"role": "user", "content": "repeat it"}]}, headers={"accept-encoding": "gzip"}
        )
        assert response.json()["choices"][0]["finish_reason"] == "content_filter"


def test_a_crash_of_the_app_is_502_in_the_shape_clients_know() -> None:
    with TestClient(app_with()) as client:
        response = ask(client, "crash")
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_error")


async def exchange(app: FastAPI, document: dict[str, Any]) -> list[dict[str, Any]]:
    """One exchange over raw ASGI, as an older server speaks it: apps then wait for the client to leave while they stream."""
    first = [{"type": "http.request", "body": json.dumps(document).encode(), "more_body": False}]
    sent: list[dict[str, Any]] = []
    complete = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if first:
            return first.pop()
        await complete.wait()
        return {"type": "http.disconnect"}  # what servers say once the response is out

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            complete.set()

    path: dict[str, Any] = {"path": CHAT, "raw_path": CHAT.encode(), "query_string": b"", "headers": []}
    async with app.router.lifespan_context(app):
        await asyncio.wait_for(app({"type": "http", "asgi": {"spec_version": "2.3"}, "method": "POST", **path}, receive, send), 5)
    return sent


async def test_a_streaming_app_whose_answer_is_refused_is_not_left_waiting() -> None:
    broken = {"model": "m", "stream": True, "messages": [{"role": "user", "content": chr(92)}]}
    sent = await exchange(app_with(), broken)  # the app puts the backslash unescaped into its JSON
    assert sent[0]["status"] == 502
    fine = await exchange(app_with(), broken | {"messages": HI})
    assert fine[0]["status"] == 200


async def test_background_work_of_the_app_is_finished_after_the_client_has_its_answer() -> None:
    app, done = app_with(), asyncio.Event()

    async def later() -> None:
        await asyncio.sleep(0.05)
        done.set()

    @app.middleware("http")
    async def with_background(request: Request, call_next: Any) -> Response:
        await call_next(request)
        return Response(completion("fine"), media_type="application/json", background=BackgroundTask(later))

    app.user_middleware.reverse()  # the guard outermost
    sent = await exchange(app, {"model": "m", "messages": HI})
    assert (sent[0]["status"], done.is_set()) == (200, True)


async def test_an_app_that_never_ends_is_stopped_a_while_after_the_client_has_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guardrail.asgi.responder.BACKGROUND_S", 0.1)
    app, stopped = app_with(), asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    @app.middleware("http")
    async def with_background(request: Request, call_next: Any) -> Response:
        await call_next(request)
        return Response(completion("fine"), media_type="application/json", background=BackgroundTask(forever))

    app.user_middleware.reverse()  # the guard outermost
    sent = await exchange(app, {"model": "m", "messages": HI})
    assert (sent[0]["status"], stopped.is_set()) == (200, True)


def test_an_app_whose_guard_was_not_started_refuses() -> None:
    client = TestClient(app_with())  # no lifespan
    response = client.post(CHAT, json={"model": "m", "messages": HI})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "guardrail_unavailable")


def test_an_app_behind_the_guard_sees_the_request_without_the_dropped_turn_and_its_length() -> None:
    app = app_with(route={"history": "drop"})
    turns = [{"role": "user", "content": "something forbidden"}, {"role": "user", "content": "hello"}]
    with TestClient(app) as client:
        answer = client.post(CHAT, json={"model": "m", "messages": turns, "seed": 7})
    assert (answer.status_code, answer.headers["x-guardrail-history"]) == (200, "drop")
    assert app.state.seen == [{"model": "m", "messages": turns[1:], "seed": 7}]
    assert app.state.lengths[0][0] == app.state.lengths[0][1]


def test_a_browser_may_ask_whether_it_may_ask_and_asks_nothing_by_it() -> None:
    app = app_with()

    @app.options(CHAT)
    async def preflight(request: Request) -> dict[str, str]:
        return {"body": (await request.body()).decode()}

    asks = {"origin": "https://elsewhere.example", "access-control-request-method": "POST"}
    with TestClient(app) as client:
        answer = client.request("OPTIONS", CHAT, headers=asks, content=b"something forbidden")
        assert (answer.status_code, answer.json()) == (200, {"body": ""})
        assert client.request("OPTIONS", CHAT).status_code == 405
        assert client.request("OPTIONS", "/v1/responses/x", headers=asks).status_code == 404
        assert client.request("GET", CHAT, headers=asks).status_code == 405
