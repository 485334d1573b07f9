"""The way of a span that is over to the collector: encoded at once, queued as bytes, sent as they are.

What waits in the queue is small so, and the thread that sends has nothing left to work out while requests are served.
"""

from collections.abc import Callable, Sequence
from typing import cast

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from guardrail.telemetry.otlp_spans import encode_request, encode_span

Send = Callable[[bytes], bool]
"""Posts one encoded request, tried again as the exporter does; whether it was taken."""


class Encoded:
    """A span as the batch processor needs to see it, and what it is on the wire."""

    __slots__ = ("content", "context", "scope")

    def __init__(self, context: SpanContext, scope: InstrumentationScope | None, content: bytes) -> None:
        self.context = context
        self.scope = scope
        self.content = content


class Encoding(SpanProcessor):
    """Gives sampled spans on, encoded."""

    def __init__(self, onward: SpanProcessor) -> None:
        self._onward = onward

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        """Nothing is to be done yet."""

    def on_end(self, span: ReadableSpan) -> None:
        """Encode it."""
        context = span.context
        if context is not None and context.trace_flags & TraceFlags.SAMPLED:
            encoded = Encoded(context, span.instrumentation_scope, encode_span(span))
            self._onward.on_end(cast("ReadableSpan", encoded))

    def shutdown(self) -> None:
        """Send what is left."""
        self._onward.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what there is."""
        return self._onward.force_flush(timeout_millis)


class EncodedExporter(SpanExporter):
    """Sends what `Encoding` made, by an exporter of the SDK's."""

    def __init__(self, inner: OTLPSpanExporter, send: Send, resource: Resource) -> None:
        self._inner = inner
        self._send = send
        self._resource = resource

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        batch = cast("Sequence[Encoded]", spans)
        taken = True
        for scope in dict.fromkeys(span.scope for span in batch):
            contents = [span.content for span in batch if span.scope == scope]
            taken &= self._send(encode_request(self._resource, scope, contents))
        return SpanExportResult.SUCCESS if taken else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Give up what is being sent."""
        self._inner.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing waits here."""
        del timeout_millis
        return True


def exporting(resource: Resource) -> SpanProcessor:
    """Spans of a resource to the collector that the environment names, in batches."""
    exporter = OTLPSpanExporter()
    send = sender(exporter)
    if send is None:
        return BatchSpanProcessor(exporter)
    return Encoding(BatchSpanProcessor(EncodedExporter(exporter, send, resource)))


def sender(exporter: OTLPSpanExporter) -> Send | None:
    """How this version of the exporter posts what is encoded already, for which it has no public name; None: it cannot be asked to, and has
    to encode the spans itself."""
    post = getattr(getattr(exporter, "_client", None), "export", None)
    return None if post is None else lambda content: bool(post(content).success)
