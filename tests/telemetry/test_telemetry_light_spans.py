"""Light spans are the SDK's spans, made and encoded at less cost: the same values, the same bytes."""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState, get_current_span
from otlp_receiver import attributes, receiving

from guardrail.telemetry import span_export
from guardrail.telemetry.light_span import LightTracerProvider
from guardrail.telemetry.otlp_spans import encode_request, encode_span
from guardrail.telemetry.setup import build_providers, describe
from guardrail.telemetry.tracing import Target, Tracing
from guardrail.types import Action, Stage

RESOURCE = Resource({"service.name": "edge", "worker": 3, "words": ("a", "b")}, "https://example.com/schema")
SCOPE = InstrumentationScope("guardrail", "1.0", "https://example.com/scope", {"kind": "ours"})

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=150)
whole = st.integers(-(2**63), 2**63 - 1)
plain = st.one_of(text, st.booleans(), whole, st.floats(), st.binary(max_size=8))
value = st.one_of(plain, st.lists(text, max_size=3), st.lists(whole, max_size=3), st.dictionaries(text, plain, max_size=2))
several = st.dictionaries(text, value, max_size=6)
moment = st.integers(1, 2**63)
context = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.just(TraceFlags(TraceFlags.SAMPLED)),
    st.sampled_from([None, TraceState([("vendor", "x"), ("other", "y")])]),
)
status = st.one_of(st.just(Status()), st.just(Status(StatusCode.OK)), st.builds(Status, st.just(StatusCode.ERROR), st.none() | text))


@st.composite
def spans(draw):
    return ReadableSpan(
        draw(text),
        draw(context),
        draw(st.none() | context),
        RESOURCE,
        draw(several),
        draw(st.lists(st.builds(Event, text, several, moment), max_size=2)),
        draw(st.lists(st.builds(Link, context, several), max_size=2)),
        draw(st.sampled_from(SpanKind)),
        status=draw(status),
        start_time=draw(moment),
        end_time=draw(moment),
        instrumentation_scope=SCOPE,
    )


@settings(deadline=None)
@given(st.lists(spans(), min_size=1, max_size=3))
def test_spans_are_encoded_byte_for_byte_as_the_sdk_encodes_them(made):
    assert encode_request(RESOURCE, SCOPE, map(encode_span, made)) == encode_spans(made).SerializeToString()


def test_equal_values_of_different_kinds_stay_apart():
    context = SpanContext(1, 2, False, TraceFlags(TraceFlags.SAMPLED))
    for each in (True, 1, 1.0, False, 0, 0.0):
        span = ReadableSpan("a", context, None, RESOURCE, {"x": each}, start_time=1, end_time=2)
        (sent,) = encode_spans([span]).resource_spans[0].scope_spans[0].spans
        assert encode_span(span).endswith(sent.SerializeToString())


def test_what_cannot_be_encoded_is_replaced_and_never_stops_the_others():
    context = SpanContext(1, 2, False, TraceFlags(TraceFlags.SAMPLED))
    span = ReadableSpan("a\ud800", context, None, RESOURCE, {"x": "\udfff", "big": 2**64, "y": 1}, start_time=1, end_time=2)
    encoded = encode_request(RESOURCE, None, [encode_span(span)])
    (sent,) = type(encode_spans([])).FromString(encoded).resource_spans[0].scope_spans[0].spans
    assert (sent.name, attributes(sent.attributes)) == ("a?", {"x": "?", "big": str(2**64), "y": 1})


def test_dropped_attributes_are_counted_on_the_wire():
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("x").start_as_current_span("many") as span:
        span.set_attributes({f"a{number}": number for number in range(200)})
        for _ in range(200):
            span.add_event("happened")
    (made,) = exporter.get_finished_spans()
    assert made.dropped_attributes == 72
    assert encode_request(made.resource, made.instrumentation_scope, [encode_span(made)]) == encode_spans([made]).SerializeToString()


def exchange(provider, route, decision, headers=()):
    tracing = Tracing(provider, trust_parent=False)
    with contextlib.suppress(ValueError), tracing.request(headers, "POST", "/v1/chat/completions") as request:
        request.routed(route, "acme", "r1")
        with tracing.guard(route, Stage.INPUT, growing=True) as guard:
            guard.window(1, 20, Action.PASS, unjudged=False)
            guard.decided(decision)
        with tracing.upstream(Target("m", "openai", "http://127.0.0.1:9/v1", body={"temperature": 1, "stream": True})) as upstream:
            upstream.inject({})
            upstream.chunk()
            upstream.answered(500, {"prompt_tokens": 3}, ["stop"])
        request.answered(503, "unjudged")
        raise ValueError("a secret")


def told(span):
    events = [(event.name, dict(event.attributes or {})) for event in span.events]
    attributes = {name: value for name, value in span.attributes.items() if not name.endswith("time_to_first_chunk")}
    links = [(link.context.trace_id, dict(link.attributes or {})) for link in span.links]
    return span.name, span.kind, attributes, events, links, span.status.status_code, span.context.trace_flags, span.resource


def test_a_light_span_says_what_the_sdks_says(route, decided, verdict):
    decision = decided(verdict(), verdict("toxicity", None, error="timeout"), verdict("violence", 0.1), action=Action.BLOCK)
    headers = [(b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
    found = []
    for light in (False, True):
        exporter = InMemorySpanExporter()
        provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        if light:
            provider = LightTracerProvider(RESOURCE, provider.sampler, provider.id_generator, SimpleSpanProcessor(exporter))
        exchange(provider, route, decision, headers)
        found.append(exporter.get_finished_spans())
    sdks, ours = found
    assert [told(span) for span in ours] == [told(span) for span in sdks]
    for made in found:
        guard, upstream, request = made
        assert guard.parent == upstream.parent == request.context
        assert request.parent is None
        assert len({span.context.trace_id for span in made}) == 1
        assert len({span.context.span_id for span in made}) == 3
        assert all(span.start_time <= span.end_time for span in made)


def test_a_span_that_is_over_does_not_change_any_more(route):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    light = LightTracerProvider(RESOURCE, provider.sampler, provider.id_generator, SimpleSpanProcessor(exporter))
    with light.get_tracer("x").start_as_current_span("a") as span:
        assert get_current_span() is span
    span.set_attribute("late", 1)
    span.set_attributes({"late": 1})
    span.add_event("late")
    span.update_name("late")
    span.set_status(StatusCode.ERROR)
    span.end()
    (made,) = exporter.get_finished_spans()
    assert (made.name, dict(made.attributes), list(made.events), made.status.status_code) == ("a", {}, [], StatusCode.UNSET)
    assert not span.is_recording()


def test_an_operator_who_bounds_spans_gets_the_sdks_own(monkeypatch, route):
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{receiver.server_port}")
        light = build_providers(describe("guardrail", "0"), traces=True, metrics=False)
        monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "4")
        bounded = build_providers(describe("guardrail", "0"), traces=True, metrics=False)
        assert isinstance(light.tracer_provider, LightTracerProvider)
        assert isinstance(bounded.tracer_provider, TracerProvider)
        for providers in (light, bounded):
            with Tracing(providers.tracer_provider).request([], "POST", "/v1/chat/completions") as request:
                request.routed(route, "a long tenant")
            providers.shutdown()
        tenants = [attributes(span.attributes)["guardrail.tenant"] for span in receiver.spans]
    assert tenants == ["a long tenant", "a lo"]


def test_this_version_of_the_exporter_can_be_given_what_is_encoded(monkeypatch):
    """Its name for that is a private one. When it goes, spans are encoded by the SDK again, and `sender` has to learn the new name."""
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{receiver.server_port}")
        exporter = OTLPSpanExporter()
        send = span_export.sender(exporter)
        assert send is not None
        assert send(encode_request(RESOURCE, SCOPE, [])) is True
        exporter.shutdown()
        assert [batch["service.name"] for batch in receiver.resources] == ["edge"]


def test_an_exporter_that_cannot_be_given_what_is_encoded_encodes_it_itself(monkeypatch, route, decided):
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{receiver.server_port}")
        monkeypatch.setattr(span_export, "sender", lambda exporter: None)
        assert isinstance(span_export.exporting(RESOURCE), BatchSpanProcessor)
        providers = build_providers(describe("guardrail", "0"), traces=True, metrics=False)
        with Tracing(providers.tracer_provider).guard(route, Stage.INPUT) as guard:
            guard.decided(decided())
        providers.shutdown()
        assert [span.name for span in receiver.spans] == ["apply_guardrail embedded"]
