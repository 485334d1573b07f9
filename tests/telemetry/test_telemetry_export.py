"""Spans and metrics over the wire, into a receiver that speaks OTLP/HTTP; and what is loaded when nothing is exported."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.trace import NoOpTracerProvider
from otlp_receiver import Receiver, receiving

from guardrail.events import DecisionMade
from guardrail.telemetry.metrics import Metrics
from guardrail.telemetry.setup import build_providers, describe
from guardrail.telemetry.tracing import Tracing
from guardrail.types import Stage


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


def test_a_span_and_a_metric_arrive_under_the_service_name_when_told_by_the_environment(receiver, monkeypatch, route, decided):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{receiver.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=acme")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.name=edge")
    providers = build_providers(describe("guardrail", "0.1.0"), traces=True, metrics=True)
    with Tracing(providers.tracer_provider).guard(route, Stage.INPUT) as guard:
        guard.decided(decided())
    Metrics(providers.meter_provider).emit(DecisionMade(decided(), "r", "m", "chat", False, ()))
    providers.shutdown()
    providers.shutdown()

    assert {(path, tenant) for path, tenant, _ in receiver.received} == {("/v1/traces", "acme"), ("/v1/metrics", "acme")}
    bodies = {path: body for path, _, body in receiver.received}
    (traced,) = ExportTraceServiceRequest.FromString(bodies["/v1/traces"]).resource_spans
    (measured,) = ExportMetricsServiceRequest.FromString(bodies["/v1/metrics"]).resource_metrics
    assert [span.name for span in traced.scope_spans[0].spans] == ["apply_guardrail embedded"]
    assert {metric.name for metric in measured.scope_metrics[0].metrics} == {"guardrail.requests", "guardrail.decision.duration"}
    for sent in (traced, measured):
        resource = {pair.key: pair.value.string_value for pair in sent.resource.attributes}
        assert resource["service.name"] == "edge"
        assert resource["service.version"] == "0.1.0"
        assert resource["deployment.environment.name"] == "test"


def test_nothing_is_exported_unless_asked_for(receiver, monkeypatch, route, decided):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{receiver.server_port}")
    providers = build_providers(describe("guardrail", "0.1.0"), traces=False, metrics=False)
    assert isinstance(providers.tracer_provider, NoOpTracerProvider)
    assert isinstance(providers.meter_provider, NoOpMeterProvider)
    with Tracing(providers.tracer_provider).guard(route, Stage.INPUT) as guard:
        guard.decided(decided())
    Metrics(providers.meter_provider).emit(DecisionMade(decided(), "r", "m", "chat", False, ()))
    providers.shutdown()
    assert receiver.received == []


def test_an_absent_collector_does_not_hold_up_the_request_or_the_shutdown(monkeypatch, route, decided):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    providers = build_providers(describe("guardrail", "0.1.0"), traces=True, metrics=False)
    began = time.monotonic()
    with Tracing(providers.tracer_provider).guard(route, Stage.INPUT) as guard:
        guard.decided(decided())
    assert time.monotonic() - began < 0.5
    providers.shutdown()
    assert time.monotonic() - began < 5


def test_neither_the_package_nor_spans_metrics_and_log_load_the_sdk():
    code = (
        "import json, sys, guardrail, guardrail.telemetry.tracing, guardrail.telemetry.metrics, guardrail.telemetry.log_format,"
        " guardrail.telemetry.log; print(json.dumps(list(sys.modules)))"
    )
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert [name for name in loaded if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter", "torch"))] == []
    assert "opentelemetry.trace" in loaded
