"""One decision explained: which policy, by which of its sentences, how far over its threshold, on which reading, and what took how long."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from guardrail.audit.record import AuditRecord, VerdictRecord
from guardrail.audit.store import Filter
from guardrail.config.console import TRACE_ID
from guardrail.console import plots
from guardrail.console.decisions import line
from guardrail.console.page import Page, Visit
from guardrail.console.room import Room
from guardrail.errors import WireError
from guardrail.types import Part, Policy

MOST_STAGES = 20  # of one request
NEAR_S = 3_600.0  # its stages lie no further apart; a client may use the same id again


@dataclass(frozen=True, slots=True)
class Told:
    """One verdict of the decision, explained. `criterion_text` is the policy's own sentence, where that version is at hand.

    `overview` is what the policy says of itself, and `overview_is_its` whether in the version that judged.
    """

    policy: str
    title: str
    owner: str
    version: str
    digest: str
    current: bool
    part: str
    score: float | None
    threshold: float
    violation: bool
    error: str | None
    action: str
    mode: str
    criterion: str | None
    criterion_text: str
    overview: str
    overview_is_its: bool
    reading: tuple[str, ...]
    flags: tuple[str, ...]
    span: tuple[int, int] | None
    classifier: str


@dataclass(frozen=True, slots=True)
class Shown:
    """One judged part with its text in pieces (what, whether it is marked)."""

    path: str
    role: str
    kind: str
    readable: bool
    pieces: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class Timed:
    """Something that took time within a request: from `start`, for `length` seconds."""

    what: str
    start: float
    length: float


async def decision(room: Room, visit: Visit) -> Page:
    """One decision explained."""
    return await explanation(room, await fetched(room, visit))


async def fetched(room: Room, visit: Visit) -> AuditRecord:
    """The record of the address. Raises WireError (404) where there is none."""
    nothing: AuditRecord | None = None
    record = await room.read(lambda audit: audit.get(visit.request.path_params["id"]), nothing)
    if record is None:
        raise WireError(404, "not_found", "There is no such decision in the audit store.")
    return record


async def explanation(room: Room, record: AuditRecord, replay: object = None) -> Page:
    """The page of a record, with what replaying it came to."""
    exchange = await _exchange(room, record)
    timings = spans(exchange)
    trace = room.settings.trace_url
    ranked = sorted(record.verdicts, key=lambda each: (not each.violation, each.error is None, -(each.score or 0.0)))
    data = {
        "record": record,
        "line": line(record),
        "verdicts": [told(room, record, each) for each in ranked],
        "exchange": [line(each) for each in exchange if each.id != record.id],
        "timings": timings,
        "judged": [_marked(part, record) for part in record.content or ()],
        "trace": trace.replace(TRACE_ID, quote(record.trace_id, safe="")) if trace and record.trace_id else "",
        "replay": replay,
    }
    drawn = {"waterfall": plots.waterfall("timings", "What took how long", [(each.what, each.start, each.length) for each in timings])}
    for place, each in enumerate(ranked):
        if each.score is not None:
            drawn[f"bar{place}"] = plots.score_bar(f"bar{place}", f"Score of {each.policy}", each.score, each.threshold)
    return Page("decision.html", f"Decision {record.id[:12]}", data, drawn, at="decisions")


def _marked(part: Part, record: AuditRecord) -> Shown:
    """A kept text in pieces, those that violating verdicts point at marked; not where they point at all of it, which says nothing."""
    text = part.text or ""
    own = [each for each in record.violations if (each.part, each.choice) == (part.path, part.choice)]
    spans = sorted((each.span.start, each.span.end) for each in own if each.span is not None)
    pieces: list[tuple[str, bool]] = []
    done = 0
    for start, end in spans:
        if (start, end) != (0, len(text)) and done <= start < end <= len(text):
            pieces += [(text[done:start], False), (text[start:end], True)]
            done = end
    pieces.append((text[done:], False))
    return Shown(part.path, part.role, part.kind, part.text is not None, tuple(piece for piece in pieces if piece[0]))


async def _exchange(room: Room, record: AuditRecord) -> list[AuditRecord]:
    """All decisions of the same request, in order of time."""
    if not record.request_id:
        return [record]
    near = Filter(request_id=record.request_id, tenant=record.tenant, since=record.time - NEAR_S, until=record.time + NEAR_S)
    nothing: list[AuditRecord] = []
    found = await room.read(lambda audit: audit.find(near, limit=MOST_STAGES), nothing)
    return sorted(found, key=lambda each: (each.time, each.sequence)) or [record]


def spans(exchange: Sequence[AuditRecord]) -> list[Timed]:
    """What took how long in a request. A record is written when its stage is decided; between two stages the upstream is at work."""
    found: list[Timed] = []
    first = min((each.time - each.duration_s for each in exchange), default=0.0)
    done = 0.0
    for record in exchange:
        start = max(0.0, record.time - record.duration_s - first)
        if found and start - done > 0.0005:
            found.append(Timed("upstream, between", done, start - done))
        found.append(Timed(f"{record.stage} judged", start, record.duration_s))
        done = max(done, start + record.duration_s)
        extra = [(name, length) for name, length in record.timings.items() if name != "judging"]
        found += [Timed(f"{record.stage}: {name}", start, length) for name, length in extra]
    return found


def told(room: Room, record: AuditRecord, verdict: VerdictRecord) -> Told:
    """One verdict with the words of its policy, if that is in force still."""
    owner, policy = _policy(room, record.tenant, verdict)
    return Told(
        policy=verdict.policy,
        title=policy.title if policy else verdict.policy,
        owner=owner,
        version=verdict.version,
        digest=verdict.digest,
        current=_in_force(room, record.tenant, verdict),
        part=verdict.part,
        score=verdict.score,
        threshold=verdict.threshold,
        violation=verdict.violation,
        error=verdict.error,
        action=verdict.action,
        mode=verdict.mode,
        criterion=verdict.criterion,
        criterion_text=_criterion(policy, verdict) if policy else "",
        overview=policy.overview if policy else "",
        overview_is_its=policy is not None and policy.digest == verdict.digest,
        reading=verdict.reading,
        flags=verdict.flags,
        span=(verdict.span.start, verdict.span.end) if verdict.span else None,
        classifier=verdict.classifier,
    )


def _policy(room: Room, tenant: str, verdict: VerdictRecord) -> tuple[str, Policy | None]:
    """The policy that judged, else the one of its name; with the tenant whose own it is."""
    sets = room.publisher.sets
    own = sets.for_tenant(tenant).get(verdict.policy)
    owner = tenant if own is not None and sets.base.get(verdict.policy) != own else ""
    known = [*(each.policy for each in room.history.of(owner, verdict.policy)), *sets.candidates.values()]
    return owner, next((each for each in known if each.key == (verdict.policy, verdict.digest)), own)


def _in_force(room: Room, tenant: str, verdict: VerdictRecord) -> bool:
    own = room.publisher.sets.for_tenant(tenant).get(verdict.policy)
    return own is not None and own.digest == verdict.digest


def _criterion(policy: Policy, verdict: VerdictRecord) -> str:
    if policy.digest != verdict.digest or verdict.criterion is None:
        return ""
    every = (one for label in policy.labels for one in (*label.includes, *label.excludes))
    return next((one.text for one in every if one.name == verdict.criterion), "")
