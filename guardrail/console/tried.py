"""What came of running a policy's own tests."""

from dataclasses import dataclass

from guardrail.types import Policy


@dataclass(frozen=True, slots=True)
class Case:
    """One of a policy's own tests and what came of it: a score, or the code of an error, which is never a pass."""

    text: str
    expected: int
    why: str
    line: int
    score: float | None = None
    error: str | None = None
    passed: bool | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """The last run of a policy's tests. `when` is in seconds since 1970."""

    when: float
    took_s: float
    classifier: str
    cases: tuple[Case, ...]

    @property
    def passed(self) -> int:
        """How many came out as the policy's author expects."""
        return sum(case.passed is True for case in self.cases)


def untried(policy: Policy) -> tuple[Case, ...]:
    """A policy's tests before they were run."""
    return tuple(Case(case.text, case.expected, case.why, case.line) for case in policy.tests)
