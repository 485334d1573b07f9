"""The overview: traffic, block and unjudged rates, latency percentiles, by policy and by tenant, and the latest decisions."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from markupsafe import Markup

from guardrail.asgi.health import readiness
from guardrail.audit.durations import Durations
from guardrail.audit.record import AuditRecord
from guardrail.audit.store import AuditReader, Total
from guardrail.console import plots
from guardrail.console.decisions import Line, line
from guardrail.console.page import Page, Visit
from guardrail.console.room import Counted, Room, Step

WORDS = ("pass", "annotate", "redact", "shadow", "block", "unjudged")
"""What a decision can have come to, as they are stacked."""
PERCENTILES: Mapping[str, float] = MappingProxyType({"p50": 0.5, "p95": 0.95, "p99": 0.99})
LATEST = 12
FEW = 50
"""Fewer records than that are shown whole at first."""
_MARGIN_S = 1.0  # the newest record is not cut off by a clock that ticked meanwhile


@dataclass(frozen=True, slots=True)
class Range:
    """How far the overview looks back, in what steps, and for how long its counts are good enough; in seconds."""

    name: str
    words: str
    length_s: float
    step_s: float
    good_s: float


RANGES = (
    Range("5m", "5 minutes", 300, 10, 0),
    Range("1h", "1 hour", 3_600, 60, 2),
    Range("24h", "24 hours", 86_400, 1_800, 60),
    Range("7d", "7 days", 604_800, 10_800, 60),
)


@dataclass(frozen=True, slots=True)
class Share:
    """A policy's violations, or a tenant's decisions by what they came to, as counts and as shares of `of`."""

    name: str
    of: int
    words: Mapping[str, int]

    def share(self, word: str) -> float | None:
        """The share of one word; None of nothing."""
        return self.words.get(word, 0) / self.of if self.of else None


async def overview(room: Room, visit: Visit) -> Page:
    """The page of it."""
    ready, status = readiness(room.service)
    now = time.time()
    counted = Counted()
    latest: list[Line] = []
    chosen = next((each for each in RANGES if each.name == visit.asked("range")), None)
    if room.audit is not None:
        nothing: list[AuditRecord] = []
        records = await room.read(lambda audit: audit.find(None, FEW), nothing)
        latest = [line(record) for record in records[:LATEST]]
        chosen = chosen or _reaching(records[-1].time if records else now, now, few=len(records) < FEW)
        counted = await _counted(room, chosen, now)
    chosen = chosen or RANGES[1]
    totals, steps = counted.totals, counted.steps
    data = {
        "ready": status == 200,
        "health": ready,
        "audited": room.audit is not None,
        "range": chosen,
        "ranges": RANGES,
        "sums": counted.sums,
        "words": [each for each in WORDS if each in ("pass", "block", "unjudged") or any(each in step.words for step in steps)],
        "steps": steps,
        "policies": _by_policy(room, totals),
        "tenants": _by_tenant(totals),
        "latest": latest,
    }
    return Page("overview.html", "Overview", data, _drawn(steps), at="overview", live=True)


def _reaching(oldest: float, now: float, *, few: bool) -> Range:
    """The shortest range with all there is, where that is little; else an hour."""
    return next((each for each in RANGES if few and now - oldest < each.length_s), RANGES[1])


async def _counted(room: Room, chosen: Range, now: float) -> Counted:
    """The counts of a range; those of a long one are counted anew once in a while only, however many look at them."""
    async with room.counting:
        when, known = room.counted.get(chosen.name, (0.0, None))
        if known is None or not 0 <= now - when < chosen.good_s:
            known = await room.read(lambda audit: _count(audit, chosen, now), _sum((), chosen))
            room.counted[chosen.name] = now, known
        return known


def _count(audit: AuditReader, chosen: Range, now: float) -> Counted:
    """Read the store and sum up: in a thread, since both take long over many decisions."""
    until = (now + _MARGIN_S) // chosen.step_s * chosen.step_s + chosen.step_s
    return _sum(audit.totals(until - chosen.length_s, until, chosen.step_s), chosen)


def _sum(totals: Sequence[Total], chosen: Range) -> Counted:
    return Counted(totals, [_step(total) for total in totals], _sums(totals, chosen))


def _step(total: Total) -> Step:
    p50, p95, p99 = (total.percentile(share) if total.decisions else None for share in PERCENTILES.values())
    return Step(total.start, total.decisions, total.words, p50, p95, p99)


def _sums(totals: Iterable[Total], chosen: Range) -> dict[str, object]:
    """The whole range in a few numbers. Rates are None where nothing was decided."""
    words: Counter[str] = Counter()
    durations = Durations()
    for total in totals:
        words.update(total.words)
        durations.take(total.durations)
    count = sum(words.values())
    return {
        "decisions": count,
        "a_minute": count / (chosen.length_s / 60),
        "words": {each: words[each] for each in WORDS},
        "block_rate": words["block"] / count if count else None,
        "unjudged_rate": words["unjudged"] / count if count else None,
        **{name: durations.percentile(share) if count else None for name, share in PERCENTILES.items()},
    }


def _by_policy(room: Room, totals: Iterable[Total]) -> list[Share]:
    """How often each policy in force, and each that was violated, was violated, enforced and in shadow; those that were, first."""
    violated: Counter[str] = Counter()
    watched: Counter[str] = Counter()
    count = 0
    for total in totals:
        violated.update(total.policies)
        watched.update(total.shadow_policies)
        count += total.decisions
    in_force = [policy.id for policy in room.publisher.sets.distinct()] if room.service.publisher is not None else []
    names = dict.fromkeys([*in_force, *violated, *watched])
    shares = [Share(name, count, {"block": violated[name], "shadow": watched[name]}) for name in names]
    return sorted(shares, key=lambda each: (-each.words["block"], -each.words["shadow"], each.name))


def _by_tenant(totals: Iterable[Total]) -> list[Share]:
    found: dict[str, Counter[str]] = {}
    for total in totals:
        for tenant, words in total.tenant_words.items():
            found.setdefault(tenant, Counter()).update(words)
    shares = [Share(name, sum(words.values()), dict(words)) for name, words in found.items()]
    return sorted(shares, key=lambda each: (-each.of, each.name))


def _drawn(steps: Sequence[Step]) -> dict[str, Markup]:
    if not any(step.decisions for step in steps):
        return {}
    starts = [step.start for step in steps]
    used = [each for each in WORDS if any(each in step.words for step in steps)]
    series = {each: [step.words.get(each, 0) for step in steps] for each in used}
    lines = {name: [getattr(step, name) for step in steps] for name in PERCENTILES}
    return {
        "traffic": plots.traffic("traffic", "Decisions over time", starts, series),
        "latency": plots.latency("latency", "Time to decide, percentiles over time", starts, lines),
    }
