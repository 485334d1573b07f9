"""Do the names in a configuration exist, and do the policies it names fit where it uses them?"""

from collections.abc import Iterator, Mapping

from guardrail.config.catalog import PolicySource, on_trial, uses
from guardrail.config.codes import Code
from guardrail.config.faults import suggest
from guardrail.config.models import ANY, GUARDED_PATHS, Config, PolicyUse, RouteConfig
from guardrail.errors import Finding
from guardrail.types import Policy, Stage


def name_findings(config: Config) -> Iterator[Finding]:
    """Unknown upstreams, classifiers and tenants, and paths that are not guarded."""
    for index, route in enumerate(config.routes):
        tenants = config.tenant_names
        for key, known, code in (
            ("upstream", tuple(config.upstreams), Code.UNKNOWN_UPSTREAM),
            ("classifier", tuple(config.classifiers), Code.UNKNOWN_CLASSIFIER),
            ("tenant", (ANY, *tenants), Code.UNKNOWN_TENANT),
            ("path", (*GUARDED_PATHS, ANY), Code.UNGUARDED_PATH),
        ):
            name = getattr(route, key)
            if name not in known:
                what = "is not a guarded inference path" if key == "path" else f"names no {key} that is configured"
                yield config.source.finding(("routes", index, key), code, f"route {route.name!r}: {name!r} {what}; {suggest(name, known)}")


def escalation_findings(config: Config) -> Iterator[Finding]:
    """Escalations to a classifier that is not there, or to the one whose score is in doubt."""
    for index, route in enumerate(config.routes):
        if route.escalate is None:
            continue
        name, known, loc = route.escalate.classifier, tuple(config.classifiers), ("routes", index, "escalate", "classifier")
        if name not in known:
            message = f"route {route.name!r}: {name!r} names no classifier that is configured; {suggest(name, known)}"
            yield config.source.finding(loc, Code.UNKNOWN_CLASSIFIER, message)
        elif name == route.classifier:
            message = f"route {route.name!r} escalates to {name!r}, which gave the doubtful score; name another classifier"
            yield config.source.finding(loc, Code.UNKNOWN_CLASSIFIER, message)


def policy_findings(config: Config, policies: PolicySource) -> Iterator[Finding]:
    """Policies that a tenant does not have or that do not apply to the stage, repeated ones, and routes that check nothing."""
    for index in range(len(config.routes)):
        for stage in Stage:
            yield from _stage_findings(config, index, stage, policies)
        yield from _empty_route(config, index, policies)


def _stage_findings(config: Config, index: int, stage: Stage, policies: PolicySource) -> Iterator[Finding]:
    route = config.routes[index]
    section = route.stage(stage)
    tenants = config.tenants_of(route)
    sets = {tenant: policies.for_tenant(tenant) for tenant in tenants}
    seen: set[str] = set()
    for place, use in enumerate(() if section.policies == "all" else section.policies):
        loc = ("routes", index, stage.value, "policies", place)
        where = f"route {route.name!r}, {stage.value}"
        if use.id in seen:
            yield config.source.finding(loc, Code.REPEATED_POLICY, f"{where}: policy {use.id!r} stands twice; keep one of them")
        seen.add(use.id)
        without = [tenant for tenant in tenants if use.id not in sets[tenant]]
        if without:
            known = set.intersection(*(set(sets[tenant]) for tenant in tenants))
            whose = "" if len(without) == len(tenants) else f" for tenant {', '.join(without)}"
            yield config.source.finding(loc, Code.UNKNOWN_POLICY, f"{where}: no policy {use.id!r}{whose}; {suggest(use.id, known)}")
        unfit = [tenant for tenant in tenants if tenant not in without and stage not in sets[tenant][use.id].applies_to]
        if unfit:
            stages = ", ".join(sorted(sets[unfit[0]][use.id].applies_to)) or "no stage"
            message = f"{where}: policy {use.id!r} applies to {stages} only; remove it here, or add {stage.value} to its applies_to"
            yield config.source.finding(loc, Code.POLICY_STAGE, message)
        if use.candidate is not None and not without:
            for tenant in tenants:
                if fault := _candidate_fault(use, stage, sets[tenant], policies.candidates):
                    message, warning = fault
                    yield config.source.finding((*loc, "candidate"), Code.BAD_CANDIDATE, f"{where}: {message}", warning=warning)
                    break


def _candidate_fault(
    use: PolicyUse, stage: Stage, known: Mapping[str, Policy], candidates: Mapping[str, Policy]
) -> tuple[str, bool] | None:
    """What is wrong with a version on trial, and whether that is only a warning."""
    policy, found = known[use.id], on_trial(use, known, candidates)
    if found is None:
        return (
            f"the candidate {use.candidate!r} is no policy's id and no policy's file ending in .md; {suggest(use.candidate or '', known)}",
            False,
        )
    if use.candidate_file and found.id != use.id:
        return (
            f"the candidate {use.candidate!r} is a version of {found.id!r}; name a file of {use.id!r}, or give its id as the candidate",
            False,
        )
    if stage not in found.applies_to:
        return f"the candidate {use.candidate!r} does not apply to {stage.value}; add {stage.value} to its applies_to", False
    if (found.id, found.digest, found.threshold_at(stage)) == (policy.id, policy.digest, policy.threshold_at(stage)):
        return f"the candidate {use.candidate!r} judges as what is in force does; remove it", True
    return None


def _empty_route(config: Config, index: int, policies: PolicySource) -> Iterator[Finding]:
    route = config.routes[index]
    idle = [tenant for tenant in config.tenants_of(route) if not _checks_anything(route, policies, tenant)]
    if not idle:
        return
    whose = "" if len(idle) == len(config.tenants_of(route)) else f" for tenant {', '.join(idle)}"
    message = f"route {route.name!r} checks nothing{whose}, neither prompts nor answers; name policies, or `policies: all`"
    bare = route.mode == "enforce" and any(route.stage(stage).policies == "all" for stage in Stage)
    if bare:
        message = (
            f"route {route.name!r} is to enforce all policies, and there are none for it{whose}, so that it would judge nothing; put "
            "policies into the folder, or write `policies: []` for both stages where nothing is to be judged"
        )
    yield config.source.finding(("routes", index), Code.NO_CHECKS, message, warning=not bare)


def _checks_anything(route: RouteConfig, policies: PolicySource, tenant: str) -> bool:
    known = policies.for_tenant(tenant)
    return any(len(uses(stage, route.stage(stage), known)) for stage in Stage)
