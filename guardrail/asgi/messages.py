"""The ASGI vocabulary, and how a whole reply is put into it."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]


def raw_headers(headers: Iterable[tuple[str, str]]) -> RawHeaders:
    """Text headers as ASGI wants them."""
    return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first value of a (lower-case) header."""
    for key, value in headers:
        if key == name:
            return value
    return None


def start(status: int, headers: RawHeaders) -> dict[str, object]:
    """The head of a response."""
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(content: bytes, *, more: bool = False) -> dict[str, object]:
    """A piece of a response's body, the last one unless `more`."""
    return {"type": "http.response.body", "body": content, "more_body": more}
