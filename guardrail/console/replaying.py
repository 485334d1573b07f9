"""A stored decision judged again, where its text is kept whole, under the policies that are in force now; and what came out otherwise."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from guardrail.audit.replay import Change, Comparison, compare, replayable
from guardrail.console.explained import explanation, fetched
from guardrail.console.page import Page, Visit
from guardrail.console.room import Room
from guardrail.console.trying import judged, routes_of
from guardrail.errors import GuardrailError, WireError
from guardrail.guard import Origin, Turn
from guardrail.types import Stage


@dataclass(frozen=True, slots=True)
class Row:
    """A policy on a part, then and now. A score of None: it was not asked, or could not judge."""

    policy: str
    part: str
    then: float | None
    now: float | None
    words: str


@dataclass(frozen=True, slots=True)
class Replay:
    """What judging again came to."""

    summary: str
    action: str
    unjudged: bool
    rows: tuple[Row, ...]


async def replay(room: Room, visit: Visit) -> Page:
    """The decision's page with the replay on it. Raises WireError without the whole text or its route, or where more was judged."""
    record = await fetched(room, visit)
    if record.content is None or record.keeps != "full":
        raise WireError(409, "no_content", "The text of this decision is not kept whole, so it cannot be judged again here.")
    route = next((each for each in routes_of(room, record.tenant) if each.name == record.route), None)
    if route is None:
        raise WireError(409, "no_route", f"Route {record.route!r} of tenant {record.tenant!r} is not in force any more.")
    try:
        replayable(record, route)
        turn = Turn(route, Stage(record.stage), record.tenant, Origin(), time.monotonic())
        decision = await judged(room, record.content, turn)
        found = compare(record, decision, route)
    except WireError:
        raise
    except GuardrailError as error:
        raise WireError(409, "not_replayable", f"{error}.") from error
    unjudged = decision.outcome.unjudged
    done = Replay(_summary(found, was=record.unjudged, now=unjudged), decision.action.word, unjudged, tuple(_rows(found)))
    return await explanation(room, record, done)


def _summary(found: Comparison, *, was: bool, now: bool) -> str:
    then, since = (f"{action}{', unjudged' if unjudged else ''}" for action, unjudged in zip(found.action, (was, now), strict=True))
    return f"The same: {then}." if then == since else f"Then {then}; now {since}."


def _rows(found: Comparison) -> Iterator[Row]:
    """Those first that changed most: flips, then scores."""
    for change in sorted(found.changes, key=lambda each: (each.violation[0] == each.violation[1], each.same)):
        yield Row(change.policy, change.part, *change.score, _words(change))


def _words(change: Change) -> str:
    (then, now), (before, after) = change.score, change.version
    if not before or not after:
        return "asked now" if after else "not asked now"
    if then is None or now is None:  # an error is no "does not violate"
        return "not judged, then or now" if then is now else "judged now" if then is None else "could not be judged now"
    if change.violation[0] != change.violation[1]:
        return "violates now" if change.violation[1] else "does not violate now"
    if before != after:
        return f"version {before} then, {after} now"
    return "same" if change.same else f"{now - then:+.3f}"
