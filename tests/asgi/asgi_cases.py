"""A guarded proxy in this process, around an upstream that is an ASGI app, judged by a scripted classifier."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette

from guardrail.assembly import build_app
from guardrail.config.models import Config
from guardrail.testing import RecordingSink, ScriptedClassifier, contains
from guardrail.upstream.embedded import EmbeddedUpstream
from guardrail.upstream.in_process import InProcessUpstream

CHAT = "/v1/chat/completions"
POLICIES = {"folder": str(Path(__file__).parent / "policies"), "shipped": False}  # one small policy: quick to read
BAD = "something forbidden"
HI = [{"role": "user", "content": "hi"}]
BODY = json.dumps({"model": "m", "messages": HI}).encode()


def config(route: Mapping[str, Any] | None = None, **sections: Any) -> Config:
    """One route with one policy in both stages; `route` overrides its keys, `sections` add sections."""
    policies = {"policies": ["harassment"]}
    defaults = {"name": "default", "input": policies, "output": policies}
    return Config.model_validate({"routes": [defaults | dict(route or {})], "policies": POLICIES, **sections})


@dataclass
class Proxy:
    """What a test looks at."""

    app: Starlette
    client: httpx.AsyncClient
    classifier: ScriptedClassifier
    sink: RecordingSink

    async def ask(self, text: str = "Hello", model: str = "embedded-chat", **body: Any) -> httpx.Response:
        """One chat completion."""
        return await self.client.post(CHAT, json={"model": model, "messages": [{"role": "user", "content": text}], **body})


@asynccontextmanager
async def proxied(
    settings: Config | None = None, *, upstream: Any = None, classifier: ScriptedClassifier | None = None
) -> AsyncIterator[Proxy]:
    """The proxy, running. `upstream` is an ASGI app or an `Upstream`; default: the embedded one."""
    settings = settings or config()
    classifier = classifier or ScriptedClassifier({"*": contains("forbidden")})
    upstream = upstream or EmbeddedUpstream()
    sent_to = upstream if hasattr(upstream, "aclose") else InProcessUpstream(upstream)
    sink = RecordingSink()
    app = build_app(
        settings,
        classifiers=dict.fromkeys(settings.classifiers, classifier),
        upstreams=dict.fromkeys(settings.upstreams, sent_to),
        sinks=[sink],
    )
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://guard") as client:
        yield Proxy(app, client, classifier, sink)


@dataclass
class Answering:
    """An upstream that always answers the same, and remembers what it was sent."""

    pieces: Sequence[bytes]
    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = ((b"content-type", b"application/json"),)
    error: Exception | None = None
    bodies: list[bytes] = field(default_factory=list)
    seen: list[dict[str, str]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.bodies.append(body)
        self.seen.append({name.decode(): value.decode() for name, value in scope["headers"]})
        await send({"type": "http.response.start", "status": self.status, "headers": list(self.headers)})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if self.error is not None:
            raise self.error
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def completion(*texts: str, **more: Any) -> bytes:
    """A whole answer with these choices."""
    choices = [{"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"} for i, text in enumerate(texts)]
    return json.dumps({"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, **more}).encode()


def stream(*pieces: str) -> list[bytes]:
    """A streamed answer of one choice."""
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    deltas: list[tuple[dict[str, str], str | None]] = [
        ({"role": "assistant", "content": ""}, None),
        *(({"content": p}, None) for p in pieces),
        ({}, "stop"),
    ]
    frames = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]} for delta, reason in deltas]
    return [b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames] + [b"data: [DONE]\n\n"]


EVENTS = ((b"content-type", b"text/event-stream"),)
