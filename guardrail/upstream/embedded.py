"""The embedded upstream: a small scripted server for the first minute, demos and benchmarks.

It speaks OpenAI's chat, text completions, responses and embeddings, and Anthropic's messages.

What it does is asked for by the request's `model`:

| model | answer |
|---|---|
| `embedded-chat` (and any other name) | friendly small talk, always the same for the same prompt |
| `embedded-echo` | the last user message |
| `embedded-tools` | a call of the request's first tool (or of `lookup`) |
| `embedded-violating` | a mild insult, for a policy to catch |
| `embedded-mixed` | two choices whatever `n` is, the second one insulting |
| `embedded-slow` | small talk with a pause before each piece |
| `embedded-paced` | the last user message, a word at a time, as many a second as `delay_s` says |
| `embedded-disconnect` | breaks off in the middle, streamed or not |
| `embedded-garbage` | something that is no JSON |
| `embedded-error-NNN` | the status NNN (400 to 599) with an OpenAI-shaped error |
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from guardrail.upstream.script import Script, chunks, completion, embeddings, text_chunks, text_completion, write_script
from guardrail.upstream.script_events import message, message_events, response, response_events

MODELS = (
    "embedded-chat",
    "embedded-echo",
    "embedded-tools",
    "embedded-violating",
    "embedded-mixed",
    "embedded-slow",
    "embedded-paced",
    "embedded-disconnect",
    "embedded-garbage",
    "embedded-error-500",
)
Whole = Callable[[Script], bytes]
Streamed = Callable[[Script], list[bytes]]

_ERROR = re.compile(r"embedded-error-([45]\d\d)")


class EmbeddedUpstream:
    """An ASGI app (uvicorn serves it, `InProcessUpstream` drives it). `hits` counts chat completion requests; nothing else is kept.

    The scenario is the request's `model` (see the table above and `MODELS`). `delay_s` is the pause of the slow and the paced one.
    """

    def __init__(self, *, delay_s: float = 0.25) -> None:
        self.hits = 0
        self._delay_s = delay_s
        self._app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._text, methods=["POST"]),
                Route("/v1/embeddings", self._embeddings, methods=["POST"]),
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/responses", self._responses, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/__stats__", self._stats),
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        await self._app(scope, receive, send)

    async def _models(self, _: Request) -> Response:
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "guardrail"} for name in MODELS]
        return JSONResponse({"object": "list", "data": data})

    async def _stats(self, _: Request) -> Response:
        return JSONResponse({"hits": self.hits})

    async def _chat(self, request: Request) -> Any:
        return await self._answer(request, "messages", (completion, chunks))

    async def _text(self, request: Request) -> Any:
        return await self._answer(request, "prompt", (text_completion, text_chunks))

    async def _messages(self, request: Request) -> Any:
        return await self._answer(request, "messages", (message, message_events))

    async def _responses(self, request: Request) -> Any:
        return await self._answer(request, "input", (response, response_events))

    async def _embeddings(self, request: Request) -> Any:
        document = await _document(request, "input")
        self.hits += 1
        return document if isinstance(document, Response) else Response(embeddings(document), media_type="application/json")

    async def _answer(self, request: Request, field: str, spell: tuple[Whole, Streamed]) -> Any:
        """The scripted answer in one protocol: `field` must be there, `spell` writes it whole and streamed."""
        self.hits += 1
        document = await _document(request, field)
        if isinstance(document, Response):
            return document
        model = str(document.get("model"))
        streamed = document.get("stream") is True
        if (status := _ERROR.fullmatch(model)) is not None:
            return _error(int(status[1]), f"The embedded upstream was asked for status {status[1]}.")
        if model == "embedded-garbage":
            return _Pieces(_listed([b"data: {not json\n\n" if streamed else b'{"choices": [{"index": 0,']), streamed)
        script = write_script(document, f"chatcmpl-embedded-{self.hits}")
        whole, in_pieces = spell
        pieces = in_pieces(script) if streamed else [whole(script)]
        pause = self._delay_s if model in ("embedded-slow", "embedded-paced") else 0.0
        return _Pieces(_paced(pieces, pause), streamed, breaks_off=model == "embedded-disconnect")


async def _document(request: Request, field: str) -> dict[str, object] | Response:
    """The request's body, or what is answered to one that is none."""
    try:
        document = await request.json()
    except ValueError:
        return _error(400, "The body is not valid JSON.")
    kinds = list if field == "messages" else str | list
    if not isinstance(document, dict) or not isinstance(document.get(field), kinds):
        return _error(400, f"{field} must be a {'list' if field == 'messages' else 'string or a list'}.")
    return document


class _Pieces:
    """A response sent piece by piece; one that breaks off sends half of its pieces, or half of its only one, and never its end."""

    def __init__(self, pieces: AsyncIterator[bytes], streamed: bool, *, breaks_off: bool = False) -> None:
        self._pieces = pieces
        self._type = b"text/event-stream" if streamed else b"application/json"
        self._breaks_off = breaks_off

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", self._type)]})
        if self._breaks_off:
            whole = [piece async for piece in self._pieces]
            half = whole[: len(whole) // 2] or [whole[0][: len(whole[0]) // 2]]
            for piece in half:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            return  # the server closes the connection on an unfinished answer
        async for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _paced(pieces: list[bytes], pause_s: float) -> AsyncIterator[bytes]:
    """A piece after each pause, counted from the start, so that one that was late makes no other late."""
    began = time.monotonic()
    for number, piece in enumerate(pieces, start=1):
        if pause_s:
            await asyncio.sleep(max(0.0, began + number * pause_s - time.monotonic()))
        yield piece


async def _listed(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def _error(status: int, message: str) -> Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    error: Mapping[str, object] = {"message": message, "type": kind, "param": None, "code": f"embedded_{status}"}
    return JSONResponse({"error": error}, status_code=status)
