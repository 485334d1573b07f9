"""What a proxy answers beside the guarded paths: the list of models, and 404."""

import contextlib
from collections.abc import Mapping

from guardrail.asgi.forward import forwarded
from guardrail.asgi.intake import ClientGoneError, request_id
from guardrail.asgi.messages import Receive, Scope, Send, raw_headers
from guardrail.asgi.outlet import Outlet, foreign
from guardrail.asgi.paths import canonical, local_path
from guardrail.asgi.service import GuardService
from guardrail.asgi.tenant import caller
from guardrail.errors import UpstreamError, WireError
from guardrail.events import RequestRefused, UpstreamFailed
from guardrail.types import Route
from guardrail.upstream.answer import Upstream
from guardrail.wire.refusal import Reply, upstream_failure, wire_error

_DROPPED = frozenset({b"content-length", b"content-type", b"transfer-encoding"})


class UnknownApp:
    """404, in OpenAI's shape, told to the observers."""

    def __init__(self, service: GuardService) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        del receive
        error = WireError(404, "not_found", "This path is not served here.")
        await _refuse(self._service, scope, _outlet(self._service, scope, send), error)


class ModelsApp:
    """`GET /v1/models`, from the upstream of the caller's first route. The answer holds names, no text, and is not judged."""

    def __init__(self, service: GuardService, upstreams: Mapping[str, Upstream]) -> None:
        self._service = service
        self._upstreams = upstreams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        del receive
        outlet = _outlet(self._service, scope, send)
        tenant = ""
        try:
            tenant = self._caller(scope)
            with self._service.admitted(tenant):
                outlet.allowance = self._service.quotas.headers(tenant)
                await self._answer(scope, outlet, tenant)
        except WireError as error:
            outlet.allowance = self._service.quotas.headers(tenant)
            await _refuse(self._service, scope, outlet, error, tenant=tenant)
        except ClientGoneError:
            return

    async def _answer(self, scope: Scope, outlet: Outlet, tenant: str) -> None:
        route = self._route(tenant)
        headers = forwarded(scope["headers"], private=self._service.tenants.configured)
        try:
            upstream = self._upstreams[route.upstream]
            async with upstream.send("GET", local_path(scope), headers, b"") as answer:
                content = await answer.read()
                found = raw_headers(answer.headers)
                status = answer.status
            if 300 <= status < 400 or status < 200:
                raise UpstreamError("malformed", f"the upstream answered with status {status}")
        except UpstreamError as error:
            self._service.events.emit(UpstreamFailed(error.code, route.upstream, outlet.request_id, route.name))
            await outlet.reply(upstream_failure(error))
            return
        if status >= 400:
            self._service.events.emit(UpstreamFailed(f"status_{status}", route.upstream, outlet.request_id, route.name))
        media = next((value for name, value in found if name == b"content-type"), b"application/json").decode("latin-1")
        extra = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in foreign(found, without=_DROPPED)]
        await outlet.reply(Reply(status, (("content-type", media),), content), extra)

    def _caller(self, scope: Scope) -> str:
        if self._service.table is None:
            raise WireError(503, "guardrail_unavailable", "The guard is not running.")
        if scope["method"] not in ("GET", "HEAD"):
            raise WireError(405, "method_not_allowed", "Only GET is served here.")
        path = local_path(scope)
        if canonical(path) != path.casefold() or b"%" in (scope.get("raw_path") or b""):
            raise WireError(404, "not_found", "This path is not served here.")
        return caller(self._service.tenants, scope["headers"])

    def _route(self, tenant: str) -> Route:
        table = self._service.table
        routes = () if table is None else table.for_tenant(tenant)
        if not routes:
            raise WireError(404, "not_found", "There is no route for this caller.")
        return routes[0]


def _outlet(service: GuardService, scope: Scope, send: Send) -> Outlet:
    return Outlet(send, request_id=request_id(scope["headers"]), timeout_s=service.limits.client_timeout_s)


async def _refuse(service: GuardService, scope: Scope, outlet: Outlet, error: WireError, *, tenant: str = "") -> None:
    service.events.emit(RequestRefused(error.status, error.code, outlet.request_id, tenant, local_path(scope)[:256], error.limit))
    with contextlib.suppress(ClientGoneError):
        await outlet.reply(wire_error(error))
