"""An upstream behind a circuit breaker: one that is dying is not asked again by every request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from guardrail.breaker import Breaker
from guardrail.errors import UpstreamError
from guardrail.upstream.answer import Headers, Loading, Upstream, UpstreamAnswer

_FAILING = frozenset({502, 503, 504, 529})  # the server itself is in trouble; a 500 is as often the request's own doing
_BROKEN = frozenset({"connect", "timeout", "disconnect"})


class BreakingUpstream:
    """Asks the upstream as long as the breaker lets it. What counts is whether an answer begins; how it goes on does not."""

    def __init__(self, upstream: Upstream, breaker: Breaker) -> None:
        self._upstream = upstream
        self._breaker = breaker

    async def load(self) -> None:
        """Get the upstream ready where that takes long."""
        if isinstance(self._upstream, Loading):
            await self._upstream.load()

    @asynccontextmanager
    async def send(self, method: str, path: str, headers: Headers, body: bytes) -> AsyncIterator[UpstreamAnswer]:
        """See `Upstream.send`. Raises UpstreamError (circuit_open) when the upstream must not be asked."""
        ticket = self._breaker.begin()
        if ticket is None:
            wait_s = self._breaker.retry_after_s
            raise UpstreamError("circuit_open", "the upstream failed again and again, and is not asked now", retry_after_s=wait_s)
        ok: bool | None = None
        try:
            async with self._upstream.send(method, path, headers, body) as answer:
                ok = answer.status not in _FAILING
                self._breaker.end(ticket, ok)
                yield answer
        except UpstreamError as error:
            if ok is None and error.code in _BROKEN:
                ok = False
                self._breaker.end(ticket, ok)
            raise
        finally:
            if ok is None:  # the client left, or the answer cannot be read
                self._breaker.end(ticket, ok)

    async def aclose(self) -> None:
        """Close the upstream."""
        await self._upstream.aclose()
