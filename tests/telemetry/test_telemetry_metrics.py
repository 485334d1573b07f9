"""What each counter counts, and how many time series there can be."""

import pytest

from guardrail.events import (
    AnswerHeld,
    AuditTroubled,
    CacheUsed,
    CanaryChecked,
    ClassifierAsked,
    DecisionMade,
    PoliciesPublished,
    PoliciesRefused,
    RequestRefused,
    UpstreamFailed,
)
from guardrail.interfaces import Workload
from guardrail.telemetry.calls import UpstreamCall, Usage, read_usage
from guardrail.telemetry.cardinality import CLIENT_WORDS, Distinct
from guardrail.telemetry.gauges import State
from guardrail.telemetry.tally import Tally
from guardrail.types import Action, Mode


def made(decision):
    return DecisionMade(decision, "r-1", "gpt-4o", "chat", False, ())


def test_violation_error_and_unjudged_are_three_counters_and_none_counts_for_another(meters, decided, verdict):
    def counts():
        names = ("guardrail.violations", "guardrail.errors", "guardrail.unjudged")
        return [sum(meters.values(name).values()) for name in names]

    meters.metrics.emit(made(decided(verdict(), action=Action.BLOCK)))
    assert counts() == [1, 0, 0]
    meters.metrics.emit(made(decided(verdict(score=None, error="timeout"), action=Action.BLOCK, unjudged=True, unavailable=True)))
    assert counts() == [1, 1, 1]
    meters.metrics.emit(made(decided(unscannable=("messages[0].image",), unjudged=True)))
    assert counts() == [1, 1, 2]
    words = [dict(key)["guardrail.decision"] for key in meters.values("guardrail.requests")]
    assert sorted(words) == ["block", "unjudged", "unjudged"]


def test_a_shadow_violation_is_counted_as_shadow(meters, decided, verdict):
    meters.metrics.emit(made(decided(verdict(mode=Mode.SHADOW), verdict("calm", 0.1), shadow=Action.BLOCK)))
    assert meters.values("guardrail.requests") == {
        (
            ("guardrail.decision", "block"),
            ("guardrail.enforced", "pass"),
            ("guardrail.mode", "shadow"),
            ("guardrail.route", "chat"),
            ("guardrail.source", "input"),
            ("guardrail.tenant", "acme"),
        ): 1
    }
    results = {(dict(key)["guardrail.policy.id"], dict(key)["guardrail.action"]) for key in meters.values("guardrail.policy.results")}
    assert results == {("harassment", "block"), ("calm", "pass")}
    assert [dict(key)["guardrail.mode"] for key in meters.values("guardrail.violations")] == ["shadow"]


def test_a_policy_counts_once_a_decision_however_many_parts_it_judged(meters, decided, verdict):
    meters.metrics.emit(made(decided(*(verdict(part=f"messages[{index}].content") for index in range(5)), action=Action.BLOCK)))
    assert list(meters.values("guardrail.violations").values()) == [1]


def test_canary_generation_and_refusals_say_the_latest_state(meters):
    for event in (CanaryChecked("a", True, ""), CanaryChecked("a", False, "no"), PoliciesPublished(1, 8), PoliciesPublished(2, 9)):
        meters.metrics.emit(event)
    meters.metrics.emit(PoliciesRefused(2, ()))
    meters.metrics.emit(RequestRefused(413, "too_large", "r", "acme", "/x"))
    meters.metrics.emit(UpstreamFailed("status_429", "main", "r", "chat"))
    points = {name: list(meters.values(name).values()) for name in meters.points()}
    assert points == {
        "guardrail.canary.ok": [0],
        "guardrail.policies.published": [2],
        "guardrail.policies.refused": [1],
        "guardrail.refusals": [1],
        "guardrail.upstream.errors": [1],
    }


def call(model, error=None, **changes):
    return UpstreamCall("chat", model, "openai", None, 0.5, error=error, **changes)


def test_records_that_are_not_kept_are_counted_and_the_stores_state_shown(meters):
    for code, records in (("failing", 0), ("queue_full", 3), ("lost", 2), ("queue_full", 4)):
        meters.metrics.emit(AuditTroubled(code, records))
    counts = {dict(key)["error.type"]: count for key, count in meters.values("guardrail.audit.unrecorded").items()}
    assert counts == {"queue_full": 7, "lost": 2}
    assert list(meters.values("guardrail.audit.ok").values()) == [0]
    meters.metrics.emit(AuditTroubled("recovered", 0))
    assert list(meters.values("guardrail.audit.ok").values()) == [1]


def test_models_invented_by_clients_are_one_series_and_cannot_crowd_out_real_ones(meters):
    for number in range(500):
        meters.metrics.upstream(call(f"invented-{number}", error="404"))
    meters.metrics.upstream(call("real"))
    for number in range(500):
        meters.metrics.upstream(call(f"more-{number}"))
    models = {point.attributes["gen_ai.request.model"] for point in meters.points()["gen_ai.client.operation.duration"]}
    assert {"real", "other"} <= models
    assert len(models) == CLIENT_WORDS + 1


def test_distinct_keeps_what_it_knew_and_cuts_long_values():
    distinct = Distinct(2)
    assert [distinct(word) for word in ("a", "b", "c", "a", "b")] == ["a", "b", "other", "a", "b"]
    assert len(Distinct(1)("x" * 10_000)) == 128


def test_tokens_are_recorded_by_type_and_only_when_reported(meters):
    meters.metrics.upstream(call("m", usage=Usage(input=7, output=3)))
    meters.metrics.upstream(call("m"))
    sums = {point.attributes["gen_ai.token.type"]: (point.sum, point.count) for point in meters.points()["gen_ai.client.token.usage"]}
    assert sums == {"input": (7, 1), "output": (3, 1)}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Usage()),
        ({"prompt_tokens": 4, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}, Usage(4, 2, 1)),
        (
            {"input_tokens": 4, "output_tokens": 2, "cache_read_input_tokens": 1, "cache_creation_input_tokens": 3},
            Usage(4, 2, 1, 3),
        ),
        ({"input_tokens": 4, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 1}}, Usage(4, 2, reasoning=1)),
        ({"prompt_tokens": "4", "completion_tokens": True, "prompt_tokens_details": None}, Usage()),
        ({"prompt_tokens": -1, "completion_tokens": 10**30}, Usage()),
    ],
)
def test_usage_is_read_in_each_shape_and_nonsense_is_not_a_count(usage, expected):
    assert read_usage(usage) == expected


def test_known_scores_are_counted_beside_asked_ones(meters):
    meters.metrics.emit(CacheUsed(3, 1, 0))
    meters.metrics.emit(CacheUsed(2, 0, 0))
    assert {name: list(meters.values(name).values()) for name in meters.points()} == {
        "guardrail.cache.hits": [5],
        "guardrail.cache.misses": [1],
    }


def test_gauges_ask_the_running_guard_and_say_nothing_where_none_runs(meters):
    state = None
    meters.metrics.watch(lambda: state)
    assert meters.points() == {}
    loads = {"embedded": Workload(calls=3), "cope": Workload(tokens=900)}
    state = State(in_flight=4, generation=2, digest="sha256:aa", policies=8, workloads=loads, audit_waiting=5)
    assert {name: meters.values(name) for name in meters.points()} == {
        "guardrail.requests.in_flight": {(): 4},
        "guardrail.policies.generation": {(): 2},
        "guardrail.policies.in_force": {(("guardrail.policies.digest", "sha256:aa"),): 8},
        "guardrail.classifier.queue.depth": {(("guardrail.classifier", "embedded"),): 3},
        "guardrail.classifier.queue.tokens": {(("guardrail.classifier", "cope"),): 900},
        "guardrail.audit.queue.depth": {(): 5},
    }


def test_a_decision_gives_its_highest_score_and_a_call_its_size(meters, decided, verdict):
    meters.metrics.emit(made(decided(verdict("calm", 0.1), verdict("harassment", 0.4), verdict("x", None, error="timeout"))))
    meters.metrics.emit(ClassifierAsked("embedded", 16, 0.02))
    meters.metrics.emit(AnswerHeld("chat", "window", 480))
    meters.metrics.served("chat", 0.003)
    points = [(name, point) for name, found in meters.points().items() for point in found]
    found = {name: (point.sum, dict(point.attributes)) for name, point in points if hasattr(point, "sum")}
    assert found.pop("guardrail.decision.duration")
    assert found == {
        "guardrail.decision.score": (0.4, {"guardrail.source": "input", "guardrail.policy.id": "harassment"}),
        "guardrail.classifier.batch.size": (16, {"guardrail.classifier": "embedded"}),
        "guardrail.classifier.duration": (0.02, {"guardrail.classifier": "embedded"}),
        "guardrail.stream.held": (480, {"guardrail.route": "chat", "guardrail.stream.mode": "window"}),
        "guardrail.overhead": (0.003, {"guardrail.route": "chat"}),
    }


def test_a_tally_is_one_series_for_each_set_of_attributes_in_whatever_order(meters):
    tally = Tally(meters.provider.get_meter("guardrail"), "t", "1", "")
    tally.add(1, {"a": 1, "b": 2})
    tally.add(2, {"b": 2, "a": 1})
    tally.add(4)
    assert meters.values("t") == {(("a", 1), ("b", 2)): 3, (): 4}
