"""Policies by tenant, without files, and the findings of a text."""

from collections.abc import Mapping

from guardrail.config import Environment, check, loads
from guardrail.errors import ConfigError
from guardrail.testing import policy
from guardrail.types import Policy, Stage

SHIPPED = {
    "harassment": policy("harassment"),
    "violence": policy("violence", threshold=0.7),
    "prompt_attack": policy("prompt_attack", applies_to=frozenset({Stage.INPUT})),
}


class Policies:
    """The same policies for everyone, plus a tenant's own."""

    def __init__(self, shared: Mapping[str, Policy] = SHIPPED, **own: Mapping[str, Policy]) -> None:
        self.shared, self.own = shared, own
        self.candidates: Mapping[str, Policy] = {}

    def for_tenant(self, tenant: str, /) -> Mapping[str, Policy]:
        return {**self.shared, **self.own.get(tenant, {})}


def faults(text: str) -> list[str]:
    """What `loads` refuses, as printed, without the path."""
    try:
        loads(text)
    except ConfigError as error:
        return [str(finding).removeprefix("<text>:") for finding in error.findings]
    return []


def found(text: str, policies: Policies | None = None, **variables: str) -> list[str]:
    """What `check` finds, as `line code severity`, of a text that loads."""
    findings = check(loads(text), policies or Policies(), environment=Environment(variables))
    return [f"{finding.line} {finding.code} {finding.severity}" for finding in findings]
