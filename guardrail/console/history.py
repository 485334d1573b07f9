"""The versions of each policy that this process has had in force, so that two of them can be laid side by side."""

import difflib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from guardrail.events import Event, PoliciesPublished
from guardrail.policy.sets import PolicySets
from guardrail.types import Policy

MOST = 12  # versions of one policy
EVERYONE = ""
"""Stands for the set of all tenants without files of their own."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A policy as it was in force from `since` (seconds since 1970) with `generation`."""

    policy: Policy
    generation: int
    since: float


@dataclass(frozen=True, slots=True)
class DiffLine:
    """`kind`: same, added, removed, or place (where in the text the next lines stand)."""

    kind: str
    text: str


class PolicyHistory:
    """An event sink: looks at the policies in force whenever some were published, once `follow` said where they are to be had."""

    def __init__(self) -> None:
        self._sets: Callable[[], PolicySets | None] = lambda: None
        self._seen: dict[tuple[str, str], list[Seen]] = {}

    def follow(self, sets: Callable[[], PolicySets | None]) -> None:
        """Where the policies in force are to be had."""
        self._sets = sets

    def emit(self, event: Event) -> None:
        """Take note of a publication."""
        if isinstance(event, PoliciesPublished):
            self.note()

    def note(self) -> None:
        """Remember what is in force now."""
        sets = self._sets()
        if sets is None:
            return
        now = time.time()
        for owner, policies in ((EVERYONE, sets.base), *sets.tenants.items()):
            for policy in policies.values():
                seen = self._seen.setdefault((owner, policy.id), [])
                if not seen or seen[-1].policy != policy:
                    seen.append(Seen(policy, sets.generation, now))
                    del seen[:-MOST]

    def of(self, owner: str, policy_id: str) -> tuple[Seen, ...]:
        """What was in force of one policy, the present one first."""
        self.note()
        return tuple(reversed(self._seen.get((owner, policy_id), ())))


def difference(old: Policy, new: Policy) -> tuple[DiffLine, ...]:
    """What changed from one version to another, with three lines around each change; nothing for equal ones."""
    return tuple(_lines(old, new))


def _lines(old: Policy, new: Policy) -> Iterator[DiffLine]:
    kinds = {"+": "added", "-": "removed", "@": "place", " ": "same"}
    for line in list(difflib.unified_diff(_written(old), _written(new), lineterm=""))[2:]:
        yield DiffLine(kinds[line[0]], line if line[0] == "@" else line[1:])


def _written(policy: Policy) -> list[str]:
    """Everything about a policy that bears on a decision, and its tests, as lines."""
    stages = ", ".join(sorted(policy.applies_to))
    answers = [] if policy.output_threshold is None else [f"threshold of answers: {policy.output_threshold:g}"]
    head = [
        f"version: {policy.version}",
        f"title: {policy.title}",
        f"threshold: {policy.threshold:g}",
        *answers,
        f"applies_to: {stages}",
        "",
    ]
    tests = [line for case in policy.tests for line in (f"test, expect {case.expected}: {case.text}", f"  why: {case.why}")]
    return [*head, *policy.body.split("\n"), "", *tests]
