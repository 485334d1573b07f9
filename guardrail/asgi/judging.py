"""The check endpoints: they judge what they are sent and generate nothing. Other gateways plug the guard in by them."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from guardrail.asgi.intake import ClientGoneError, check_headers, read_body, request_id
from guardrail.asgi.messages import Receive, Scope, Send
from guardrail.asgi.outlet import Outlet
from guardrail.asgi.paths import local_path
from guardrail.asgi.service import GuardService
from guardrail.asgi.tenant import caller
from guardrail.errors import ClassifierError, GuardrailError, WireError
from guardrail.events import RequestRefused
from guardrail.guard import Origin
from guardrail.routing import RouteTable
from guardrail.telemetry.tracing import RequestSpan
from guardrail.types import Decision, Route
from guardrail.wire.check import parse_check
from guardrail.wire.detectors import parse_chat_detection, parse_contents, parse_context_detection, parse_generation_detection
from guardrail.wire.generic_guardrail import parse_generic_guardrail
from guardrail.wire.inquiry import Inquiry, Place
from guardrail.wire.label import parse_label
from guardrail.wire.moderations import parse_moderation
from guardrail.wire.refusal import Reply, decision_headers, detector_error, wire_error

ANY_MODEL = "*"


@dataclass(frozen=True, slots=True)
class CheckEndpoint:
    """One of them. `protocol` is its name in records, `parse` reads body and (lower-case) headers, `refuse` spells an error."""

    path: str
    protocol: str
    parse: Callable[[bytes, Mapping[str, str]], Inquiry]
    refuse: Callable[[WireError], Reply] = wire_error


CHECK_ENDPOINTS = (
    CheckEndpoint("/v1/guard/check", "guardrail.check", parse_check),
    CheckEndpoint("/v1/label", "zentropi.label", parse_label),
    CheckEndpoint("/v1/moderations", "openai.moderations", parse_moderation),
    CheckEndpoint("/beta/litellm_basic_guardrail_api", "litellm.guardrail", parse_generic_guardrail),
    CheckEndpoint("/api/v1/text/contents", "fms.contents", parse_contents, detector_error),
    CheckEndpoint("/api/v1/text/chat", "fms.chat", parse_chat_detection, detector_error),
    CheckEndpoint("/api/v1/text/generation", "fms.generation", parse_generation_detection, detector_error),
    CheckEndpoint("/api/v1/text/context/doc", "fms.context", parse_context_detection, detector_error),
)
"""Every check endpoint that the proxy serves."""


class CheckApp:
    """One check endpoint as an ASGI app; stateless."""

    def __init__(self, service: GuardService, endpoint: CheckEndpoint) -> None:
        self._service = service
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        service, tracing = self._service, self._service.tracing
        outlet = Outlet(send, request_id=request_id(scope["headers"]), timeout_s=service.limits.client_timeout_s)
        if tracing is None:
            await self._answer(scope, receive, outlet, None)
            return
        with tracing.request(scope["headers"], scope["method"], local_path(scope), scheme=scope.get("scheme", "http")) as span:
            await self._answer(scope, receive, outlet, span)
            if outlet.status is not None:
                span.answered(outlet.status)

    async def _answer(self, scope: Scope, receive: Receive, outlet: Outlet, span: RequestSpan | None) -> None:
        tenant = ""
        try:
            with self._service.place():
                tenant = self._admit(scope)
                inquiry = await self._inquiry(scope, receive)
                route = await self._route(inquiry, tenant)
                if span is not None:
                    span.routed(route, tenant, outlet.request_id)
                decision = await self._judge(inquiry, route, tenant, outlet.request_id)
                extra = decision_headers((decision,), overhead_s=decision.duration_s)
                await outlet.reply(inquiry.answer(decision), extra)
        except WireError as error:
            refused = RequestRefused(error.status, error.code, outlet.request_id, tenant, self._endpoint.path)
            self._service.events.emit(refused)
            with contextlib.suppress(ClientGoneError):
                await outlet.reply(self._endpoint.refuse(error), (("allow", "POST"),) if error.status == 405 else ())
        except ClientGoneError:
            return

    def _admit(self, scope: Scope) -> str:
        """The tenant. Raises WireError."""
        if self._service.table is None:
            raise WireError(503, "guardrail_unavailable", "The guard is not running.")
        if b"%" in (scope.get("raw_path") or b"").partition(b"?")[0]:
            raise WireError(404, "not_found", "This path is not served here.")
        if scope["method"] != "POST":
            raise WireError(405, "method_not_allowed", "Only POST is served here.")
        tenant = caller(self._service.tenants, scope["headers"])
        check_headers(scope["headers"], max_bytes=self._service.limits.max_body_bytes)
        return tenant

    async def _inquiry(self, scope: Scope, receive: Receive) -> Inquiry:
        limits = self._service.limits
        body = await read_body(receive, max_bytes=limits.max_body_bytes, timeout_s=limits.client_timeout_s)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        return self._endpoint.parse(body, headers)

    async def _route(self, inquiry: Inquiry, tenant: str) -> Route:
        table = self._service.table
        if table is None:
            raise WireError(503, "guardrail_unavailable", "The guard is not running.")
        route = placed(table, inquiry.place, tenant)
        if inquiry.policies is None:
            if inquiry.scores and not route.checks(inquiry.stage):
                raise WireError(422, "nothing_to_check", "The route has no policies for this.")
            return route
        try:
            return await self._service.narrowed(route, inquiry.stage, inquiry.policies, tenant=tenant)
        except ClassifierError:
            raise WireError(503, "guardrail_unavailable", "The content could not be checked.") from None
        except GuardrailError:
            raise WireError(404, "policy_not_found", "There is no such policy.") from None

    async def _judge(self, inquiry: Inquiry, route: Route, tenant: str, asked: str) -> Decision:
        origin = Origin(asked, inquiry.place.model or "", self._endpoint.protocol)
        return await self._service.judgement.judge(inquiry.parts, route, inquiry.stage, tenant=tenant, origin=origin)


def placed(table: RouteTable, place: Place, tenant: str) -> Route:
    """The caller's own route that answers a question. Raises WireError (404) where there is none: never another one instead."""
    routes = table.for_tenant(tenant)
    if place.path is not None:
        found = table.match(place.path, place.model or ANY_MODEL, tenant)
        if found is None:
            raise WireError(404, "model_not_found", "No route serves this model.", param="model")
        return found
    if place.route is not None:
        found = next((route for route in routes if route.name == place.route), None)
        if found is None:
            raise WireError(404, "route_not_found", "There is no such route for this caller.", param="route")
        return found
    if not routes:
        raise WireError(404, "route_not_found", "There is no route for this caller.")
    return next((route for route in routes if route.name == place.preferred), routes[0])
