"""The app behind the guard in a proxy: it sends the judged request on, byte for byte, and the answer back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping

from guardrail.asgi.exchange import SCOPE_KEY, Exchange
from guardrail.asgi.messages import Receive, Scope, Send, body, raw_headers, start
from guardrail.asgi.paths import local_path
from guardrail.asgi.tenant import CREDENTIALS
from guardrail.errors import UpstreamError
from guardrail.upstream.answer import Upstream

_PARTING_S = 0.05  # for the end of the connection's answer, which usually follows `[DONE]` at once: then the connection can be kept


class ForwardApp:
    """Sends to the upstream of the exchange's route. `private`: the client's credentials are ours (tenant keys) and stay here."""

    def __init__(self, upstreams: Mapping[str, Upstream], *, private: bool) -> None:
        self._upstreams = upstreams
        self._private = private

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry, below `GuardMiddleware` only. Raises UpstreamError, which the guard answers."""
        del receive  # the guard has read the body
        exchange: Exchange = scope[SCOPE_KEY]
        exchange.attentive = True
        upstream = self._upstreams[exchange.route.upstream]
        # A query stays here: chat completions have none, so that none is judged.
        headers = forwarded(scope["headers"], private=self._private)
        rest: int | None = None
        with contextlib.suppress(_HungUp):
            async with _until_hung_up(exchange), upstream.send("POST", local_path(scope), headers, exchange.body) as answer:
                await send(start(answer.status, raw_headers(answer.headers)))
                chunks = answer.chunks()
                # Where nothing is judged, the announced last byte ends the answer: one message less on the way.
                rest = None if exchange.route.output else announced(answer.headers)
                async for chunk in chunks:
                    rest = None if rest is None else rest - len(chunk)
                    await send(body(chunk, more=rest != 0))
                    if exchange.whole:
                        await _part(chunks)
                        break
        if rest != 0:
            await send(body(b""))  # after the connection was given back: judging the answer must not hold it


class _HungUp(Exception):  # noqa: N818  (no error)
    """The client has its answer before the upstream was done with its own."""


@contextlib.asynccontextmanager
async def _until_hung_up(exchange: Exchange) -> AsyncIterator[None]:
    """What is within ends at once, with `_HungUp`, when the exchange's `hang_up` is called."""
    try:
        async with asyncio.timeout(None) as patience:
            exchange.hang_up = lambda: patience.reschedule(0)
            try:
                yield
            finally:
                exchange.hang_up = None
    except TimeoutError:
        if not patience.expired():
            raise
        raise _HungUp from None


def announced(headers: Iterable[tuple[str, str]]) -> int | None:
    """The length a head announces, None where it does not."""
    lengths = [value for name, value in headers if name.lower() == "content-length"]
    return int(lengths[0]) if len(lengths) == 1 and lengths[0].isdigit() and len(lengths[0]) < 19 else None


async def _part(chunks: AsyncIterator[bytes]) -> None:
    """Give the upstream a moment to end its answer; what it does instead no longer matters."""
    with contextlib.suppress(TimeoutError, UpstreamError):
        async with asyncio.timeout(_PARTING_S):
            await anext(chunks, None)


def forwarded(headers: Iterable[tuple[bytes, bytes]], *, private: bool) -> list[tuple[str, str]]:
    """The client's headers for the upstream, without ours and, if `private`, without its credentials."""
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if not (private and name in CREDENTIALS) and not name.startswith(b"x-guardrail-")
    ]
