"""Decisions as they come, newest first, with filters and paging."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from guardrail.audit.record import AuditRecord
from guardrail.audit.store import Filter
from guardrail.console.page import Page, Visit
from guardrail.console.room import Room
from guardrail.types import Action, Stage

A_PAGE = 50


@dataclass(frozen=True, slots=True)
class Line:
    """One decision of the list: what it came to, and the policy that weighed most."""

    id: str
    sequence: int
    time: float
    stage: str
    tenant: str
    route: str
    model: str
    word: str
    enforced: str
    policy: str
    score: float | None
    threshold: float | None
    violations: int
    errors: int
    duration_s: float
    changed: bool


def line(record: AuditRecord) -> Line:
    """A record as one line of a list."""
    scored = [each for each in record.verdicts if each.score is not None]
    strongest = max(scored, key=lambda each: (each.violation, each.score or 0.0), default=None)
    return Line(
        id=record.id,
        sequence=record.sequence,
        time=record.time,
        stage=record.stage,
        tenant=record.tenant,
        route=record.route,
        model=record.model,
        word=record.word,
        enforced=record.action,
        policy=strongest.policy if strongest else "",
        score=strongest.score if strongest else None,
        threshold=strongest.threshold if strongest else None,
        violations=len(record.violations),
        errors=sum(each.error is not None for each in record.verdicts),
        duration_s=record.duration_s,
        changed=record.genuine is False,
    )


async def decisions(room: Room, visit: Visit) -> Page:
    """The list."""
    wanted = {name: visit.asked(name) for name in ("policy", "action", "route", "tenant", "stage", "since", "until", "unjudged")}
    filter_, faults = _filter(wanted)
    before = visit.asked("before")
    found: list[AuditRecord] = []
    if not faults:
        cursor = int(before) if before.isascii() and before.isdigit() and len(before) < 16 else None
        found = await room.read(lambda audit: audit.find(filter_, A_PAGE + 1, cursor), [])
    lines = [line(record) for record in found[:A_PAGE]]
    data = {
        "audited": room.audit is not None,
        "filters": wanted,
        "faults": faults,
        "choices": _choices(room),
        "lines": lines,
        "first": not before,
        "next": str(lines[-1].sequence) if len(found) > A_PAGE else "",
    }
    return Page("decisions.html", "Decisions", data, at="decisions", live=not before)


def _filter(wanted: Mapping[str, str]) -> tuple[Filter, list[str]]:
    """The filter of the query, and what in it cannot be understood."""
    faults: list[str] = []
    times: dict[str, float | None] = {}
    for name in ("since", "until"):
        try:
            times[name] = _moment(wanted[name])
        except ValueError:
            faults.append(f"{name} is no time; write it like 2026-01-31 14:00 (UTC)")
    action = wanted["action"]
    found = Filter(
        tenant=wanted["tenant"] or None,
        route=wanted["route"] or None,
        stage=wanted["stage"] or None,
        policy=None,
        violated=wanted["policy"] or None,
        action=None if action == "shadow" else action or None,
        mode="shadow" if action == "shadow" else None,
        since=times.get("since"),
        until=times.get("until"),
        unjudged=True if wanted["unjudged"] else None,
    )
    return found, faults


def _moment(text: str) -> float | None:
    """Seconds since 1970 of a time in UTC. Raises ValueError."""
    if not text:
        return None
    when = datetime.fromisoformat(text)
    return when.replace(tzinfo=when.tzinfo or UTC).timestamp()


def _choices(room: Room) -> dict[str, Sequence[str]]:
    """What filters can be set to."""
    routes = {route.name for tenant in room.table.tenants for route in room.table.for_tenant(tenant)}
    return {
        "policy": sorted({policy.id for policy in room.publisher.sets.distinct()}),
        "route": sorted(routes),
        "tenant": sorted(room.table.tenants),
        "action": [*(action.word for action in Action), "shadow"],
        "stage": [stage.value for stage in Stage],
    }
