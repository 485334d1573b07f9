"""Spans that cost little: of a tracer that only we use, so that nothing has to be copied, checked or locked.

The SDK's own span takes a lock, and looks into every value, for each attribute that is set. Ours are made by one thread, of values whose
types are known. Sampler, ids and everything that happens to a span that is over are the SDK's.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, SpanProcessor
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, DEFAULT_ON, Decision, Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TracerProvider,
    TraceState,
    get_current_span,
    use_span,
)
from opentelemetry.util.types import Attributes, AttributeValue

_UNSET: Final = Status(StatusCode.UNSET)
_ROOT: Final = TraceFlags(TraceFlags.SAMPLED | getattr(TraceFlags, "RANDOM_TRACE_ID", 0))
"""Of a new trace that is sampled: since 1.40 the SDK says of its ids that they are random."""
_MOST: Final = 128


@dataclass(frozen=True, slots=True)
class Making:
    """What a tracer makes spans with. `onward` is given each span's beginning and end."""

    sampler: Sampler
    ids: IdGenerator
    onward: SpanProcessor
    resource: Resource


class LightSpan(Span):
    """See `opentelemetry.trace.Span`; what it holds has the names of the SDK's `ReadableSpan`, which it stands for once it is over.

    Not for several threads at once. An exception is never recorded: it may quote a prompt or a key.
    """

    dropped_attributes = dropped_events = dropped_links = 0

    def __init__(self, name: str, context: SpanContext, parent: SpanContext | None, kind: SpanKind, making: Making) -> None:
        self.name = name
        self.context = context
        self.parent = parent
        self.kind = kind
        self.resource = making.resource
        self.attributes: dict[str, AttributeValue] = {}
        self.events: list[Event] = []
        self.links: Sequence[Link] = ()
        self.instrumentation_scope: InstrumentationScope | None = None
        self.status = _UNSET
        self.start_time = time.time_ns()
        self.end_time: int | None = None
        self._onward = making.onward

    def begin(self, scope: InstrumentationScope, attributes: Attributes, links: Sequence[Link]) -> None:
        """What the span has from the start."""
        self.instrumentation_scope = scope
        self.links = links
        if attributes:
            self.attributes.update(attributes)

    def end(self, end_time: int | None = None) -> None:
        """See `Span`."""
        if self.end_time is None:
            self.end_time = end_time or time.time_ns()
            self._onward.on_end(cast("ReadableSpan", self))

    def get_span_context(self) -> SpanContext:
        """See `Span`."""
        return self.context

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """See `Span`. The values are taken as they are."""
        if self.end_time is None:
            self.attributes.update(attributes)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """See `Span`. The value is taken as it is."""
        if self.end_time is None:
            self.attributes[key] = value

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """See `Span`."""
        if self.end_time is None:
            self.events.append(Event(name, attributes, timestamp))

    def update_name(self, name: str) -> None:
        """See `Span`."""
        if self.end_time is None:
            self.name = name

    def is_recording(self) -> bool:
        """See `Span`."""
        return self.end_time is None

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """See `Span`."""
        if self.end_time is None:
            self.status = status if isinstance(status, Status) else Status(status, description)

    def record_exception(self, exception: BaseException, *rest: object, **others: object) -> None:
        """Nothing."""


class LightTracer(Tracer):
    """Makes `LightSpan`s as the SDK's tracer would make its own: same sampling, same ids."""

    def __init__(self, making: Making, scope: InstrumentationScope) -> None:
        self._making = making
        self._scope = scope
        self._everything = making.sampler in (ALWAYS_ON, DEFAULT_ON)

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        *_: Any,
        **__: Any,
    ) -> Span:
        """See `Tracer`. The time is now, and what exceptions say is left out."""
        making, links = self._making, links or ()
        parent: SpanContext | None = get_current_span(context).get_span_context()
        if not parent or not parent.is_valid:
            parent, trace_id = None, making.ids.generate_trace_id()
        else:
            trace_id = parent.trace_id
        state: TraceState | None
        if self._everything and (parent is None or parent.trace_flags.sampled):
            recording, flags, state = True, _ROOT if parent is None else parent.trace_flags, parent and parent.trace_state
        else:
            found = making.sampler.should_sample(context, trace_id, name, kind, attributes, links)
            recording, state, attributes = found.decision is not Decision.DROP, found.trace_state, found.attributes
            sampled = TraceFlags.SAMPLED if found.decision is Decision.RECORD_AND_SAMPLE else 0
            flags = TraceFlags((_ROOT if parent is None else parent.trace_flags) & ~TraceFlags.SAMPLED | sampled)
        made = SpanContext(trace_id, making.ids.generate_span_id(), is_remote=False, trace_flags=flags, trace_state=state)
        if not recording:
            return NonRecordingSpan(made)
        span = LightSpan(name, made, parent, kind, making)
        span.begin(self._scope, attributes, links)
        making.onward.on_start(cast("SdkSpan", span), context)
        return span

    def start_as_current_span(self, *given: Any, end_on_exit: bool = True, **others: Any) -> Any:
        """See `Tracer`."""
        return use_span(self.start_span(*given, **others), end_on_exit=end_on_exit, record_exception=False)


class LightTracerProvider(TracerProvider):
    """See `opentelemetry.trace.TracerProvider`. `sampler` may be replaced before the first tracer is asked for."""

    def __init__(self, resource: Resource, sampler: Sampler, ids: IdGenerator, onward: SpanProcessor) -> None:
        self.sampler = sampler
        self._making = Making(sampler, ids, onward, resource)

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Tracer:
        """See `TracerProvider`."""
        scope = InstrumentationScope(instrumenting_module_name, instrumenting_library_version, schema_url, attributes)
        return LightTracer(self._making, scope)

    def shutdown(self) -> None:
        """Send what is left."""
        self._making.onward.shutdown()


def limited(limits: SpanLimits) -> bool:
    """Whether the operator bounds spans in another way than the SDK does by itself: light ones know no bounds but our own."""
    counts = limits.max_span_attributes, limits.max_events, limits.max_links, limits.max_event_attributes, limits.max_link_attributes
    lengths = limits.max_attribute_length, limits.max_span_attribute_length
    return any(count != _MOST for count in counts) or any(length is not None for length in lengths)
