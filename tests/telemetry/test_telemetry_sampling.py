"""Blocked and unjudged requests reach the exporter whatever share of the others does."""

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, TraceIdRatioBased
from opentelemetry.trace import TraceFlags

from guardrail.telemetry import setup
from guardrail.telemetry.light_span import LightTracerProvider
from guardrail.telemetry.sampling import MOST_OPEN, MOST_SPANS, Keeping, Recording
from guardrail.telemetry.tracing import Target, Tracing
from guardrail.types import Action, Stage


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def keeping(exporter):
    return Keeping(SimpleSpanProcessor(exporter))


@pytest.fixture(params=["the SDK's spans", "light spans"])
def tracing(request, keeping):
    provider = TracerProvider(sampler=Recording(TraceIdRatioBased(0.0)), shutdown_on_exit=False)
    provider.add_span_processor(keeping)
    if request.param == "light spans":
        provider = LightTracerProvider(provider.resource, provider.sampler, provider.id_generator, keeping)
    return Tracing(provider, trust_parent=False)


def exchange(tracing, route, decision):
    with tracing.request([], "POST", "/v1/chat/completions") as request:
        request.routed(route, "acme")
        with tracing.guard(route, Stage.INPUT) as guard:
            guard.decided(decision)
        with tracing.upstream(Target("m", "openai")) as upstream:
            headers = upstream.inject({})
        request.answered(200)
    return headers["traceparent"]


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, False),
        ({"action": Action.ANNOTATE}, False),
        ({"shadow": Action.BLOCK}, False),
        ({"action": Action.BLOCK}, True),
        ({"unjudged": True}, True),
        ({"unjudged": True, "unavailable": True, "action": Action.BLOCK}, True),
    ],
)
def test_of_what_is_not_sampled_the_blocked_and_the_unjudged_are_exported_whole(tracing, exporter, keeping, route, decided, changes, kept):
    traceparent = exchange(tracing, route, decided(**changes))
    found = exporter.get_finished_spans()
    assert not int(traceparent[-2:], 16) & TraceFlags.SAMPLED  # the upstream is told what the sampler said
    assert [span.name for span in found] == (["apply_guardrail embedded", "chat m", "POST /v1/chat/completions"] if kept else [])
    assert all(span.context.trace_flags.sampled and span.resource.attributes for span in found)
    assert [bool((span.attributes or {}).get("guardrail.sampling.keep")) for span in found] == ([True, False, True] if kept else [])
    assert not keeping._open


def test_what_is_sampled_goes_through_untouched(exporter, route, decided):
    provider = TracerProvider(sampler=Recording(ALWAYS_ON), shutdown_on_exit=False)
    provider.add_span_processor(Keeping(SimpleSpanProcessor(exporter)))
    exchange(Tracing(provider), route, decided())
    assert len(exporter.get_finished_spans()) == 3


def test_what_waits_is_bounded_in_requests_and_in_spans(tracing, exporter, keeping, route, decided):
    open_ones = [tracing.request([], "POST", "/x") for _ in range(MOST_OPEN + 1)]
    for span in open_ones:
        span._current = False
        span.__enter__()
    assert len(keeping._open) == MOST_OPEN
    for span in open_ones:
        span.__exit__(None, None, None)
    assert (len(keeping._open), exporter.get_finished_spans()) == (0, ())
    with tracing.request([], "POST", "/x"):
        for _ in range(MOST_SPANS + 10):
            with tracing.guard(route, Stage.INPUT) as guard:
                guard.decided(decided(action=Action.BLOCK))
    assert len(exporter.get_finished_spans()) == MOST_SPANS + 1


@pytest.mark.parametrize(
    ("sampler", "argument", "wrapped"),
    [("always_on", "", False), ("parentbased_always_on", "", False), ("always_off", "", False), ("traceidratio", "0.1", True)],
)
def test_the_operators_sampler_is_widened_only_where_it_takes_a_share(monkeypatch, sampler, argument, wrapped):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    providers = setup.build_providers(setup.describe("guardrail", "0"), traces=True, metrics=False)
    assert isinstance(providers.tracer_provider.sampler, Recording) is wrapped
    providers.shutdown()
