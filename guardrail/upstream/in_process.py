"""An upstream that is an ASGI app in this very process: no socket, same interface, streamed and cancellable."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from guardrail.errors import UpstreamError
from guardrail.upstream.answer import Headers, Limits, Timeouts, UpstreamAnswer
from guardrail.upstream.bounded import bounded, joined
from guardrail.upstream.headers import forwarded, returned

Message = MutableMapping[str, Any]
ASGIApp = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


class InProcessUpstream:
    """Drives `app` with one task a request. `timeouts.read_s` and `limits.answer_bytes` hold as they do over HTTP."""

    def __init__(self, app: ASGIApp, *, timeouts: Timeouts | None = None, limits: Limits | None = None) -> None:
        self._app = app
        self._read_s = (timeouts or Timeouts()).read_s
        self._max_bytes = (limits or Limits()).answer_bytes

    @asynccontextmanager
    async def send(self, method: str, path: str, headers: Headers, body: bytes) -> AsyncIterator[UpstreamAnswer]:
        """See `Upstream.send`. Leaving cancels the app's task, as a closed connection would end it."""
        call = _Call(self._app, _scope(method, path, headers), body, self._read_s)
        try:
            head = await call.next_message()
            pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.get("headers", ())]
            yield _InProcessAnswer(call, int(head["status"]), returned(pairs), self._max_bytes)
        finally:
            await call.close()

    async def aclose(self) -> None:
        """Nothing is held between requests."""


class _Call:
    """One run of the app. The queue holds one message, so the app waits for a slow reader as it would on a socket."""

    def __init__(self, app: ASGIApp, scope: Message, body: bytes, read_s: float) -> None:
        self._messages: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)
        self._body: bytes | None = body
        self._read_s = read_s
        self._task = asyncio.ensure_future(app(scope, self._receive, self._messages.put))

    async def next_message(self) -> Message:
        """The app's next message. Raises UpstreamError: timeout, or disconnect where the app ended or failed before it."""
        if not self._messages.empty():
            return self._messages.get_nowait()
        getter = asyncio.ensure_future(self._messages.get())  # a message put in the app's last moment wakes it before the end is seen
        try:
            await asyncio.wait({getter, self._task}, timeout=self._read_s, return_when=asyncio.FIRST_COMPLETED)
            if getter.done():
                return getter.result()
        finally:
            getter.cancel()
        if self._task.done():
            raise UpstreamError("disconnect", "the upstream broke off")
        raise UpstreamError("timeout", "the upstream did not send anything in time")

    async def close(self) -> None:
        """End the app's task, whatever it is doing; what it raised was already told as a disconnect."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()

    async def _receive(self) -> Message:
        if self._body is None:
            await asyncio.Event().wait()  # a disconnect is a cancellation here
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _InProcessAnswer:
    def __init__(self, call: _Call, status: int, headers: tuple[tuple[str, str], ...], max_bytes: int) -> None:
        self._call = call
        self._max_bytes = max_bytes
        self.status = status
        self.headers = headers

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, once."""
        return bounded(self._body(), self._max_bytes)

    async def read(self) -> bytes:
        """The whole body."""
        return await joined(self.chunks())

    async def _body(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._call.next_message()
            more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]


def _scope(method: str, path: str, headers: Headers) -> Message:
    plain, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": plain,
        "raw_path": plain.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in forwarded(headers, None)],
        "client": None,
        "server": ("embedded", None),
    }
