"""The OpenTelemetry SDK with its exporters. This and what it imports load the SDK: import it in the process that exports."""

import uuid
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION,
    OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE,
    OTEL_METRICS_EXEMPLAR_FILTER,
    OTEL_SDK_DISABLED,
)
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, DEFAULT_OFF, DEFAULT_ON
from opentelemetry.trace import NoOpTracerProvider, TracerProvider

from guardrail.config.environment import process_environment
from guardrail.telemetry import names
from guardrail.telemetry.light_span import LightTracerProvider, limited
from guardrail.telemetry.metric_export import SpreadingExporter
from guardrail.telemetry.sampling import Keeping, Recording
from guardrail.telemetry.span_export import exporting
from guardrail.telemetry.spread import Spreads

_OF_SPANS: Final = (OTEL_SDK_DISABLED,)
_OF_HISTOGRAMS: Final = (
    OTEL_SDK_DISABLED,
    OTEL_METRICS_EXEMPLAR_FILTER,
    OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION,
    OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE,
)
"""Variables that change what the SDK makes: where one is set, nothing is made beside the SDK."""


@dataclass(frozen=True, slots=True)
class Providers:
    """What spans and metrics are made with. `shutdown` sends what is left and may block for seconds: call it off the event loop."""

    tracer_provider: TracerProvider
    meter_provider: MeterProvider
    spreads: Spreads | None = None
    """Where `Metrics` is to make its histograms; None: of the meter provider."""
    closers: ExitStack = field(default_factory=ExitStack, repr=False)

    def shutdown(self) -> None:
        """Flush and stop the exporters; afterwards nothing is sent. Idempotent."""
        self.closers.close()


def build_providers(resource: Resource, *, traces: bool, metrics: bool, reader: MetricReader | None = None) -> Providers:
    """Providers that export what is asked for over OTLP/HTTP; what is not asked for costs nothing. `reader` is given the metrics beside it.

    Pass `traces` and `metrics` True where the operator has set an endpoint (`OTEL_EXPORTER_OTLP_ENDPOINT` or the one of the
    signal). Endpoint, headers, timeout, compression, sampler, batching, export interval and resource attributes come from the
    standard `OTEL_*` variables, which the SDK reads itself.
    Where the sampler (`OTEL_TRACES_SAMPLER`) takes a share, the requests that were blocked or not judged are exported beside it.
    `resource` says who we are (`describe`). The process-wide providers are left alone.
    """
    closers = ExitStack()
    tracer_provider: TracerProvider = NoOpTracerProvider()
    meter_provider: MeterProvider = NoOpMeterProvider()
    if traces:
        tracer_provider = _traced(resource, exporting(resource), closers)
    # What Prometheus fetches, and what an operator sets up otherwise than we count, is the SDK's alone.
    spreads = Spreads() if metrics and reader is None and not _told(_OF_HISTOGRAMS) else None
    readers: list[MetricReader] = [] if reader is None else [reader]
    if metrics:
        exporter = OTLPMetricExporter() if spreads is None else SpreadingExporter(spreads, resource)
        readers.append(PeriodicExportingMetricReader(exporter))
    if readers:
        measuring = SdkMeterProvider(readers, resource=resource, shutdown_on_exit=False)
        closers.callback(measuring.shutdown)
        meter_provider = measuring
    return Providers(tracer_provider, meter_provider, spreads, closers)


def _told(variables: Iterable[str]) -> bool:
    """Whether the operator has set one of them."""
    environment = process_environment()
    return any(environment.secret(name) is not None for name in variables)


def _traced(resource: Resource, batches: SpanProcessor, closers: ExitStack) -> TracerProvider:
    """The SDK reads from the environment how spans are made; where they need not be bounded it need not make them."""
    provider = SdkTracerProvider(resource=resource, shutdown_on_exit=False)
    if provider.sampler not in (ALWAYS_ON, DEFAULT_ON, ALWAYS_OFF, DEFAULT_OFF):
        provider.sampler = Recording(provider.sampler)
        batches = Keeping(batches)
    if limited(SpanLimits()) or _told(_OF_SPANS):
        provider.add_span_processor(batches)
        closers.callback(provider.shutdown)
        return provider
    closers.callback(batches.shutdown)
    return LightTracerProvider(resource, provider.sampler, provider.id_generator, batches)


def describe(service_name: str, version: str, worker: int = 0) -> Resource:
    """Who we are: the given name and version, overridden by `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`.

    `worker`: which of several processes of one proxy this is.
    No two processes share `service.instance.id`: a collector would take their numbers for those of one.
    """
    ours: Mapping[str, str | int] = {
        "service.name": service_name,
        "service.version": version,
        names.INSTANCE: str(uuid.uuid4()),
        names.WORKER: worker,
    }
    return Resource.create(ours).merge(OTELResourceDetector().detect())
