"""Immutable sets of policies: one set by id, and the family of a base set with the tenants' sets."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from guardrail.errors import PolicyError
from guardrail.policy.findings import Report
from guardrail.types import Policy, Stage


@dataclass(frozen=True, slots=True, eq=False)
class PolicySet(Mapping[str, Policy]):
    """Policies by id, in order of id. `digest` covers everything that bears on a decision; tests and changes do not."""

    policies: Mapping[str, Policy] = field(default_factory=lambda: MappingProxyType({}))
    generation: int = 0
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "policies", MappingProxyType(dict(sorted(self.policies.items()))))
        object.__setattr__(self, "digest", _digest(self.policies.values()))

    @classmethod
    def of(cls, policies: Iterable[Policy]) -> "PolicySet":
        """A set of generation 0. Raises PolicyError (P019) naming every id that occurs twice."""
        found: dict[str, Policy] = {}
        refused = []
        for policy in policies:
            if policy.id in found:
                report = Report(policy.path)
                report.add(policy.lines.get("id", 0), "P019", f"policy `{policy.id}` is already defined in {found[policy.id].path}")
                refused += report.findings
            found.setdefault(policy.id, policy)
        if refused:
            raise PolicyError(refused)
        return cls(found)

    def overlay(self, policies: Iterable[Policy]) -> "PolicySet":
        """This set with policies added; one of the same id takes the place of the one here. Keeps the generation."""
        return PolicySet({**self.policies, **PolicySet.of(policies).policies}, self.generation)

    def at(self, generation: int) -> "PolicySet":
        """The same policies as another generation."""
        return PolicySet(self.policies, generation)

    def __getitem__(self, policy_id: str) -> Policy:
        return self.policies[policy_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self.policies)

    def __len__(self) -> int:
        return len(self.policies)


@dataclass(frozen=True, slots=True)
class PolicySets:
    """What is published together: the base set, for each tenant with files of its own the base overlaid with them, and what is on trial."""

    base: PolicySet = field(default_factory=PolicySet)
    tenants: Mapping[str, PolicySet] = field(default_factory=lambda: MappingProxyType({}))
    candidates: Mapping[str, Policy] = field(default_factory=lambda: MappingProxyType({}))
    """Versions on trial, by their files as the configuration writes them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tenants", MappingProxyType(dict(sorted(self.tenants.items()))))
        object.__setattr__(self, "candidates", MappingProxyType(dict(sorted(self.candidates.items()))))

    @property
    def generation(self) -> int:
        """The number this family was published under; 0 before it was."""
        return self.base.generation

    @property
    def digest(self) -> str:
        """One digest over the base, every tenant's set, and the versions on trial."""
        found: list[object] = [self.base.digest, *([name, policies.digest] for name, policies in self.tenants.items())]
        return _sha256([*found, *([name, _digest((policy,))] for name, policy in self.candidates.items())])

    @property
    def short_digest(self) -> str:
        """What tells it from others in headers and metrics: equal in every process that has the same policies."""
        return self.digest[: len("sha256:") + 12]

    def for_tenant(self, name: str) -> PolicySet:
        """The tenant's set; the base for a tenant without files of its own."""
        return self.tenants.get(name, self.base)

    def distinct(self) -> tuple[Policy, ...]:
        """Every policy of every set once, which is what a classifier has to hold."""
        owners = (self.base, *self.tenants.values(), self.candidates)
        found = {policy.key: policy for owned in owners for policy in owned.values()}
        return tuple(found.values())

    def at(self, generation: int) -> "PolicySets":
        """The same sets as another generation."""
        return PolicySets(self.base.at(generation), {name: owned.at(generation) for name, owned in self.tenants.items()}, self.candidates)


def _digest(policies: Iterable[Policy]) -> str:
    return _sha256(
        [
            [
                *(policy.id, policy.version, policy.digest, policy.label_code),
                [policy.threshold_at(stage) for stage in Stage],
                *(sorted(policy.applies_to), policy.language),
            ]
            for policy in policies
        ]
    )


def _sha256(value: object) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()
