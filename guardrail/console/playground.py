"""The playground: a text in, every policy's verdict out, on the text as it is spelled and on each way to read it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from guardrail.console import plots
from guardrail.console.page import Page, Visit
from guardrail.console.room import Room
from guardrail.console.trying import asking, judged, routes_of
from guardrail.context import without_prompt
from guardrail.errors import WireError
from guardrail.guard import Origin, Turn
from guardrail.normalize import Reading, Readings, readings
from guardrail.types import Decision, Part, Policy, ReadingLimits, Route, Stage, Verdict

MAX_CHARS = 20_000


@dataclass(frozen=True, slots=True)
class Read:
    """One way to read the text. `steps` undid its disguise, none for the text as it is spelled."""

    text: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a policy says of one reading: a score or the code of an error."""

    score: float | None
    error: str | None
    violation: bool
    criterion: str | None
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One policy: its threshold on this route, whether the route asks it in this stage, and an answer for each reading."""

    policy: str
    title: str
    threshold: float
    asked: bool
    action: str
    mode: str
    answers: tuple[Answer, ...]

    @property
    def violation(self) -> bool:
        """Whether one of the readings violates."""
        return any(answer.violation for answer in self.answers)


@dataclass(frozen=True, slots=True)
class Tryout:
    """What is to be tried: a text, as a prompt or an answer (to `prompt`), as one tenant's route would have it."""

    text: str
    prompt: str
    stage: Stage
    tenant: str
    route: Route


async def playground(room: Room, visit: Visit) -> Page:
    """The empty form, or a form that was sent with what came of it."""
    tryout = _tryout(room, visit)
    data: dict[str, object] = {
        "text": tryout.text,
        "prompt": tryout.prompt,
        "stage": tryout.stage.value,
        "tenant": tryout.tenant,
        "route": tryout.route.name,
        "tenants": {name: [route.name for route in routes_of(room, name)] for name in room.table.tenants},
        "max_chars": MAX_CHARS,
        "decision": None,
        "readings": [],
        "truncated": [],
        "normalizes": tryout.route.normalize is not None,
        "rows": [],
        "prompt_needed": [],
        "took_s": None,
    }
    if visit.request.method == "POST" and tryout.text.strip():
        tried = await _tried(room, tryout)
        return Page("playground.html", "Playground", data | tried, _drawn(tried["rows"]), at="playground")
    return Page("playground.html", "Playground", data, at="playground")


def _tryout(room: Room, visit: Visit) -> Tryout:
    """What the form says, with the first tenant and route where it does not. Raises WireError for names that are not there."""
    given = visit.form
    tenants = [tenant for tenant in room.table.tenants if routes_of(room, tenant)]
    if not tenants:
        raise WireError(404, "not_found", "There is no route that could judge.")
    tenant, _, name = given.get("route", "").partition("/")
    tenant = tenant or tenants[0]
    routes = routes_of(room, tenant)
    route = next((route for route in routes if name in ("", route.name)), None)
    if route is None:
        raise WireError(404, "not_found", f"There is no route {given.get('route', '')!r}.")
    text, prompt = (given.get(name, "").replace("\r\n", "\n") for name in ("text", "prompt"))
    if max(len(text), len(prompt)) > MAX_CHARS:
        raise WireError(413, "too_long", f"The playground takes at most {MAX_CHARS:,} characters.")
    stage = Stage.OUTPUT if given.get("stage") == Stage.OUTPUT else Stage.INPUT
    return Tryout(text, prompt if stage is Stage.OUTPUT else "", stage, tenant, route)


def _drawn(rows: Sequence[Row]) -> dict[str, Markup]:
    """A bar for each score: `bar0-1` is that of the first policy on the second reading."""
    return {
        f"bar{row}-{place}": plots.score_bar(f"bar{row}-{place}", f"Score of {each.policy}", answer.score, each.threshold)
        for row, each in enumerate(rows)
        for place, answer in enumerate(each.answers)
        if answer.score is not None
    }


async def _tried(room: Room, tryout: Tryout) -> dict[str, Any]:
    """The route's own decision on the text, and every policy's verdict on every reading of it.

    Raises WireError (422) where a policy of the route judges answers with a prompt and there is none, 503 for what is not read in time.
    """
    route, stage, tenant = tryout.route, tryout.stage, tryout.tenant
    said = tryout.prompt if tryout.prompt.strip() else None
    bare = stage is Stage.OUTPUT and said is None
    route = without_prompt(route) if bare else route
    found = await _read(tryout.text, route)
    policies = list(room.publisher.sets.for_tenant(tenant).values())
    lacking = [policy.id for policy in policies if bare and policy.judge_with == "prompt"]
    policies = [policy for policy in policies if policy.id not in lacking]
    every = replace(await asking(room, route, stage, policies, tenant), normalize=None)  # each reading by itself
    parts = [Part(f"readings[{place}]", reading.text) for place, reading in enumerate(found.found)]
    turn = Turn(route, stage, tenant, Origin(), time.monotonic(), context=said)
    decision = await judged(room, [Part("text", tryout.text)], turn)
    detail = await judged(room, parts, replace(turn, route=every))
    return {
        "decision": _said(decision, route, stage),
        "readings": [Read(reading.text, reading.trace) for reading in found.found],
        "truncated": list(found.truncated),
        "normalizes": route.normalize is not None,
        "prompt_needed": lacking,
        "rows": _rows(policies, every, tryout, (found.found, detail.verdicts)),
        "took_s": decision.duration_s,
    }


async def _read(text: str, route: Route) -> Readings:
    """Its readings, looked for beside the event loop and no longer than the route would."""
    try:
        deadline = time.monotonic() + route.deadline_s
        return await asyncio.to_thread(readings, text, limits=route.normalize or ReadingLimits(), deadline=deadline)
    except TimeoutError:
        raise WireError(503, "too_slow", f"The text was not read within {route.deadline_s:g} seconds.") from None


def _said(decision: Decision, route: Route, stage: Stage) -> dict[str, object]:
    outcome = decision.outcome
    return {
        "action": outcome.action.word,
        "shadow": outcome.shadow.word,
        "unjudged": outcome.unjudged,
        "unavailable": outcome.unavailable,
        "checks": len(route.checks(stage)),
        "violated": list(dict.fromkeys(verdict.policy_id for verdict in decision.violations)),
    }


def _rows(policies: Sequence[Policy], every: Route, tryout: Tryout, judged_: tuple[Sequence[Reading], Sequence[Verdict]]) -> list[Row]:
    """A row for each policy, those that violate first."""
    found, verdicts = judged_
    own = {check.policy.id for check in tryout.route.checks(tryout.stage)}
    by_place: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        by_place.setdefault((verdict.policy_id, verdict.part), []).append(verdict)
    thresholds = {check.policy.id: check for check in every.checks(tryout.stage)}
    rows = []
    for policy in policies:
        check = thresholds[policy.id]
        answers = tuple(_answer(by_place.get((policy.id, f"readings[{place}]"), [])) for place in range(len(found)))
        rows.append(Row(policy.id, policy.title, check.threshold, policy.id in own, check.action.word, check.mode.value, answers))
    return sorted(rows, key=lambda row: (not row.violation, -max((answer.score or 0.0) for answer in row.answers)))


def _answer(verdicts: Sequence[Verdict]) -> Answer:
    """The strongest of what a policy said of one reading; an error before everything else, and where nothing was said."""
    failed = next((verdict for verdict in verdicts if verdict.error is not None), None)
    if failed is not None or not verdicts:
        return Answer(None, failed.error if failed else "not_judged", violation=False, criterion=None, flags=())
    strongest = max(verdicts, key=lambda verdict: verdict.score or 0.0)
    return Answer(strongest.score, None, strongest.violation, strongest.criterion, strongest.flags)
