"""Blocked and unjudged requests are exported whatever share of the others is: decided when a request is over, not when it begins."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.util.types import Attributes

from guardrail.telemetry import names

MOST_OPEN: Final = 4_096  # requests whose spans wait; beyond that the oldest one's are let go
MOST_SPANS: Final = 256  # of one request


class Recording(Sampler):
    """What another sampler drops is recorded all the same, unsampled as the upstream and exemplars see it, for `Keeping` to judge."""

    def __init__(self, inner: Sampler) -> None:
        self._inner = inner

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """The other sampler's answer, `RECORD_ONLY` in place of `DROP`."""
        found = self._inner.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        if found.decision is Decision.DROP:
            return SamplingResult(Decision.RECORD_ONLY, attributes, found.trace_state)
        return found

    def get_description(self) -> str:
        """The other one's, in brackets."""
        return f"Recording{{{self._inner.get_description()}}}"


class Keeping(SpanProcessor):
    """Holds the unsampled spans of each request until it ends, and gives them on if one of them says `guardrail.sampling.keep`.

    Sampled spans go through at once. What is held is bounded; nothing waits longer than its request lasts.
    """

    def __init__(self, onward: SpanProcessor) -> None:
        self._onward = onward
        self._open: OrderedDict[int, list[ReadableSpan]] = OrderedDict()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Begin to hold what will stand under a request's own span."""
        self._onward.on_start(span, parent_context)
        context = span.get_span_context()
        if context is None or context.trace_flags.sampled or _under(span):
            return
        self._open[context.trace_id] = []
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)

    def on_end(self, span: ReadableSpan) -> None:
        """Hold, or give on."""
        context = span.context
        if context is None or context.trace_flags.sampled:
            self._onward.on_end(span)
            return
        held = self._open.get(context.trace_id)
        if held is None:
            return
        if len(held) < MOST_SPANS or not _under(span):
            held.append(span)
        if _under(span):
            return
        del self._open[context.trace_id]
        if any((each.attributes or {}).get(names.KEEP) is True for each in held):
            for each in held:
                self._onward.on_end(_sampled(each))

    def shutdown(self) -> None:
        """Let go of what is held, and send the rest."""
        self._open.clear()
        self._onward.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what was given on."""
        return self._onward.force_flush(timeout_millis)


def _under(span: ReadableSpan) -> bool:
    """Whether a span stands under another one of this process."""
    return span.parent is not None and not span.parent.is_remote


def _sampled(span: ReadableSpan) -> ReadableSpan:
    """The same span, flagged as one that is exported."""
    context, flagged = span.context, None
    if context is not None:
        flags = TraceFlags(context.trace_flags | TraceFlags.SAMPLED)
        flagged = SpanContext(context.trace_id, context.span_id, context.is_remote, flags, context.trace_state)
    return ReadableSpan(
        span.name,
        flagged,
        span.parent,
        span.resource,
        span.attributes,
        span.events,
        span.links,
        span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )
