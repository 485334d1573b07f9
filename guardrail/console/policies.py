"""Policies: which there are and who asks them; one of them as it reads, its findings, tests, versions, and the scores it gave."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlencode

from guardrail.audit.store import AuditReader, Filter
from guardrail.console import plots
from guardrail.console.history import EVERYONE, Seen, difference
from guardrail.console.page import Page, Visit
from guardrail.console.prose import rendered
from guardrail.console.room import Room
from guardrail.console.tried import Tried, untried
from guardrail.console.trying import routes_of, try_tests
from guardrail.errors import Finding, GuardrailError, WireError
from guardrail.policy.findings import CODES
from guardrail.policy.lint import lint
from guardrail.types import Policy, Stage

MOST_RECORDS = 2_000  # that a histogram is made of
BINS = 20


@dataclass(frozen=True, slots=True)
class Use:
    """A route that asks the policy, for whom, and with what effect."""

    route: str
    tenant: str
    stage: str
    threshold: float
    action: str
    mode: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One policy of the list. `owner` is the tenant whose own it is, `trial` the file of a version on trial; both empty for everyone's."""

    id: str
    owner: str
    trial: str
    title: str
    version: str
    digest: str
    threshold: float
    output_threshold: float | None
    stages: tuple[str, ...]
    routes: tuple[str, ...]
    findings: int
    tests: int
    tried: Tried | None


@dataclass(frozen=True, slots=True)
class Scores:
    """How often the policy's scores fell into each of equal bins, highest first record `newest`."""

    counts: tuple[int, ...]
    records: int


async def policies(room: Room, visit: Visit) -> Page:
    """All policies in force."""
    del visit
    room.history.note()
    entries = [_entry(room, owned) for owned in _owned(room)]
    data = {"entries": entries, "generation": room.publisher.generation, "refused": room.publisher.refused}
    return Page("policies.html", "Policies", data, at="policies")


async def policy(room: Room, visit: Visit) -> Page:
    """One policy."""
    owned = _found(room, visit)
    owner, found = owned.tenant, owned.policy
    seen = () if owned.trial else room.history.of(owner, found.id)
    old = _chosen(room, found, seen, visit.asked("against"))
    scores = Scores((0,) * BINS, 0)
    with contextlib.suppress(GuardrailError):  # the overview says what is wrong with the store; a policy can be read without it
        scores = await room.read(lambda audit: _scores(audit, found), scores)
    tried = room.tried.get(found)
    data = {
        "policy": {
            "id": found.id,
            "title": found.title,
            "version": found.version,
            "digest": found.digest,
            "label": found.label_code,
            "threshold": found.threshold,
            "output_threshold": found.output_threshold,
            "stages": sorted(stage.value for stage in found.applies_to),
            "language": found.language,
            "body": found.body,
        },
        "owner": owner,
        "trial": owned.trial,
        "here": owned.query,
        "uses": list(_uses(room, found)),
        "findings": [_finding(finding) for finding in _linted(found)],
        "cases": list(tried.cases if tried else untried(found)),
        "tried": tried,
        "changes": list(found.changes),
        "versions": [
            {"version": each.policy.version, "digest": each.policy.digest, "generation": each.generation, "since": each.since}
            for each in seen
        ],
        "against": None if old is None else {"version": old.version, "digest": old.digest, "lines": difference(old, found)},
        "overrides": bool(owned.query) and found.id in room.publisher.sets.base,
        "scores": scores,
        "audited": room.audit is not None,
    }
    drawn = {"prose": rendered(found.body)}
    if scores.records:
        drawn["scores"] = plots.histogram("scores", f"Scores of {found.id}", scores.counts, _thresholds(found))
    return Page("policy.html", found.title, data, drawn, at="policies")


async def run_tests(room: Room, visit: Visit) -> Page:
    """Run a policy's own tests, and show it with the results: here, since another worker process would not know them."""
    owned = _found(room, visit)
    if owned.policy.tests:
        await try_tests(room, owned.policy, owned.tenant or room.table.tenants[0])
    return await policy(room, visit)


@dataclass(frozen=True, slots=True)
class Owned:
    """A policy, and where it is in force: for one tenant, on trial, or (both empty) for everyone."""

    policy: Policy
    tenant: str = EVERYONE
    trial: str = ""

    @property
    def query(self) -> str:
        """What tells it from others of its id in an address."""
        named = {name: value for name, value in (("tenant", self.tenant), ("trial", self.trial)) if value}
        return f"?{urlencode(named)}" if named else ""


def _owned(room: Room) -> Iterator[Owned]:
    """Everyone's policies, then those that a tenant has instead or beside, then those on trial."""
    sets = room.publisher.sets
    for each in sets.base.values():
        yield Owned(each)
    for tenant, own in sets.tenants.items():
        for each in own.values():
            if sets.base.get(each.id) != each:
                yield Owned(each, tenant)
    for file, each in sets.candidates.items():
        yield Owned(each, trial=file)


def _found(room: Room, visit: Visit) -> Owned:
    """The policy of the address. Raises WireError for one that is not in force."""
    wanted = visit.request.path_params["id"], visit.asked("tenant"), visit.asked("trial")
    for owned in _owned(room):
        if (owned.policy.id, owned.tenant, owned.trial) == wanted:
            return owned
    raise WireError(404, "not_found", "There is no such policy in force.")


def _entry(room: Room, owned: Owned) -> Entry:
    policy = owned.policy
    return Entry(
        policy.id,
        owned.tenant,
        owned.trial,
        policy.title,
        policy.version,
        policy.digest,
        policy.threshold,
        policy.output_threshold,
        tuple(sorted(stage.value for stage in policy.applies_to)),
        tuple(dict.fromkeys(use.route for use in _uses(room, policy))),
        len(_linted(policy)),
        len(policy.tests),
        room.tried.get(policy),
    )


def _thresholds(policy: Policy) -> dict[str, float]:
    """The thresholds by what they are called; one alone needs no name."""
    if policy.output_threshold is None:
        return {"threshold": policy.threshold}
    return {"threshold of prompts": policy.threshold, "threshold of answers": policy.output_threshold}


def _uses(room: Room, policy: Policy) -> Iterator[Use]:
    for tenant in room.table.tenants:
        for route in routes_of(room, tenant):
            for stage in Stage:
                for check in route.checks(stage):
                    if check.policy == policy:
                        yield Use(route.name, tenant, stage.value, check.threshold, check.action.word, check.mode.value)


def _chosen(room: Room, policy: Policy, seen: Sequence[Seen], against: str) -> Policy | None:
    """What it is to be laid beside: an earlier version, or everyone's policy that a tenant's replaces (`base`)."""
    if against == "base":
        return room.publisher.sets.base.get(policy.id)
    return next((each.policy for each in seen[1:] if f"{each.generation}" == against), None)


@lru_cache(256)
def _linted(policy: Policy) -> tuple[Finding, ...]:
    return lint(policy)


def _finding(finding: Finding) -> dict[str, object]:
    code = CODES.get(finding.code)
    return {
        "line": finding.line,
        "code": finding.code,
        "severity": finding.severity,
        "message": finding.message,
        "remedy": code.remedy if code else "",
    }


def _scores(audit: AuditReader, policy: Policy) -> Scores:
    """Scores that exactly this text of the policy gave, from the newest records. Blocks on the store."""
    counts, records = [0] * BINS, 0
    for record in audit.find(Filter(policy=policy.id), limit=MOST_RECORDS):
        scores = [each.score for each in record.verdicts if (each.policy, each.digest) == policy.key and each.score is not None]
        records += bool(scores)
        for score in scores:
            counts[min(BINS - 1, int(score * BINS))] += 1
    return Scores(tuple(counts), records)
