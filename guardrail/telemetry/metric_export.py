"""The SDK's metrics, and our own histograms with them, to the collector that the environment names."""

import time
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from guardrail.telemetry import names
from guardrail.telemetry.spread import Point, Seen, Spread, Spreads


class SpreadingExporter(OTLPMetricExporter):
    """An `OTLPMetricExporter`, which adds the spreads, cumulative as everything else.

    It is asked only where the SDK has collected something; a running guard always has.
    """

    def __init__(self, spreads: Spreads, resource: Resource) -> None:
        super().__init__()
        self._spreads = spreads
        self._of = resource

    def export(self, metrics_data: MetricsData, timeout_millis: float | None = None, **kwargs: Any) -> MetricExportResult:
        """See `MetricExporter`."""
        return super().export(with_spreads(metrics_data, self._spreads, self._of), timeout_millis, **kwargs)


def with_spreads(data: MetricsData, spreads: Spreads, resource: Resource) -> MetricsData:
    """What was collected, and under its own scope what the spreads have come to."""
    now = time.time_ns()
    told = [(spread, spread.points()) for spread in spreads]
    ours = [_metric(spread, points, now) for spread, points in told if points]
    if not ours:
        return data
    found = [each for each in data.resource_metrics if each.resource == resource]
    scopes = [scope for each in found for scope in each.scope_metrics]
    into = next((scope for scope in scopes if scope.scope.name == names.SCOPE), None)
    scope = InstrumentationScope(names.SCOPE) if into is None else into.scope
    together = ScopeMetrics(scope, [*(into.metrics if into else ()), *ours], scope.schema_url or "")
    rest = [scope for scope in scopes if scope is not into]
    others = [each for each in data.resource_metrics if each not in found]
    return MetricsData([ResourceMetrics(resource, [together, *rest], resource.schema_url), *others])


def _metric(spread: Spread, points: list[Point], now: int) -> Metric:
    found = [
        HistogramDataPoint(
            attributes=dict(point.labels),
            start_time_unix_nano=point.began,
            time_unix_nano=now,
            count=sum(point.counts),
            sum=point.total,
            bucket_counts=point.counts,
            explicit_bounds=spread.bounds,
            min=point.least,
            max=point.most,
            exemplars=[_exemplar(seen) for seen in point.exemplars],
        )
        for point in points
    ]
    return Metric(spread.name, spread.description, spread.unit, Histogram(found, AggregationTemporality.CUMULATIVE))


def _exemplar(seen: Seen) -> Exemplar:
    return Exemplar({}, seen.value, seen.time, seen.span_id, seen.trace_id)
