"""Whether the guard judges, and rightly: canaries, the generation in force, queues."""

import time
from dataclasses import dataclass

from guardrail.asgi.health import readiness
from guardrail.audit.sink import AuditSink
from guardrail.console.page import Page, Visit
from guardrail.console.room import Room


@dataclass(frozen=True, slots=True)
class ClassifierState:
    """One classifier: its known pair, what it says of itself, and its circuit breaker ("" without one)."""

    name: str
    id: str
    ok: bool
    detail: str
    breaker: str


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """One upstream and its circuit breaker."""

    name: str
    kind: str
    breaker: str


async def health(room: Room, visit: Visit) -> Page:
    """The page of it. Of several worker processes it shows the one that answered."""
    del visit
    service = room.service
    document, status = readiness(service)
    canaries, ids = service.canaries, service.classifier_ids
    answers = canaries.last if canaries is not None else {}
    breakers = service.breakers.states()
    shut = breakers["classifiers"]
    classifiers = [ClassifierState(name, ids.get(name, ""), each.ok, each.detail, shut.get(name, "")) for name, each in answers.items()]
    upstreams = [UpstreamState(name, each.kind, breakers["upstreams"].get(name, "")) for name, each in service.config.upstreams.items()]
    refused = [
        {"place": f"{finding.path}:{finding.line}", "code": finding.code, "message": finding.message}
        for finding in (service.publisher.refusals if service.publisher is not None else ())
    ]
    data = {
        "ready": status == 200,
        "reason": document.get("reason", ""),
        "generation": document.get("generation", 0),
        "policies": document.get("policies", 0),
        "refused": bool(document.get("refused")),
        "refusals": refused,
        "ended": document.get("ended", []),
        "classifiers": classifiers,
        "upstreams": upstreams,
        "in_flight": service.in_flight,
        "max_in_flight": service.limits.max_in_flight,
        "sink_failures": service.events.failures,
        "queue": service.recorder.status() if isinstance(service.recorder, AuditSink) else None,
        "at": time.time(),
    }
    return Page("health.html", "Health", data, at="health", live=True)
