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

    @property
    def candidates(self) -> Mapping[str, Policy]:
        """The versions on trial, by their files as the configuration writes them."""
        ...


def on_trial(use: PolicyUse, policies: Mapping[str, Policy], candidates: Mapping[str, Policy]) -> Policy | None:
    """The version that is tried beside a policy; None where there is none, or it is not there."""
    if use.candidate is None:
        return None
    return candidates.get(use.candidate) if use.candidate_file else policies.get(use.candidate)


def uses(stage: Stage, section: StageConfig, policies: Mapping[str, Policy]) -> Sequence[PolicyUse]:
    """The policies a stage uses, in order; for `all`, each that applies to the stage, by id."""
    if section.policies != "all":
        return section.policies
    return [PolicyUse(id=id_) for id_ in sorted(policies) if stage in policies[id_].applies_to]
