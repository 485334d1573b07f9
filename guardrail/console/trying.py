"""Judging that is nobody's traffic: policies' own tests, and texts from the playground. No observer is told, nothing is recorded."""

import time
from collections.abc import Sequence
from dataclasses import replace

from guardrail.console.room import Room
from guardrail.console.tried import Case, Tried
from guardrail.errors import GuardrailError, WireError
from guardrail.guard import Origin, Turn
from guardrail.policy.trial import tested_as
from guardrail.types import Check, Decision, Part, Policy, Route, Stage, Verdict

TESTS_S = 60.0
MOST_TRIED = 256


def routes_of(room: Room, tenant: str) -> tuple[Route, ...]:
    """A tenant's routes, each once."""
    return tuple({route.name: route for route in reversed(room.table.for_tenant(tenant))}.values())[::-1]


async def judged(room: Room, parts: Sequence[Part], turn: Turn) -> Decision:
    """A decision that is told to nobody. Waits its turn; raises WireError (503) where that takes longer than the route's deadline."""
    guard = room.service.judgement.guard.unobserved()
    async with room.judging:
        return await guard.decide(parts, replace(turn, started=time.monotonic()))


async def asking(room: Room, route: Route, stage: Stage, policies: Sequence[Policy], tenant: str) -> Route:
    """A route that asks these policies, with its own threshold of each that it has. Raises WireError for one that cannot be served."""
    try:
        return await room.service.narrowed(route, stage, policies, tenant=tenant)
    except GuardrailError as error:
        raise WireError(503, "not_ready", f"The classifier {route.classifier!r} cannot serve it now: {error}") from error


async def try_tests(room: Room, policy: Policy, tenant: str) -> Tried:
    """Run a policy's own tests as its first route would judge them, at its own threshold of their stage, and remember the result."""
    routes = routes_of(room, tenant)
    if not routes:
        raise WireError(404, "not_found", f"Tenant {tenant!r} has no route that could judge.")
    stage = tested_as(policy)
    route = next((each for each in routes if any(check.policy == policy for check in each.checks(stage))), routes[0])
    await asking(room, route, stage, [policy], tenant)
    checks = (Check(policy, policy.threshold_at(stage)),)
    route = replace(route, input=checks, output=checks, deadline_s=TESTS_S)
    started = time.monotonic()
    parts = [Part(f"tests[{place}]", case.text) for place, case in enumerate(policy.tests)]
    decision = await judged(room, parts, Turn(route, stage, tenant, Origin(), started))
    cases = tuple(_case(policy, place, decision.verdicts) for place in range(len(policy.tests)))
    classifier = next((verdict.classifier for verdict in decision.verdicts), route.classifier)
    room.tried.pop(policy, None)
    room.tried[policy] = tried = Tried(time.time(), time.monotonic() - started, classifier, cases)
    while len(room.tried) > MOST_TRIED:
        del room.tried[next(iter(room.tried))]
    return tried


def _case(policy: Policy, place: int, verdicts: Sequence[Verdict]) -> Case:
    case = policy.tests[place]
    own = [verdict for verdict in verdicts if verdict.part == f"tests[{place}]"]
    scores = [verdict.score for verdict in own if verdict.score is not None]
    error = next((verdict.error for verdict in own if verdict.error is not None), None if own else "not_judged")
    if error is not None:
        return Case(case.text, case.expected, case.why, case.line, error=error, passed=False)
    highest = max(scores)
    passed = (highest >= policy.threshold_at(tested_as(policy))) == bool(case.expected)
    return Case(case.text, case.expected, case.why, case.line, score=highest, passed=passed)
