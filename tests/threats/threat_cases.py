"""What the cases of a group have in common: one exchange through the whole proxy, and what must not have happened."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
from asgi_cases import BAD, EVENTS, Answering, config, proxied
from protocol_cases import CASES

CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES = (
    CASES[name].path for name in ("chat", "completions", "embeddings", "messages", "responses")
)
BY_PATH = {case.path: case for case in CASES.values()}


def user(content: Any, **fields: Any) -> dict[str, Any]:
    """A chat or messages request of one turn."""
    return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": content, **fields}]}


def answering(path: str, *, streamed: bool = False, text: str = "fine") -> Answering:
    """An upstream of this path's protocol that always says `text`."""
    case = BY_PATH[path]
    return Answering([case.stream(text)], headers=EVENTS) if streamed else Answering([case.answer(text)])


async def refused(path: str, body: Mapping[str, Any], route: Mapping[str, Any] | None = None) -> httpx.Response:
    """The answer to a request that must be blocked before anything of it is sent on, whole or streamed."""
    for streamed in (False, True):
        upstream = answering(path)
        async with proxied(config(route), upstream=upstream) as proxy:
            response = await proxy.client.post(path, json={**body, **({"stream": True} if streamed else {})})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "content_filter"), response.text
        assert upstream.bodies == []
        assert BAD not in response.text
    return response


async def served(path: str, body: Mapping[str, Any], route: Mapping[str, Any] | None = None) -> httpx.Response:
    """The answer to a request that must pass, sent on once and as it came."""
    upstream = answering(path)
    async with proxied(config(route), upstream=upstream) as proxy:
        response = await proxy.client.post(path, json=dict(body))
    assert response.status_code == 200, response.text
    assert [json.loads(sent) for sent in upstream.bodies] == [dict(body)]
    return response


async def told(path: str, pieces: Sequence[bytes], route: Mapping[str, Any] | None = None, **body: Any) -> httpx.Response:
    """What a client gets of an upstream's answer; several pieces, or one that is no JSON, are a stream."""
    streamed = not pieces[0].startswith(b"{")
    upstream = Answering(pieces, headers=EVENTS) if streamed else Answering(pieces)
    async with proxied(config(route), upstream=upstream) as proxy:
        return await proxy.client.post(path, json={**BY_PATH[path].request("hi", streamed), **body})


@asynccontextmanager
async def counted(path: str, *, streamed: bool = False, route: Mapping[str, Any] | None = None, **more: Any) -> AsyncIterator[Any]:
    """A proxy and the upstream that counts what reaches it."""
    upstream = answering(path, streamed=streamed)
    async with proxied(config(route), upstream=upstream, **more) as proxy:
        yield proxy, upstream
