"""An upstream that is an ASGI app in this very process: no socket, same interface, streamed and cancellable."""

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from guardrail.upstream.answer import Headers, Limits, Timeouts, UpstreamAnswer

Message = MutableMapping[str, Any]
ASGIApp = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


class InProcessUpstream:
    """Drives `app` with one task a request. `timeouts.read_s` and `limits.answer_bytes` hold as they do over HTTP."""

    def __init__(self, app: ASGIApp, *, timeouts: Timeouts | None = None, limits: Limits | None = None) -> None:
        raise NotImplementedError

    def send(self, method: str, path: str, headers: Headers, body: bytes) -> AbstractAsyncContextManager[UpstreamAnswer]:
        """See `Upstream.send`."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Nothing is held between requests."""
