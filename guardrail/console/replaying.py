"""A stored decision judged again, where its text is kept, under the policies that are in force now; and what came out otherwise."""

from collections.abc import Iterable
from dataclasses import dataclass

from guardrail.audit.record import AuditRecord, VerdictRecord
from guardrail.console.explained import explanation, fetched
from guardrail.console.page import Page, Visit
from guardrail.console.room import Room
from guardrail.console.trying import judged, routes_of
from guardrail.errors import WireError
from guardrail.types import Stage, Verdict

SAME = 1e-3  # what a score may differ by from one bucket to another


@dataclass(frozen=True, slots=True)
class Compared:
    """A policy on a part, then and now: scores, or the codes of errors; None of both where it was not asked."""

    policy: str
    part: str
    then: float | None
    then_error: str | None
    now: float | None
    now_error: str | None
    change: str


@dataclass(frozen=True, slots=True)
class Replay:
    """What judging again came to."""

    summary: str
    action: str
    unjudged: bool
    rows: tuple[Compared, ...]


async def replay(room: Room, visit: Visit) -> Page:
    """The decision's page with the replay on it. Raises WireError where the text is not kept, or its route is gone."""
    record = await fetched(room, visit)
    if record.content is None or record.keeps != "full":
        raise WireError(409, "no_content", "The text of this decision is not kept whole, so it cannot be judged again here.")
    routes = routes_of(room, record.tenant)
    route = next((each for each in routes if each.name == record.route), None)
    if route is None:
        raise WireError(409, "no_route", f"Route {record.route!r} of tenant {record.tenant!r} is not in force any more.")
    decision = await judged(room, record.content, route, Stage(record.stage), record.tenant)
    now = decision.outcome
    was = f"{record.action}{', unjudged' if record.unjudged else ''}"
    is_ = f"{now.action.word}{', unjudged' if now.unjudged else ''}"
    summary = f"The same: {was}." if was == is_ else f"Then {was}; now {is_}."
    done = Replay(summary, now.action.word, now.unjudged, tuple(_rows(record, decision.verdicts)))
    return await explanation(room, record, done)


def _rows(record: AuditRecord, verdicts: Iterable[Verdict]) -> Iterable[Compared]:
    then: dict[tuple[str, str], VerdictRecord] = {}
    for old in record.verdicts:
        if (known := then.get((old.policy, old.part))) is None or (old.score or 0.0) > (known.score or 0.0):
            then[old.policy, old.part] = old
    now: dict[tuple[str, str], Verdict] = {}
    for new in verdicts:
        if (same := now.get((new.policy_id, new.part))) is None or (new.score or 0.0) > (same.score or 0.0):
            now[new.policy_id, new.part] = new
    for policy, part in dict.fromkeys([*then, *now]):
        yield _compared(policy, part, then.get((policy, part)), now.get((policy, part)))


def _compared(policy: str, part: str, then: VerdictRecord | None, now: Verdict | None) -> Compared:
    if then is None or now is None:
        change = "asked now" if then is None else "not asked now"
    elif then.violation != now.violation:
        change = "violates now" if now.violation else "does not violate now"
    elif then.score is not None and now.score is not None and abs(then.score - now.score) > SAME:
        change = f"{now.score - then.score:+.3f}"
    else:
        change = "same"
    return Compared(
        policy,
        part,
        then.score if then else None,
        then.error if then else None,
        now.score if now else None,
        now.error if now else None,
        change,
    )
