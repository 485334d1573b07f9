"""The client's end of the line: one response, whole or in pieces, each send bounded in time."""

import asyncio
from collections.abc import Iterable

from guardrail.asgi.intake import ClientGoneError
from guardrail.asgi.messages import RawHeaders, Send, body, raw_headers, start
from guardrail.wire.refusal import Reply

_OURS = b"x-guardrail-"
_REQUEST_ID = b"x-request-id"
_UNBLOCKED_BYTES = 32_768  # a server buffers this much before it waits for the client, so that small answers need no timer


class Outlet:
    """Sends one response. `status` is what was sent, None before anything was; a client too slow to take it raises ClientGoneError."""

    def __init__(self, send: Send, *, request_id: str, timeout_s: float) -> None:
        self._send = send
        self.request_id = request_id
        self._timeout_s = timeout_s
        self._written = 0
        self.status: int | None = None
        self.complete = False

    async def reply(self, reply: Reply, extra: Iterable[tuple[str, str]] = ()) -> None:
        """A whole response of our own."""
        headers = raw_headers((*reply.headers, *extra))
        headers.append((b"content-length", str(len(reply.body)).encode()))
        await self.open(reply.status, headers)
        await self.write(reply.body)

    async def open(self, status: int, headers: RawHeaders) -> None:
        """The head. Our request id goes with it; headers that would imitate ours must have been taken out by `foreign`."""
        self.status = status
        headers.append((_REQUEST_ID, self.request_id.encode("ascii")))
        await self._bounded(start(status, headers))

    async def write(self, content: bytes, *, more: bool = False) -> None:
        """A piece of the body."""
        self.complete = not more
        self._written += len(content)
        await self._bounded(body(content, more=more))

    async def _bounded(self, message: dict[str, object]) -> None:
        if self._written <= _UNBLOCKED_BYTES:
            await self._send(message)
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send(message)
        except TimeoutError:
            raise ClientGoneError from None


def foreign(headers: Iterable[tuple[bytes, bytes]], *, without: frozenset[bytes] = frozenset()) -> RawHeaders:
    """An upstream's headers as they may be passed on: none that imitates ours, its request id under another name."""
    passed: RawHeaders = []
    for name, value in headers:
        name = name.lower()
        if name in without or name.startswith(_OURS):
            continue
        passed.append((b"x-upstream-request-id" if name == _REQUEST_ID else name, value))
    return passed
