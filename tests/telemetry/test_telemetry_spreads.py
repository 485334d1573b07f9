"""Our own histograms arrive as the SDK's would: the same series, counts, bounds and exemplars."""

import pytest
from every_event import emit_everything
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import format_span_id, format_trace_id, get_current_span
from otlp_receiver import Receiver, attributes, receiving

from guardrail.events import DecisionMade
from guardrail.telemetry.calls import UpstreamCall, Usage
from guardrail.telemetry.metrics import Metrics
from guardrail.telemetry.setup import build_providers, describe
from guardrail.telemetry.spread import Spread
from guardrail.telemetry.tracing import Tracing


@pytest.fixture
def receiver(monkeypatch):
    with receiving() as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server


def labels(point):
    return sorted(attributes(point.attributes).items())


def measured(receiver: Receiver, decided, verdict):
    """Everything that can happen, and what it was called, within a sampled request: its histograms as sent, and the request's ids."""
    del receiver.received[:]
    providers = build_providers(describe("guardrail", "0"), traces=True, metrics=True)
    metrics = Metrics(providers.meter_provider, providers.spreads)
    with Tracing(providers.tracer_provider).request([], "POST", "/v1/chat/completions"):
        emit_everything(metrics, decided, verdict)
        for duration_s in (0.0, 0.001, 0.0015, 3.0, 60.0, -1.0, float("nan"), float("inf")):
            metrics.emit(DecisionMade(decided(verdict(score=0.99), duration_s=duration_s), "r", "m", "chat", False, ()))
            call = UpstreamCall("chat", "m", "openai", ("host", 443), 0.2, 0.1, (0.01, 0.02), error=None, usage=Usage(30, 20))
            metrics.upstream(call)
            metrics.served("chat", 0.002)
        context = get_current_span().get_span_context()
    providers.shutdown()
    found = {}
    for name, metric in receiver.metrics.items():
        if metric.HasField("histogram"):
            points = sorted(metric.histogram.data_points, key=labels)
            told = [(labels(point), list(point.bucket_counts), list(point.explicit_bounds)) for point in points]
            sums = [(point.count, pytest.approx(point.sum), point.min, point.max) for point in points]
            exemplars = [len(point.exemplars) for point in points]
            found[name] = metric.unit, metric.description, metric.histogram.aggregation_temporality, told, sums, exemplars
            for point in points:
                assert 0 < point.start_time_unix_nano <= point.time_unix_nano
                for each in point.exemplars:
                    assert format_trace_id(context.trace_id) == each.trace_id.hex()
                    assert format_span_id(context.span_id) == each.span_id.hex()
                    assert not each.filtered_attributes
                    assert point.min <= getattr(each, each.WhichOneof("value")) <= point.max
    return found, providers.spreads


def test_every_histogram_arrives_as_the_sdks_own_does(receiver, monkeypatch, decided, verdict):
    ours, spreads = measured(receiver, decided, verdict)
    assert spreads is not None
    assert len(ours) >= 9
    monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", "trace_based")  # the default, but said, so that the SDK makes all of them
    theirs, spreads = measured(receiver, decided, verdict)
    assert spreads is None
    assert ours == theirs


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "always_off"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
        ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "base2_exponential_bucket_histogram"),
    ],
)
def test_where_the_operator_wants_them_otherwise_the_sdk_makes_them(receiver, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    providers = build_providers(describe("guardrail", "0"), traces=False, metrics=True)
    assert providers.spreads is None
    providers.shutdown()


def test_a_disabled_sdk_makes_no_spans_either(receiver, monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    providers = build_providers(describe("guardrail", "0"), traces=True, metrics=True)
    with Tracing(providers.tracer_provider).request([], "POST", "/v1/chat/completions") as request:
        assert not request.span.is_recording()
    providers.shutdown()
    assert receiver.received == []


def test_what_prometheus_fetches_are_the_sdks(receiver):
    providers = build_providers(describe("guardrail", "0"), traces=False, metrics=True, reader=InMemoryMetricReader())
    assert providers.spreads is None
    providers.shutdown()


def test_an_exemplar_is_told_once_and_of_sampled_spans_alone(spans):
    spread = Spread("s", "s", "", (1.0, 2.0))
    spread.record(0.5, ())
    (point,) = spread.points()
    assert point.exemplars == ()
    with spans.provider.get_tracer("x").start_as_current_span("a"):
        for value in (0.5, 0.6, 1.5, 9.0):
            spread.record(value, ())
    (point,) = spread.points()
    assert [seen.value for seen in point.exemplars] == [0.5, 1.5, 9.0]
    (point,) = spread.points()
    assert (point.exemplars, point.counts, point.least, point.most) == ((), (3, 1, 1), 0.5, 9.0)
