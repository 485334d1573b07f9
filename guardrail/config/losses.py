"""What the routes of a configuration lose when other policies come into force: all that a stage checks, or one policy of several."""

from collections.abc import Iterator, Mapping

from guardrail.config.catalog import PolicySource, uses
from guardrail.config.codes import Code
from guardrail.config.models import Config
from guardrail.errors import Finding
from guardrail.types import Stage

_JUDGED = {Stage.INPUT: "prompts", Stage.OUTPUT: "answers"}


def loss_findings(config: Config, before: PolicySource, after: PolicySource) -> Iterator[Finding]:
    """An error for each stage that checked something and would check nothing, a warning for each policy that others outlive.

    Only `policies: all` can lose them: a policy that a route names and that is not there is an error of its own.
    """
    gone: dict[str, list[tuple[int, str]]] = {}
    for index, route in enumerate(config.routes):
        for stage in Stage:
            if route.stage(stage).policies != "all":
                continue
            lost = {tenant: _lost(config, (index, stage, tenant), before, after) for tenant in config.tenants_of(route)}
            bare = {tenant: had for tenant, (had, left) in lost.items() if had and not left}
            if bare:
                ids = ", ".join(sorted(set().union(*bare.values())))
                message = (
                    f"route {route.name!r} would check no {_JUDGED[stage]} any more{_whose(bare, lost)}, where it checks {ids}; "
                    "bring a policy back, or restart to do without"
                )
                yield config.source.finding(("routes", index, stage.value, "policies"), Code.NO_CHECKS, message)
                continue
            for id_ in sorted(set().union(*(had - left for had, left in lost.values()))):
                whose = _whose([tenant for tenant, (had, left) in lost.items() if id_ in had - left], lost)
                gone.setdefault(id_, []).append((index, f"{_JUDGED[stage]} of route {route.name!r}{whose}"))
    for id_, places in gone.items():
        message = f"policy {id_!r} is gone, or applies no more; without it are judged now: {', '.join(place for _, place in places)}"
        yield config.source.finding(("routes", places[0][0]), Code.POLICY_GONE, message, warning=True)


def _lost(config: Config, place: tuple[int, Stage, str], before: PolicySource, after: PolicySource) -> tuple[set[str], set[str]]:
    """The ids of the policies that a stage uses for a tenant, before and after."""
    index, stage, tenant = place
    section = config.routes[index].stage(stage)
    had, left = ({use.id for use in uses(stage, section, source.for_tenant(tenant))} for source in (before, after))
    return had, left


def _whose(some: Mapping[str, object] | list[str], every: Mapping[str, object]) -> str:
    return "" if len(some) == len(every) else f" for tenant {', '.join(some)}"
