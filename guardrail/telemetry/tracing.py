"""Spans of one exchange: the request, the judging of each stage, the call upstream.

with tracing.request(scope["headers"], method, path) as request:
    request.routed(route, tenant)
    with tracing.guard(route, Stage.INPUT) as guard:
        guard.decided(decision, parts)
    with tracing.upstream(Target(model, provider, server)) as upstream:
        headers = upstream.inject(headers)
        upstream.answered(status, usage, finish_reasons)
    request.answered(200)
"""

from collections.abc import Iterable, Mapping

from opentelemetry.trace import TracerProvider, get_tracer

from guardrail.telemetry import names
from guardrail.telemetry.capture import Capture
from guardrail.telemetry.guard_span import GuardSpan, Style
from guardrail.telemetry.names import GUARD_NAMES, Semconv
from guardrail.telemetry.request_span import RequestSpan
from guardrail.telemetry.upstream_span import Target, UpstreamSpan, parse_server, said_of
from guardrail.types import Route, Stage

__all__ = ["GuardSpan", "RequestSpan", "Target", "Tracing", "UpstreamSpan", "said_of"]


class Tracing:
    """Makes the spans. Only opentelemetry-api is needed; without a configured SDK every span is a cheap no-op.

    `tracer_provider` None means the process-wide one, so that an app with its own OpenTelemetry set-up sees our spans in it.
    `debug` adds a result event for every policy, not only for those that fired or erred.
    `trust_parent` False starts a new trace linked to the caller's instead of continuing it: a public caller can then neither
    choose trace ids nor switch sampling off. `remote` holds the addresses of the classifiers that run on a server, by name.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        *,
        semconv: Semconv = Semconv.V427,
        capture: Capture = Capture.OFF,
        debug: bool = False,
        trust_parent: bool = True,
        remote: Mapping[str, str] | None = None,
    ) -> None:
        self._tracer = get_tracer(names.SCOPE, tracer_provider=tracer_provider)
        servers = {name: server for name, url in (remote or {}).items() if (server := parse_server(url)) is not None}
        self._style = Style(GUARD_NAMES[semconv], capture, debug, servers)
        self._trust_parent = trust_parent

    def request(self, headers: Iterable[tuple[bytes, bytes]], method: str, path: str, *, scheme: str = "http") -> RequestSpan:
        """The span of one request. `headers` as ASGI gives them: only the W3C trace context is read from them. No query in `path`."""
        span = RequestSpan(self._tracer, method, path, scheme=scheme)
        span.continues(headers, adopt=self._trust_parent)
        return span

    def guard(self, route: Route, stage: Stage, *, growing: bool = False) -> GuardSpan:
        """The span around one stage's judging; `growing`: of an answer that is judged while it comes, by several tasks."""
        return GuardSpan(self._tracer, route, stage, self._style, current=not growing)

    def upstream(self, target: Target) -> UpstreamSpan:
        """The span around one call to an upstream."""
        return UpstreamSpan(self._tracer, target)
