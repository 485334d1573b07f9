"""The client's end of the line: one response, whole or in pieces, each send bounded in time."""

import asyncio
from collections.abc import Callable, Iterable

from guardrail.asgi.intake import ClientGoneError
from guardrail.asgi.messages import RawHeaders, Send, body, raw_headers, start
from guardrail.wire.refusal import Reply

_OURS = b"x-guardrail-"
_REQUEST_ID = b"x-request-id"
_ALLOWANCE = b"x-ratelimit-"
_PIECE_BYTES = 262_144  # a server waits for the client only between pieces, and buffers a single one whole


class Outlet:
    """Sends one response; a client too slow to take it raises ClientGoneError.

    `shape` spells errors as the client's protocol does. `status` is what was sent, None before anything was. `allowance`: headers that say
    what the caller has left, and go in the place of an upstream's.
    """

    def __init__(self, send: Send, *, request_id: str, timeout_s: float, shape: Callable[[Reply], Reply] | None = None) -> None:
        self._send = send
        self._shape = shape
        self.request_id = request_id
        self._timeout_s = timeout_s
        self.status: int | None = None
        self.allowance: RawHeaders = []
        self.complete = False

    async def reply(self, reply: Reply, extra: Iterable[tuple[str, str]] = ()) -> None:
        """A whole response of our own; an error in the protocol's shape."""
        if self._shape is not None and reply.status >= 400:
            reply = self._shape(reply)
        headers = raw_headers((*reply.headers, *extra))
        headers.append((b"content-length", str(len(reply.body)).encode()))
        await self.open(reply.status, headers)
        await self.write(reply.body)

    async def open(self, status: int, headers: RawHeaders) -> None:
        """The head. Our request id goes with it; headers that would imitate ours must have been taken out by `foreign`."""
        self.status = status
        if self.allowance:
            headers[:] = [pair for pair in headers if not pair[0].startswith(_ALLOWANCE)] + self.allowance
        headers.append((_REQUEST_ID, self.request_id.encode("ascii")))
        await self._bounded(start(status, headers))

    async def write(self, content: bytes, *, more: bool = False) -> None:
        """A piece of the body, the last one unless `more`."""
        rest = len(content) - _PIECE_BYTES
        if rest > 0:
            for begin in range(0, rest, _PIECE_BYTES):
                await self._bounded(body(content[begin : begin + _PIECE_BYTES], more=True))
            content = content[begin + _PIECE_BYTES :]
        self.complete = not more
        await self._bounded(body(content, more=more))

    async def _bounded(self, message: dict[str, object]) -> None:
        # Even a head can wait: behind an earlier answer of the same connection that the client does not take.
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
