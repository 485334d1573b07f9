"""What configuration needs to know of the policies: which ones a tenant has, and which of them a stage of a route uses."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from guardrail.config.models import PolicyUse, StageConfig
from guardrail.types import Policy, Stage


class PolicySource(Protocol):
    """Policies by tenant and id: shipped ones, the operator's, and the tenant's own on top."""

    def for_tenant(self, tenant: str, /) -> Mapping[str, Policy]:
        """The policies of one tenant; of an unknown tenant, those that every tenant has."""
        ...


def uses(stage: Stage, section: StageConfig, policies: Mapping[str, Policy]) -> Sequence[PolicyUse]:
    """The policies a stage uses, in order; for `all`, each that applies to the stage, by id."""
    if section.policies != "all":
        return section.policies
    return [PolicyUse(id=id_) for id_ in sorted(policies) if stage in policies[id_].applies_to]
