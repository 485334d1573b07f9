"""The way in: nobody from elsewhere, nobody without the admin key, no form that was not made here."""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guardrail.asgi.intake import ClientGoneError, read_body
from guardrail.asgi.tenant import api_key
from guardrail.console.access import HEADERS, is_local, is_same_site
from guardrail.console.page import Page, Renderer, Visit
from guardrail.console.sessions import COOKIE, Failures, Session, Sessions
from guardrail.errors import WireError

ROOT = "/console"
LOGIN = f"{ROOT}/login"
FIRST = f"{ROOT}/overview"
MAX_FORM_BYTES = 512 * 1024
MAX_FIELDS = 64
FORM_TIMEOUT_S = 20.0

Answering = Callable[[Visit], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Keeper:
    """What the door needs to know: who is in, who tried, and whether other machines may come."""

    sessions: Sessions
    failures: Failures
    public: bool


class Door:
    """The console as an ASGI app. To whom may not see it, it is `unknown`: there is nothing at that path."""

    def __init__(self, answering: Answering, keeper: Keeper, renderer: Renderer, *, unknown: ASGIApp) -> None:
        self._answering = answering
        self._keeper = keeper
        self._renderer = renderer
        self._unknown = unknown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if not (self._keeper.public or is_local(scope)):
            await self._unknown({**scope, "root_path": ""}, receive, send)  # told of with its whole path
            return
        try:
            response = await self._answer(Request(scope, receive))
        except ClientGoneError:
            return
        except WireError as error:
            response = JSONResponse({"error": str(error)}, status_code=error.status)
        await response(scope, receive, _with_headers(send))

    async def _answer(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD", "POST"):
            raise WireError(405, "method_not_allowed", "Only GET, HEAD and POST are served here.")
        path, posted = request.url.path, request.method == "POST"
        form: Mapping[str, str] = {}
        if posted:
            if not is_same_site(request.scope):
                raise WireError(403, "cross_site", "This form was not sent by a page of this console.")
            form = await _form(request)
        session = self._keeper.sessions.read(request.cookies.get(COOKIE))
        visit = Visit(request, session, form, twin=path.endswith(".json"))
        if path == LOGIN:
            return self._sign_in(visit) if posted else self._login(visit)
        if path.startswith(f"{ROOT}/static/"):
            return await self._answering(visit)
        if session is None:
            return await self._without_session(visit)
        if posted and not _same(form.get("token", ""), session):
            raise WireError(403, "stale_form", "This form is of another session; go back, load the page again and send it once more.")
        if path == f"{ROOT}/logout":
            return self._sign_out(session, posted=posted)
        return await self._answering(visit)

    async def _without_session(self, visit: Visit) -> Response:
        """A program may read the twins with the admin key; a person is asked to sign in."""
        request = visit.request
        if visit.twin and request.method != "POST":
            key = api_key(request.scope["headers"])
            address = _address(request)
            if key is not None and not self._keeper.failures.wait_s(address):
                if self._keeper.sessions.opens(key):
                    return await self._answering(visit)
                self._keeper.failures.note(address)
            headers = {"www-authenticate": "Bearer"}
            return JSONResponse({"error": "Sign in, or send the admin key as a bearer token."}, status_code=401, headers=headers)
        if request.method == "POST":
            raise WireError(403, "signed_out", "You are signed out; sign in and send the form once more.")
        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{LOGIN}?{urlencode({'next': wanted})}", 303)

    def _login(self, visit: Visit) -> Response:
        invitation = visit.asked("invitation") if visit.request.method == "GET" else ""
        if invitation and self._keeper.sessions.accept(invitation):
            return self._let_in(visit, _inside(visit.asked("next")))
        fault = "This link was used already, or is too old. Sign in with the admin key." if invitation else ""
        return self._form_page(visit, fault, status=200)

    def _sign_in(self, visit: Visit) -> Response:
        address = _address(visit.request)
        if wait_s := self._keeper.failures.wait_s(address):
            response = self._form_page(visit, f"Too many wrong keys. Try again in {wait_s:.0f} seconds.", status=429)
            response.headers["retry-after"] = str(max(1, round(wait_s)))
            return response
        if not self._keeper.sessions.opens(visit.form.get("key", "")):
            self._keeper.failures.note(address)
            return self._form_page(visit, "That is not the admin key.", status=403)
        return self._let_in(visit, _inside(visit.form.get("next", "")))

    def _let_in(self, visit: Visit, to: str) -> Response:
        response = RedirectResponse(to, 303)
        sessions = self._keeper.sessions
        response.set_cookie(
            COOKIE,
            sessions.issue(),
            max_age=int(sessions.lifetime_s),
            path=ROOT,
            secure=visit.request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return response

    def _sign_out(self, session: Session, *, posted: bool) -> Response:
        if not posted:
            raise WireError(405, "method_not_allowed", "Sign out with the button.")
        self._keeper.sessions.end(session)
        response = RedirectResponse(LOGIN, 303)
        response.delete_cookie(COOKIE, path=ROOT, httponly=True, samesite="strict")
        return response

    def _form_page(self, visit: Visit, fault: str, *, status: int) -> Response:
        wanted = visit.form.get("next") or visit.asked("next")
        data = {"fault": fault, "wanted": _inside(wanted)}
        return self._renderer.answer(Page("login.html", "Sign in", data, status=status), visit)


def _inside(wanted: str) -> str:
    """Where to go after signing in: a page of the console, or its first one. Never another site."""
    plain = wanted.isprintable() and "\\" not in wanted
    inside = plain and wanted.startswith(f"{ROOT}/") and not wanted.startswith((LOGIN, f"{ROOT}/logout"))
    return wanted if inside else FIRST


def _same(token: str, session: Session) -> bool:
    return hmac.compare_digest(token.encode("utf-8", "replace"), session.token.encode())


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


async def _form(request: Request) -> Mapping[str, str]:
    """The fields of a form, the last of those with one name. Raises WireError for what no form of ours sends."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise WireError(415, "unsupported_media_type", "Send the form as application/x-www-form-urlencoded.")
    content = await read_body(request.receive, max_bytes=MAX_FORM_BYTES, timeout_s=FORM_TIMEOUT_S)
    try:
        return dict(parse_qsl(content.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        raise WireError(400, "invalid_form", f"A form has at most {MAX_FIELDS} fields.") from None


def _with_headers(send: Send) -> Send:
    """What every answer of the console says to browsers."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            ours = {name for name, _ in HEADERS}
            kept = [(name, value) for name, value in message.get("headers", []) if name.lower() not in ours]
            message = {**message, "headers": [*kept, *HEADERS]}
        await send(message)

    return sending
