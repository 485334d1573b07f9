"""One JSON line for each decision and each fault, made of an allow-list of fields: no text of a prompt or an answer, no key.

The records below are the allow-list: what is not a field here is not in the log.
"""

import heapq
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final, TypedDict

from guardrail.events import (
    AuditTroubled,
    BreakerChanged,
    CanaryChecked,
    Counted,
    DecisionMade,
    Event,
    PoliciesPublished,
    PoliciesRefused,
    RequestRefused,
    UpstreamFailed,
)
from guardrail.telemetry import names
from guardrail.telemetry.summary import error_code, short, words
from guardrail.types import Action, Mode, Verdict

MAX_VERDICTS: Final = 64
MAX_LISTED: Final = 20
_ACTIONS: Final = {action: action.word for action in Action}
_MODES: Final = {mode: mode.value for mode in Mode}


class VerdictFields(TypedDict):
    """One verdict. `action` is what the policy asks for, `mode` whether that is enforced; exactly one of `score` and `error` is set.

    `reading` names what was undone to read the text so. `provenance` is what replaying the score needs, where the classifier says it.
    """

    policy: str
    version: str
    digest: str
    part: str
    choice: int | None
    score: float | None
    threshold: float
    violation: bool
    error: str | None
    action: str
    mode: str
    criterion: str | None
    classifier: str
    flags: tuple[str, ...]
    reading: tuple[str, ...]
    provenance: dict[str, object] | None


class DecisionFields(TypedDict):
    """One decision. `decision`, `enforced` and `mode` as in the metrics; the first 64 verdicts, violations and errors before the rest."""

    decision_id: str
    request_id: str
    stage: str
    decision: str
    enforced: str
    mode: str
    action: str
    shadow_action: str
    unjudged: bool
    unavailable: bool
    route: str
    tenant: str
    generation: int
    protocol: str
    stream: bool
    duration_ms: float
    parts: int
    characters: int
    unscannable: tuple[str, ...]
    history: tuple[str, ...]
    violations: int
    errors: int
    verdict_count: int
    verdicts: list[VerdictFields]


class RefusalFields(TypedDict):
    """A request that was answered before anything was judged. `path` without its query, `limit` the tenant's limit that it met."""

    status: int
    code: str
    request_id: str
    tenant: str
    path: str
    limit: str


class UpstreamFields(TypedDict):
    """A broken upstream call."""

    code: str
    upstream: str
    request_id: str
    route: str


class CanaryFields(TypedDict):
    """A classifier's known pair. `detail` is the check's own sentence, cut."""

    classifier: str
    ok: bool
    detail: str


class PublishedFields(TypedDict):
    """A new generation in force."""

    generation: int
    policies: int


class RefusedFields(TypedDict):
    """A refused change: where and which code, without the message, which may quote the document."""

    generation: int
    finding_count: int
    findings: tuple[str, ...]


class AuditFields(TypedDict):
    """Records that the audit store does not hold, or how it does. `detail` is the store's own sentence, cut."""

    code: str
    records: int
    detail: str


class BreakerFields(TypedDict):
    """A circuit breaker's new state, and whether it is a classifier's or an upstream's."""

    kind: str
    name: str
    state: str


Fields = BreakerFields | DecisionFields | RefusalFields | UpstreamFields | CanaryFields | PublishedFields | RefusedFields | AuditFields


Told = BreakerChanged | DecisionMade | RequestRefused | UpstreamFailed | CanaryChecked | PoliciesPublished | PoliciesRefused | AuditTroubled
"""The events that have a line."""


class AuditLog:
    """An event sink that writes to the logger `guardrail.audit`: the event's name is the message, its fields the record's `fields`."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger(names.AUDIT_LOGGER)

    def emit(self, event: Event) -> None:
        """Write one line; none for what is only counted."""
        if isinstance(event, Counted):
            return
        level = _level(event)
        if self._logger.isEnabledFor(level):
            message, fields = _line(event)
            self._logger.log(level, message, extra={"fields": fields})


def _level(event: Told) -> int:
    match event:
        case AuditTroubled(code="recovered"):
            return logging.INFO
        case PoliciesRefused() | CanaryChecked(ok=False) | AuditTroubled():
            return logging.ERROR
        case BreakerChanged(state="closed"):
            return logging.INFO
        case RequestRefused() | UpstreamFailed() | BreakerChanged():
            return logging.WARNING
    return logging.INFO


def _line(event: Told) -> tuple[str, Fields]:
    match event:
        case DecisionMade():
            return "decision", _decision(event)
        case RequestRefused(status, code, request_id, tenant, path, limit):
            bare = short(path.partition("?")[0], 256)
            fields: RefusalFields = {
                "status": status,
                "code": error_code(code),
                "request_id": short(request_id),
                "tenant": short(tenant),
                "path": bare,
                "limit": limit,
            }
            return "request_refused", fields
        case UpstreamFailed(code, upstream, request_id, route):
            return "upstream_failed", UpstreamFields(code=error_code(code), upstream=upstream, request_id=short(request_id), route=route)
        case BreakerChanged(kind, name, state):
            return "breaker_changed", BreakerFields(kind=kind, name=name, state=state)
        case CanaryChecked(classifier, ok, detail):
            return "canary_checked", CanaryFields(classifier=classifier, ok=ok, detail=short(detail, 256))
        case AuditTroubled(code, records, detail):
            return "audit_troubled", AuditFields(code=error_code(code), records=records, detail=short(detail, 256))
        case PoliciesPublished(generation, policies):
            return "policies_published", PublishedFields(generation=generation, policies=policies)
        case PoliciesRefused(generation, findings):
            listed = tuple(short(f"{finding.path}:{finding.line}: {finding.code}", 512) for finding in findings[:MAX_LISTED])
            return "policies_refused", RefusedFields(generation=generation, finding_count=len(findings), findings=listed)


def _decision(event: DecisionMade) -> DecisionFields:
    decision = event.decision
    outcome = decision.outcome
    said = words(outcome)
    return {
        "decision_id": decision.id,
        "request_id": short(event.request_id),
        "stage": decision.stage.value,
        "decision": said.decision,
        "enforced": said.enforced,
        "mode": said.mode.value,
        "action": outcome.action.word,
        "shadow_action": outcome.shadow.word,
        "unjudged": outcome.unjudged,
        "unavailable": outcome.unavailable,
        "route": decision.route,
        "tenant": short(decision.tenant),
        "generation": decision.generation,
        "protocol": event.protocol,
        "stream": event.stream,
        "duration_ms": round(decision.duration_s * 1000, 3),
        "parts": len(event.parts),
        "characters": sum([len(part.text or "") for part in event.parts]),
        "unscannable": tuple([short(path, 256) for path in decision.unscannable[:MAX_LISTED]]),
        "history": decision.history[:MAX_LISTED],
        "violations": sum([verdict.violation for verdict in decision.verdicts]),
        "errors": sum([verdict.error is not None for verdict in decision.verdicts]),
        "verdict_count": len(decision.verdicts),
        "verdicts": _verdicts(decision.verdicts),
    }


def _verdicts(verdicts: Sequence[Verdict]) -> list[VerdictFields]:
    telling = heapq.nsmallest(MAX_VERDICTS, verdicts, key=_telling) if len(verdicts) > MAX_VERDICTS else sorted(verdicts, key=_telling)
    return [
        {
            "policy": verdict.policy_id,
            "version": verdict.policy_version,
            "digest": verdict.policy_digest,
            "part": short(verdict.part, 256),
            "choice": verdict.choice,
            "score": verdict.score,
            "threshold": verdict.threshold,
            "violation": verdict.violation,
            "error": None if verdict.error is None else error_code(verdict.error),
            "action": _ACTIONS[verdict.action],
            "mode": _MODES[verdict.mode],
            "criterion": None if verdict.criterion is None else short(verdict.criterion),
            "classifier": verdict.classifier,
            "flags": verdict.flags,
            "reading": verdict.reading,
            "provenance": None if verdict.provenance is None else asdict(verdict.provenance),
        }
        for verdict in telling
    ]


def _telling(verdict: Verdict) -> tuple[bool, bool, float]:
    """Violations first, then errors, then the highest scores."""
    return not verdict.violation, verdict.error is None, -(verdict.score or 0.0)
