"""Does a classifier still tell violating from benign? A known pair under a known policy, asked at start and then on a schedule."""

from dataclasses import dataclass

from guardrail.events import CanaryChecked
from guardrail.guard import Guard
from guardrail.interfaces import Classifier
from guardrail.types import Action, Check, Part, Policy, Route, Stage


@dataclass(frozen=True, slots=True)
class Canary:
    """A policy with one text that certainly violates it and one that certainly does not."""

    policy: Policy
    violating: str
    benign: str
    threshold: float = 0.5


async def check_canary(classifier: Classifier, canary: Canary, *, name: str, deadline_s: float = 10.0) -> CanaryChecked:
    """Ask both texts; `ok` only when both were judged and both rightly. Never raises for a failing classifier.

    It goes through a guard of its own, without observers, so that canaries are not counted as traffic.
    """
    guard = Guard({name: classifier})
    route = Route(
        name="canary",
        path="",
        model="*",
        tenant="*",
        upstream="",
        classifier=name,
        input=(Check(canary.policy, canary.threshold, Action.BLOCK),),
        output=(),
        deadline_s=deadline_s,
    )
    decision = await guard.check((Part("violating", canary.violating), Part("benign", canary.benign)), route=route, stage=Stage.INPUT)
    wrong = []
    for verdict, expected in zip(decision.verdicts, (True, False), strict=True):
        if verdict.error is not None:
            wrong.append(f"{verdict.part} text was not judged ({verdict.error})")
        elif verdict.violation is not expected:
            wrong.append(f"{verdict.part} text scored {verdict.score:.3f} against threshold {verdict.threshold}")
    return CanaryChecked(name, not wrong, "; ".join(wrong))
