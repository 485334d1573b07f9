"""One of each event, so that every metric there is has a point."""

from collections.abc import Callable

from guardrail.events import (
    AnswerHeld,
    AuditTroubled,
    BreakerChanged,
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
from guardrail.telemetry.calls import UpstreamCall, Usage
from guardrail.telemetry.gauges import State
from guardrail.telemetry.metrics import Metrics
from guardrail.types import Action, Decision, Part, Verdict


def emit_everything(metrics: Metrics, decided: Callable[..., Decision], verdict: Callable[..., Verdict]) -> None:
    """Tell the metrics about one of each."""
    decision = decided(verdict(), verdict("violence", None, error="timeout"), action=Action.BLOCK, unjudged=True)
    for event in (
        DecisionMade(decision, "r-1", "gpt-4o", "chat", False, (Part("messages[0].content", "hello"),)),
        BreakerChanged("classifier", "main", "open"),
        RequestRefused(429, "rate_limit_exceeded", "r-2", "acme", "/v1/images", "requests"),
        UpstreamFailed("connect", "main", "r-3", "chat"),
        CanaryChecked("embedded@sha256:bb", True, ""),
        PoliciesPublished(8, 5),
        PoliciesRefused(8, ()),
        CacheUsed(1, 1, 1),
        ClassifierAsked("embedded", 8, 0.01),
        AnswerHeld("chat", "hold", 100),
        AuditTroubled("queue_full", 3),
        AuditTroubled("recovered", 0),
    ):
        metrics.emit(event)
    loads = {"embedded": Workload(1, 1)}
    metrics.watch(lambda: State(1, 8, "sha256:aa", 5, loads, audit_waiting=0))
    metrics.served("chat", 0.001)
    metrics.upstream(UpstreamCall("chat", "gpt-4o", "openai", ("h", 1), 0.5, 0.1, (0.01,), usage=Usage(input=3, output=4)))
