"""Real SDK providers with in-memory exporters, and decisions to tell them."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, MetricsData, NumberDataPoint
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from guardrail.telemetry.metric_export import with_spreads
from guardrail.telemetry.metrics import Metrics
from guardrail.telemetry.spread import Spreads
from guardrail.telemetry.tracing import Tracing
from guardrail.types import Action, Decision, Outcome, Route, Stage, Verdict

RESOURCE = Resource({"service.name": "guardrail"})


@dataclass
class Spans:
    """A tracer provider and what it finished."""

    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    provider: TracerProvider = field(default_factory=lambda: TracerProvider(shutdown_on_exit=False))

    def __post_init__(self) -> None:
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def tracing(self, **options: object) -> Tracing:
        return Tracing(self.provider, **options)

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def one(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.all if span.name == name]
        return found

    def dump(self) -> str:
        return "\n".join(span.to_json() for span in self.all)


@dataclass
class Meters:
    """Metrics over a reader that is asked, not timed."""

    spreads: Spreads | None = None
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)

    def __post_init__(self) -> None:
        self.provider = MeterProvider((self.reader,), resource=RESOURCE, shutdown_on_exit=False)
        self.metrics = Metrics(self.provider, self.spreads)

    def data(self) -> MetricsData | None:
        data = self.reader.get_metrics_data()
        return data if self.spreads is None else with_spreads(data or MetricsData([]), self.spreads, RESOURCE)

    def points(self) -> dict[str, list[NumberDataPoint | HistogramDataPoint]]:
        data = self.data()
        found = data.resource_metrics[0].scope_metrics[0].metrics if data and data.resource_metrics else []
        return {metric.name: list(metric.data.data_points) for metric in found}

    def values(self, name: str) -> dict[tuple[tuple[str, object], ...], float]:
        return {tuple(sorted(point.attributes.items())): point.value for point in self.points().get(name, [])}

    def dump(self) -> str:
        data = self.data()
        return data.to_json() if data else ""


@pytest.fixture
def spans() -> Iterator[Spans]:
    made = Spans()
    yield made
    made.provider.shutdown()


@pytest.fixture(params=["the SDK's histograms", "our histograms"])
def meters(request: pytest.FixtureRequest) -> Iterator[Meters]:
    made = Meters(Spreads() if request.param == "our histograms" else None)
    yield made
    made.provider.shutdown()


@pytest.fixture
def route() -> Route:
    return Route("chat", "/v1/chat/completions", "*", "acme", "main", "embedded", (), (), generation=7)


@pytest.fixture
def verdict() -> Callable[..., Verdict]:
    def make(policy: str = "harassment", score: float | None = 0.9, **changes: object) -> Verdict:
        values: dict[str, object] = {
            "policy_id": policy,
            "policy_version": "1.2.0",
            "policy_digest": "sha256:aa",
            "threshold": 0.5,
            "part": "messages[0].content",
            "classifier": "embedded@sha256:bb",
            "score": score,
        }
        return Verdict(**(values | changes))

    return make


_ids = itertools.count(1)


@pytest.fixture
def decided() -> Callable[..., Decision]:
    def make(*verdicts: Verdict, stage: Stage = Stage.INPUT, action: Action = Action.PASS, **changes: object) -> Decision:
        shadow = changes.pop("shadow", Action.PASS)
        unjudged = changes.pop("unjudged", False)
        unavailable = changes.pop("unavailable", False)
        values: dict[str, object] = {
            "id": f"d{next(_ids)}",
            "stage": stage,
            "outcome": Outcome(action, shadow, {}, unjudged, unavailable),
            "verdicts": verdicts,
            "unscannable": (),
            "route": "chat",
            "tenant": "acme",
            "generation": 7,
            "duration_s": 0.004,
        }
        return Decision(**(values | changes))

    return make
