"""Runs policies' own tests through a classifier: how far a model reads each policy as its author does."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from guardrail.errors import ClassifierError
from guardrail.interfaces import Classifier
from guardrail.types import ClassifyRequest, Policy, PolicyTest, Score, Stage

BATCH = 32
DEADLINE_S = 120.0  # one batch on a slow CPU; a trial is not on the request path


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One test and what the classifier said: a score, or the error in its place (which is a failure, never a 0)."""

    case: PolicyTest
    passed: bool
    score: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """All tests of one policy."""

    policy: Policy
    results: tuple[CaseResult, ...]

    @property
    def failures(self) -> tuple[CaseResult, ...]:
        """The tests that did not come out as expected."""
        return tuple(result for result in self.results if not result.passed)

    @property
    def rate(self) -> float:
        """Share of tests passed, 0 to 1; 0 for a policy without tests, which proves nothing."""
        return 1 - len(self.failures) / len(self.results) if self.results else 0.0


def tested_as(policy: Policy) -> Stage:
    """What a policy's own tests are: prompts, or answers where it judges nothing else. A case cannot say."""
    return Stage.INPUT if Stage.INPUT in policy.applies_to else Stage.OUTPUT


async def run_tests(policies: Sequence[Policy], classifier: Classifier) -> tuple[Trial, ...]:
    """Prepare the policies, then classify each one's test texts against it alone. In the order given.

    Raises ClassifierError when the policies cannot be prepared; an error on single texts is part of the result.
    """
    await classifier.prepare(policies)
    return tuple([Trial(policy, await _results(policy, classifier)) for policy in policies])


async def _results(policy: Policy, classifier: Classifier) -> tuple[CaseResult, ...]:
    results: list[CaseResult] = []
    for cases in _batches(policy.tests):
        requests = [ClassifyRequest(policy, case.text, stage=tested_as(policy)) for case in cases]
        answers: Sequence[object]  # a broken classifier may answer anything
        try:
            answers = await classifier.classify(requests, deadline=time.monotonic() + DEADLINE_S)
        except ClassifierError as error:
            answers = [error] * len(cases)
        if len(answers) != len(cases):
            answers = [ClassifierError("malformed", f"{len(answers)} answers to {len(cases)} texts")] * len(cases)
        results += [_judge(policy, case, answer) for case, answer in zip(cases, answers, strict=True)]
    return tuple(results)


def _judge(policy: Policy, case: PolicyTest, answer: object) -> CaseResult:
    if isinstance(answer, Score):
        violates = answer.value >= policy.threshold_at(tested_as(policy))
        return CaseResult(case, passed=violates == bool(case.expected), score=answer.value)
    if isinstance(answer, ClassifierError):
        return CaseResult(case, passed=False, error=f"{answer.code}: {answer}")
    return CaseResult(case, passed=False, error=f"malformed: not a score but {type(answer).__name__}")


def _batches(cases: Sequence[PolicyTest]) -> Iterator[Sequence[PolicyTest]]:
    for start in range(0, len(cases), BATCH):
        yield cases[start : start + BATCH]
