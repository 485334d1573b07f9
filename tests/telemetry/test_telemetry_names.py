"""Names are public API: dashboards and alerts are written against these very strings. A change here is a breaking change."""

import pytest
from every_event import emit_everything
from opentelemetry.trace import SpanKind

from guardrail.events import DecisionMade
from guardrail.telemetry.names import Semconv
from guardrail.telemetry.tracing import Target
from guardrail.types import Action, Mode, Stage

OWN_SPAN = {
    "guardrail.source",
    "guardrail.route",
    "guardrail.generation",
    "guardrail.decision",
    "guardrail.enforced",
    "guardrail.mode",
    "guardrail.unjudged",
    "guardrail.unavailable",
    "guardrail.unscannable.count",
    "guardrail.verdict.count",
    "guardrail.violation.count",
    "guardrail.decision.id",
    "guardrail.tenant",
    "guardrail.sampling.keep",
    "error.type",
}
OWN_EVENT = {
    "guardrail.policy.id",
    "guardrail.policy.version",
    "guardrail.policy.digest",
    "guardrail.source",
    "guardrail.action",
    "guardrail.mode",
    "guardrail.score",
    "guardrail.threshold",
    "guardrail.criterion",
    "guardrail.part",
    "guardrail.classifier",
}
DRAFTS = {
    Semconv.V427: (
        "apply_guardrail embedded",
        {
            "gen_ai.operation.name": "apply_guardrail",
            "gen_ai.provider.name": "guardrail",
            "gen_ai.guardrail.component.name": "embedded",
            "gen_ai.guardrail.source": "input",
            "gen_ai.guardrail.result.type": "action",
            "gen_ai.guardrail.result.value": "block",
            "gen_ai.guardrail.policy.id": "harassment",
            "gen_ai.guardrail.policy.version": "1.2.0",
        },
        "gen_ai.guardrail.result",
        {
            "gen_ai.provider.name": "guardrail",
            "gen_ai.guardrail.component.name": "embedded",
            "gen_ai.guardrail.source": "input",
            "gen_ai.guardrail.policy.id": "harassment",
            "gen_ai.guardrail.policy.version": "1.2.0",
            "gen_ai.guardrail.policy.rule.id": "Insult",
            "gen_ai.guardrail.result.type": "action",
            "gen_ai.guardrail.result.value": "block",
            "gen_ai.guardrail.result.reason": "threshold_reached",
            "gen_ai.guardrail.risk.category": "harassment",
            "gen_ai.guardrail.risk.score": 0.9,
        },
    ),
    Semconv.GUARDIAN: (
        "apply_guardrail embedded llm_input",
        {
            "gen_ai.operation.name": "apply_guardrail",
            "gen_ai.guardian.provider.name": "guardrail",
            "gen_ai.guardian.name": "embedded",
            "gen_ai.security.target.type": "llm_input",
            "gen_ai.security.decision.type": "deny",
            "gen_ai.security.policy.id": "harassment",
            "gen_ai.security.policy.version": "1.2.0",
        },
        "gen_ai.security.finding",
        {
            "gen_ai.guardian.provider.name": "guardrail",
            "gen_ai.guardian.name": "embedded",
            "gen_ai.security.target.type": "llm_input",
            "gen_ai.security.policy.id": "harassment",
            "gen_ai.security.policy.version": "1.2.0",
            "gen_ai.security.decision.type": "deny",
            "gen_ai.security.decision.reason": "threshold_reached",
            "gen_ai.security.risk.category": "harassment",
            "gen_ai.security.risk.score": 0.9,
        },
    ),
    Semconv.NONE: ("apply_guardrail embedded", {}, "guardrail.result", {}),
}


@pytest.mark.parametrize("semconv", list(Semconv))
def test_guard_span_and_event_are_spelled_as_the_chosen_draft_has_it_beside_our_own_names(spans, route, decided, verdict, semconv):
    name, span_names, event_name, event_names = DRAFTS[semconv]
    fired = verdict(criterion="Insult")
    erred = verdict("violence", None, error="timeout")
    with spans.tracing(semconv=semconv).guard(route, Stage.INPUT) as guard:
        guard.decided(decided(fired, erred, action=Action.BLOCK, unjudged=True))
    span = spans.one(name)
    assert {key: value for key, value in span.attributes.items() if key.startswith("gen_ai.")} == span_names
    assert {key for key in span.attributes if not key.startswith("gen_ai.")} == OWN_SPAN
    first, second = span.events
    assert (first.name, second.name) == (event_name, event_name)
    assert {key: value for key, value in first.attributes.items() if key.startswith("gen_ai.")} == event_names
    assert {key for key in first.attributes if not key.startswith("gen_ai.")} == OWN_EVENT
    assert second.attributes["error.type"] == "timeout"


@pytest.mark.parametrize("semconv", list(Semconv))
def test_a_score_that_is_only_watched_is_an_evaluation_result_whether_it_fired_or_not(spans, route, decided, verdict, semconv):
    watched = [verdict("calm", 0.1, mode=Mode.SHADOW), verdict("violence", None, error="timeout", mode=Mode.SHADOW), verdict(score=0.2)]
    with spans.tracing(semconv=semconv).guard(route, Stage.OUTPUT) as guard:
        guard.decided(decided(*watched))
    found = [dict(event.attributes) for event in spans.all[0].events if event.name == "gen_ai.evaluation.result"]
    expected = [
        {
            "gen_ai.evaluation.name": "calm",
            "gen_ai.evaluation.score.value": 0.1,
            "gen_ai.evaluation.score.label": "threshold_not_reached",
            "guardrail.policy.version": "1.2.0",
        },
        {"gen_ai.evaluation.name": "violence", "error.type": "timeout", "guardrail.policy.version": "1.2.0"},
    ]
    assert found == ([] if semconv is Semconv.NONE else expected)


def test_the_span_of_a_classifier_on_a_server_is_a_call_to_it(spans, route, decided):
    with spans.tracing(remote={"embedded": "https://key@judge.example.com:8443/v1"}).guard(route, Stage.INPUT) as guard:
        guard.decided(decided())
    (span,) = spans.all
    assert span.kind is SpanKind.CLIENT
    assert (span.attributes["server.address"], span.attributes["server.port"]) == ("judge.example.com", 8443)


def test_request_and_upstream_spans_carry_the_names_of_the_conventions(spans, route):
    tracing = spans.tracing()
    body = {
        "temperature": 0.5,
        "top_p": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "max_tokens": 9,
        "seed": 1,
        "n": 2,
        "stream": True,
        "response_format": {"type": "json_schema", "json_schema": {"name": "secret"}},
    }
    usage = {
        "prompt_tokens": 11,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
        "cache_creation_input_tokens": 1,
    }
    with tracing.request([], "POST", "/v1/chat/completions") as request:
        request.routed(route, "acme", "r-1")
        with tracing.upstream(Target("gpt-4o", "openai", "https://api.example.com/v1", body=body)) as upstream:
            upstream.chunk()
            upstream.answered(200, usage, ["stop"], response_id="c-1", model="gpt-4o-mini")
        request.answered(200)
    assert dict(spans.one("POST /v1/chat/completions").attributes) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/chat/completions",
        "url.path": "/v1/chat/completions",
        "url.scheme": "http",
        "guardrail.route": "chat",
        "guardrail.tenant": "acme",
        "guardrail.generation": 7,
        "guardrail.request.id": "r-1",
    }
    attributes = dict(spans.one("chat gpt-4o").attributes)
    assert attributes.pop("gen_ai.response.time_to_first_chunk") >= 0
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.seed": 1,
        "gen_ai.request.choice.count": 2,
        "gen_ai.output.type": "json",
        "gen_ai.response.id": "c-1",
        "gen_ai.response.model": "gpt-4o-mini",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.cache_creation.input_tokens": 1,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "http.response.status_code": 200,
        "server.address": "api.example.com",
        "server.port": 443,
    }


METRICS = {
    "guardrail.requests": {
        "guardrail.source",
        "guardrail.route",
        "guardrail.tenant",
        "guardrail.decision",
        "guardrail.enforced",
        "guardrail.mode",
    },
    "guardrail.decision.duration": {"guardrail.source", "guardrail.route", "guardrail.decision"},
    "guardrail.policy.results": {"guardrail.source", "guardrail.policy.id", "guardrail.action", "guardrail.mode"},
    "guardrail.violations": {"guardrail.source", "guardrail.policy.id", "guardrail.action", "guardrail.mode"},
    "guardrail.errors": {"guardrail.source", "error.type"},
    "guardrail.unjudged": {"guardrail.source", "guardrail.route", "guardrail.tenant", "guardrail.enforced"},
    "guardrail.breaker.open": {"guardrail.breaker", "guardrail.breaker.name"},
    "guardrail.limited": {"guardrail.limit", "guardrail.tenant"},
    "guardrail.refusals": {"http.response.status_code", "error.type"},
    "guardrail.upstream.errors": {"guardrail.upstream", "error.type"},
    "guardrail.canary.ok": {"guardrail.classifier"},
    "guardrail.policies.generation": set(),
    "guardrail.policies.in_force": {"guardrail.policies.digest"},
    "guardrail.policies.published": set(),
    "guardrail.policies.refused": set(),
    "guardrail.decision.score": {"guardrail.source", "guardrail.policy.id"},
    "guardrail.overhead": {"guardrail.route"},
    "guardrail.requests.in_flight": set(),
    "guardrail.stream.held": {"guardrail.route", "guardrail.stream.mode"},
    "guardrail.classifier.batch.size": {"guardrail.classifier"},
    "guardrail.classifier.duration": {"guardrail.classifier"},
    "guardrail.classifier.queue.depth": {"guardrail.classifier"},
    "guardrail.classifier.queue.tokens": {"guardrail.classifier"},
    "guardrail.cache.hits": set(),
    "guardrail.cache.misses": set(),
    "guardrail.cache.evictions": set(),
    "guardrail.audit.queue.depth": set(),
    "guardrail.audit.ok": set(),
    "guardrail.audit.unrecorded": {"error.type"},
    "gen_ai.client.operation.duration": {
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "server.address",
        "server.port",
    },
    "gen_ai.client.operation.time_per_output_chunk": {
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "server.address",
        "server.port",
    },
    "gen_ai.client.operation.time_to_first_chunk": {
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "server.address",
        "server.port",
    },
    "gen_ai.client.token.usage": {
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "gen_ai.token.type",
        "server.address",
        "server.port",
    },
}


def test_every_metric_and_its_attributes_have_these_names(meters, decided, verdict):
    emit_everything(meters.metrics, decided, verdict)
    assert {name: set().union(*(set(point.attributes) for point in points)) for name, points in meters.points().items()} == METRICS


def test_durations_are_bucketed_from_a_millisecond_to_ten_seconds(decided, meters):
    meters.metrics.emit(DecisionMade(decided(), "r", "m", "chat", False, ()))
    (point,) = meters.points()["guardrail.decision.duration"]
    assert point.explicit_bounds == (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
