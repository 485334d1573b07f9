"""A server on loopback that answers as it is told, and remembers what it was asked."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from guardrail.classifiers.remote.classifier import Api, Manners, RemoteClassifier
from guardrail.classifiers.remote.connection import Connection, Endpoint
from guardrail.testing import policy
from guardrail.types import ClassifyRequest, Policy

KEY = "sk-canary-never-in-an-error"
POLICY: Policy = policy("harassment")


@dataclass
class Asked:
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    at: float


Reply = Callable[[Asked], Any]


@dataclass
class Server:
    """`replies` in order, the last one again and again."""

    replies: tuple[Reply, ...]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        asked = Asked(request.path, request.headers, json.loads(raw) if raw else {}, time.monotonic())
        reply = self.replies[min(len(self.asked), len(self.replies) - 1)]
        self.asked.append(asked)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            told = reply(asked)
            response = await told if asyncio.iscoroutine(told) else told
        finally:
            self.at_once -= 1
        if response is None:  # break off without a word
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        assert isinstance(response, web.StreamResponse)
        return response


def says(body: Any, *, status: int = 200, **headers: str) -> Reply:
    """A JSON answer; header names with underscores for dashes. Bytes and text go out as they are."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("Content-Type", "application/json")
    data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    return lambda asked: web.Response(body=data, status=status, headers=named)


def breaks_off(asked: Asked) -> None:
    """The connection is reset before a word of the answer."""


def waits(seconds: float, then: Reply) -> Reply:
    async def answer(asked: Asked) -> Any:
        await asyncio.sleep(seconds)
        return then(asked)

    return answer


@asynccontextmanager
async def serving(*replies: Reply) -> AsyncIterator[Server]:
    server = Server(replies)
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", server.answer)
    running = TestServer(app)
    await running.start_server()
    server.url = str(running.make_url("/")).rstrip("/")
    try:
        yield server
    finally:
        await running.close()


@asynccontextmanager
async def asking(api: Api, url: str, **endpoint: Any) -> AsyncIterator[RemoteClassifier]:
    """A classifier that asks `url`; the server's own retries and limits by keyword."""
    settings = {"api_key": KEY, "connections": 8, **endpoint}
    classifier = RemoteClassifier(api, Connection(Endpoint(url, **settings)), Manners(trial_s=2.0))
    try:
        yield classifier
    finally:
        await classifier.aclose()


def questions(*texts: str, of: Policy = POLICY) -> list[ClassifyRequest]:
    return [ClassifyRequest(of, text) for text in texts]


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds
