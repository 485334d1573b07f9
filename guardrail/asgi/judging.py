"""The check endpoints: they judge what they are sent and generate nothing. Other gateways plug the guard in by them."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from guardrail.asgi.intake import LARGE_BODY
from guardrail.asgi.messages import Receive, Scope, Send
from guardrail.asgi.responder import GuardResponder
from guardrail.asgi.service import GuardService
from guardrail.asgi.tenant import caller
from guardrail.context import asks, without_prompt
from guardrail.conversation import scoped
from guardrail.errors import ClassifierError, GuardrailError, WireError
from guardrail.guard import Origin, Turn
from guardrail.routing import RouteTable
from guardrail.types import Decision, Mode, Part, Route, Stage
from guardrail.wire.check import parse_check
from guardrail.wire.definitions import DEFINITION
from guardrail.wire.detectors import parse_chat_detection, parse_contents, parse_context_detection, parse_generation_detection
from guardrail.wire.generic_guardrail import parse_generic_guardrail
from guardrail.wire.inquiry import Inquiry, Place
from guardrail.wire.label import parse_label
from guardrail.wire.moderations import parse_moderation
from guardrail.wire.refusal import Reply, decision_headers, detector_error, wire_error

ANY_MODEL = "*"


@dataclass(frozen=True, slots=True)
class CheckEndpoint:
    """One of them. `protocol` is its name in records, `parse` reads body and (lower-case) headers, `refuse` spells an error.

    `silent`: its answer tells only what was enforced, and not that nothing was, so that something must be.
    """

    path: str
    protocol: str
    parse: Callable[[bytes, Mapping[str, str]], Inquiry]
    refuse: Callable[[WireError], Reply] = wire_error
    silent: bool = False


CHECK_ENDPOINTS = (
    CheckEndpoint("/v1/guard/check", "guardrail.check", parse_check),
    CheckEndpoint("/v1/label", "zentropi.label", parse_label),
    CheckEndpoint("/v1/moderations", "openai.moderations", parse_moderation),
    CheckEndpoint("/beta/litellm_basic_guardrail_api", "litellm.guardrail", parse_generic_guardrail, silent=True),
    CheckEndpoint("/api/v1/text/contents", "fms.contents", parse_contents, detector_error, silent=True),
    CheckEndpoint("/api/v1/text/chat", "fms.chat", parse_chat_detection, detector_error, silent=True),
    CheckEndpoint("/api/v1/text/generation", "fms.generation", parse_generation_detection, detector_error, silent=True),
    CheckEndpoint("/api/v1/text/context/doc", "fms.context", parse_context_detection, detector_error, silent=True),
)
"""Every check endpoint that the proxy serves."""


class CheckApp:
    """One check endpoint as an ASGI app; stateless."""

    def __init__(self, service: GuardService, endpoint: CheckEndpoint) -> None:
        self._service = service
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        await _CheckResponder(self._endpoint, self._service, scope, receive, send)()


class _CheckResponder(GuardResponder):
    """One question. Nothing is behind it: what is not answered here is an error, in the endpoint's own shape."""

    def __init__(self, endpoint: CheckEndpoint, service: GuardService, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(_nothing_behind, service, scope, receive, send)
        self._endpoint = endpoint

    async def _respond(self) -> None:
        self._tenant = tenant = self._caller(self._scope)
        with self._service.admitted(tenant):
            self._outlet.allowance = self._service.quotas.headers(tenant)
            inquiry = await self._inquiry(self._scope)
            self._service.quotas.read(tenant, inquiry.parts)
            route = await self._route(inquiry, tenant)
            if inquiry.said and asks(route):
                self._service.quotas.read_more(tenant, inquiry.parts, (Part("prompt", inquiry.said),))
            if self._span is not None:
                self._span.routed(route, tenant, self._request_id)
            decision = await self._judge(inquiry, route, tenant, self._request_id)
            extra = decision_headers((decision,), overhead_s=decision.duration_s)
            await self._outlet.reply(inquiry.answer(decision), extra)

    def _spelled(self, error: WireError) -> Reply:
        return self._endpoint.refuse(error)

    def _defect(self) -> Reply:
        return self._endpoint.refuse(WireError(503, "internal_error", "The guard failed unexpectedly; nothing was judged."))

    def _caller(self, scope: Scope) -> str:
        """The tenant. Raises WireError."""
        if self._service.table is None:
            raise WireError(503, "guardrail_unavailable", "The guard is not running.")
        if b"%" in (scope.get("raw_path") or b"").partition(b"?")[0]:
            raise WireError(404, "not_found", "This path is not served here.")
        if scope["method"] != "POST":
            raise WireError(405, "method_not_allowed", "Only POST is served here.")
        return caller(self._service.tenants, scope["headers"])

    async def _inquiry(self, scope: Scope) -> Inquiry:
        body = await self._body()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        parse = self._endpoint.parse
        return parse(body, headers) if len(body) < LARGE_BODY else await asyncio.to_thread(parse, body, headers)

    async def _route(self, inquiry: Inquiry, tenant: str) -> Route:
        route = await self._asked(inquiry, tenant)
        silent = self._endpoint.silent or (inquiry.scores and inquiry.policies is None)
        if silent and not any(check.mode is Mode.ENFORCE for check in route.checks(inquiry.stage)):
            raise WireError(422, "nothing_to_check", "The route enforces no policy for this, so nothing can be said about it.")
        return prompted(route, inquiry)

    async def _asked(self, inquiry: Inquiry, tenant: str) -> Route:
        table = self._service.table
        if table is None:
            raise WireError(503, "guardrail_unavailable", "The guard is not running.")
        route = placed(table, inquiry.place, tenant)
        if inquiry.policies is None:
            return route
        if criteria := [Part(policy.id, policy.body) for policy in self._service.unprepared(route, inquiry.policies)]:
            self._service.quotas.read_more(tenant, inquiry.parts, criteria)
        try:
            return await self._service.narrowed(route, inquiry.stage, inquiry.policies, tenant=tenant)
        except WireError:
            raise
        except ClassifierError:
            raise WireError(503, "guardrail_unavailable", "The content could not be checked.") from None
        except GuardrailError:
            raise WireError(404, "policy_not_found", "There is no such policy.") from None

    async def _judge(self, inquiry: Inquiry, route: Route, tenant: str, asked: str) -> Decision:
        origin = Origin(asked, inquiry.place.model or "", self._endpoint.protocol)
        turn = Turn(route, inquiry.stage, tenant, origin, time.monotonic(), context=inquiry.said)
        parts = [part for part in inquiry.parts if not (route.definitions == "trust" and part.kind == DEFINITION)]
        return await self._service.judgement.judge(scoped(parts, inquiry.history, route.scope), turn)


async def _nothing_behind(scope: Scope, receive: Receive, send: Send) -> None:
    del scope, receive, send
    raise GuardrailError("a check calls no app")


def prompted(route: Route, inquiry: Inquiry) -> Route:
    """The route as it can judge this question. Raises WireError (422) for an answer that lacks the prompt that it has to be judged with."""
    return without_prompt(route) if inquiry.stage is Stage.OUTPUT and inquiry.said is None else route


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
