"""The console's pages at their addresses, each with its `.json` twin."""

import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route, compile_path

from guardrail.asgi.aside import UnknownApp
from guardrail.asgi.service import GuardService
from guardrail.audit.store import AuditReader
from guardrail.config.console import ConsoleConfig
from guardrail.console.decisions import decisions
from guardrail.console.door import FIRST, LOGIN, ROOT, Door, Keeper
from guardrail.console.explained import decision
from guardrail.console.health import health
from guardrail.console.history import PolicyHistory
from guardrail.console.overview import overview
from guardrail.console.page import HERE, Page, Renderer, Visit
from guardrail.console.playground import playground
from guardrail.console.policies import policies, policy, run_tests
from guardrail.console.replaying import replay
from guardrail.console.room import Room
from guardrail.console.sessions import Failures, Sessions
from guardrail.errors import GuardrailError, WireError

Handler = Callable[[Room, Visit], Awaitable[Page | Response]]

PAGES: tuple[tuple[str, tuple[str, ...], Handler], ...] = (
    ("/overview", ("GET",), overview),
    ("/decisions", ("GET",), decisions),
    ("/decisions/{id}", ("GET",), decision),
    ("/decisions/{id}/replay", ("POST",), replay),
    ("/policies", ("GET",), policies),
    ("/policies/{id}", ("GET",), policy),
    ("/policies/{id}/test", ("POST",), run_tests),
    ("/playground", ("GET", "POST"), playground),
    ("/health", ("GET",), health),
)
_TITLES = {404: "Not found", 405: "Not possible", 413: "Too long", 503: "Not possible now"}
STATIC = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}


class Console:
    """The console of a process. `secret` signs the sessions: processes that share it take one another's, and in the folder `ended` tell
    one another of those that were ended.

    `history` is to be told of events; it remembers which policies were in force.
    """

    def __init__(self, settings: ConsoleConfig, secret: bytes | None = None, ended: Path | None = None) -> None:
        self._settings = settings
        lifetime_s = settings.session_minutes * 60
        self._sessions = Sessions(settings.admin_key, secret or secrets.token_bytes(32), lifetime_s=lifetime_s, shared=ended)
        self.history = PolicyHistory()

    def routes(self, service: GuardService, audit: AuditReader | None) -> list[BaseRoute]:
        """What is to be served beside the proxy, over a guard and its audit store, if there is one."""
        self.history.follow(lambda: service.publisher.sets if service.publisher is not None else None)
        renderer = Renderer()
        pages = _Pages(Room(service, self._settings, audit, self.history), renderer)
        keeper = Keeper(self._sessions, Failures(), self._settings.public)
        door = Door(pages, keeper, renderer, unknown=UnknownApp(service))
        return [Route(ROOT, door), Mount(ROOT, door)]


def invitation(admin_key: str, secret: bytes) -> str:
    """The path of a link that signs in once, within an hour: for the one who started the process."""
    return f"{LOGIN}?invitation={Sessions(admin_key, secret, lifetime_s=0).invitation()}"


class _Pages:
    """Finds the page of an address, makes it and renders it."""

    def __init__(self, room: Room, renderer: Renderer) -> None:
        self._room = room
        self._renderer = renderer
        self._table = [(compile_path(path), methods, handler) for path, methods, handler in PAGES]

    async def __call__(self, visit: Visit) -> Response:
        """The answer to a request that was let in."""
        path = visit.request.url.path.removeprefix(ROOT)
        if path in ("", "/"):
            return RedirectResponse(FIRST, 303)
        if path.startswith("/static/"):
            return _static(path.removeprefix("/static/"))
        try:
            answer = await self._page(path.removesuffix(".json"), visit)
        except WireError as error:
            answer = Page("fault.html", _TITLES.get(error.status, "Not possible"), {"error": str(error)}, status=error.status)
        except GuardrailError as error:
            answer = Page("fault.html", "Not possible now", {"error": str(error)}, status=503)
        return self._renderer.answer(answer, visit) if isinstance(answer, Page) else answer

    async def _page(self, path: str, visit: Visit) -> Page | Response:
        allowed: set[str] = set()
        method = "GET" if visit.request.method == "HEAD" else visit.request.method
        for (pattern, _, _), methods, handler in self._table:
            if found := pattern.match(path):
                if method in methods:
                    visit.request.scope["path_params"] = found.groupdict()
                    return await handler(self._room, visit)
                allowed.update(methods)
        if allowed:
            raise WireError(405, "method_not_allowed", f"Only {', '.join(sorted(allowed))} is served here.")
        raise WireError(404, "not_found", "There is no such page.")


def _static(name: str) -> Response:
    if name not in STATIC:
        raise WireError(404, "not_found", "There is no such file.")
    return FileResponse(HERE / "static" / name, media_type=STATIC[name])
