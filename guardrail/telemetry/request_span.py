"""The span of one request, and the caller's trace context."""

from collections.abc import Iterable, Mapping
from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN_CONTEXT, Link, SpanKind, Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from guardrail.telemetry import names
from guardrail.telemetry.scope import Scope
from guardrail.telemetry.summary import error_code, short
from guardrail.types import Route

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_FIELDS: Final = frozenset(_PROPAGATOR.fields)
_LENGTHS: Final = frozenset(map(len, _FIELDS))
_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_LONGEST_HEADER: Final = 1024


class RequestSpan(Scope):
    """`POST /v1/chat/completions`: everything that happens to one request stands under it.

    A SERVER span, unless the app around us has a span open already: then it is an INTERNAL child of that one.
    """

    def __init__(self, tracer: Tracer, method: str, path: str, *, scheme: str) -> None:
        self._method = method if method in _METHODS else names.OTHER_METHOD
        self._path = short(path.partition("?")[0], 256)
        self._scheme = scheme
        super().__init__(tracer, "HTTP" if self._method == names.OTHER_METHOD else self._method, SpanKind.SERVER)

    def continues(self, headers: Iterable[tuple[bytes, bytes]], *, adopt: bool) -> None:
        """Say what this request is part of: the span that is open already, or the caller's trace (`adopt` False: only a link to it)."""
        if get_current_span().get_span_context().is_valid:
            self._kind = SpanKind.INTERNAL
            return
        parent = extract(headers)
        caller = get_current_span(parent).get_span_context() if parent else INVALID_SPAN_CONTEXT
        if adopt:
            self._parent = parent
        elif caller.is_valid:
            self._links = (Link(caller),)

    def _first_attributes(self) -> Mapping[str, AttributeValue]:
        return {names.HTTP_METHOD: self._method, names.URL_PATH: self._path, names.URL_SCHEME: self._scheme}

    def routed(self, route: Route, tenant: str, request_id: str = "") -> None:
        """The request has a route: its path pattern completes the span's name."""
        self._span.update_name(f"{self._method} {route.path}")
        told: dict[str, AttributeValue] = {
            names.HTTP_ROUTE: route.path,
            names.ROUTE: route.name,
            names.TENANT: tenant,
            names.GENERATION: route.generation,
        }
        if request_id:
            told[names.REQUEST_ID] = short(request_id)
        self._span.set_attributes(told)

    def took(self, overhead_s: float) -> None:
        """What guarding added to the request, in seconds: all of its time but the wait for the upstream."""
        self._span.set_attribute(names.OVERHEAD, round(overhead_s * 1000, 3))

    def answered(self, status: int, code: str | None = None) -> None:
        """The status sent to the client, and the code of our own error answer if it was one. Only 5xx is a fault of the server."""
        self._span.set_attribute(names.HTTP_STATUS, status)
        if code is not None:
            self._span.set_attribute(names.CODE, error_code(code))
        if status >= 500:
            self._failed(error_code(code) if code is not None else str(status))


def extract(headers: Iterable[tuple[bytes, bytes]]) -> Context:
    """The W3C trace context of ASGI headers; an empty one for none, several, or malformed."""
    carrier: dict[str, str] = {}
    for raw, value in headers:
        if len(raw) not in _LENGTHS or (name := raw.decode("latin-1").lower()) not in _FIELDS or len(value) > _LONGEST_HEADER:
            continue
        if name in carrier and name == "traceparent":
            return Context()
        text = value.decode("latin-1")
        carrier[name] = f"{carrier[name]},{text}" if name in carrier else text
    return _PROPAGATOR.extract(carrier, Context()) if carrier else Context()
