"""`GuardMiddleware`: put it around an ASGI app and that app's inference endpoints are judged, prompt and answer."""

from collections.abc import Collection

from guardrail.asgi.messages import ASGIApp, Message, Receive, Scope, Send
from guardrail.asgi.paths import Kind, Paths
from guardrail.asgi.responder import GuardResponder
from guardrail.asgi.service import GuardService
from guardrail.config.models import GUARDED_PATHS
from guardrail.errors import WireError


class GuardMiddleware:
    """Holds configuration only; a `GuardResponder` made for each request holds its state.

    `guard` is what `guardrail.assembly.open_guard()` made; start it in the app's lifespan (`async with guard:`). Guarded are the
    paths of its routes. Other inference paths, known by their endings wherever they are mounted (`/images/generations`,
    `/realtime`, …), and other spellings of guarded ones, are answered 404 because they would not be judged; those named in
    `unguarded` (`/rooms/*/messages`, a `*` for one segment) reach the app unjudged, on your word; so does a guarded one that is named
    there letter by letter, unless a route names it, too. Everything else of the app is left alone, and so is, with `preflights`, a
    browser's question whether another site may ask (an OPTIONS request, which reaches the app without its body).
    """

    def __init__(self, app: ASGIApp, guard: GuardService, *, unguarded: Collection[str] = (), preflights: bool = True) -> None:
        self._app = app
        self._preflights = preflights
        self._service = guard
        named = {route.path for route in guard.config.routes} & set(GUARDED_PATHS)
        every = {path for route in guard.config.routes for path in route.paths}
        self._paths = Paths(named | (every - set(unguarded)), unguarded=unguarded)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        kind = self._paths.kind(scope)
        if kind is Kind.OTHER:
            await self._app(scope, receive, send)
        elif kind is Kind.GUARDED and self._preflights and _is_preflight(scope):
            await self._app(scope, _Empty(receive), send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "not guarded"})
        else:
            await self._guarded(kind, GuardResponder(self._app, self._service, scope, receive, send))

    async def _guarded(self, kind: Kind, respond: GuardResponder) -> None:
        if kind is Kind.REFUSED:
            await respond.refuse(WireError(404, "not_found", "This path is not served here."))
            return
        await respond()


def _is_preflight(scope: Scope) -> bool:
    """A question of a browser's: https://fetch.spec.whatwg.org/#cors-preflight-request."""
    asked = {name for name, _ in scope["headers"]}
    return scope.get("method") == "OPTIONS" and {b"origin", b"access-control-request-method"} <= asked


class _Empty:
    """The messages of a request without its body, in which something could be asked."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive

    async def __call__(self) -> Message:
        message = await self._receive()
        return {**message, "body": b""} if message["type"] == "http.request" else message
