"""Two versions of a policy over the same texts: whose verdict changes, how often, and whether that is within bounds."""

import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass

from guardrail.context import asks
from guardrail.errors import GuardrailError
from guardrail.evaluation.agreement import Kappa, kappa
from guardrail.evaluation.dataset import ANSWER
from guardrail.evaluation.run import ANY, AREAS
from guardrail.evaluation.steer import Rate
from guardrail.guard import Guard, Origin, Turn
from guardrail.interfaces import Classifier
from guardrail.types import Check, Fallback, Mode, Part, Policy, Route, Stage, Verdict

BATCH = 16
PATIENCE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A text, where it came from, and what people say of it under this policy (1 violates, 0 does not, None: nobody says).

    `context`: of an answer, the prompt it answers.
    """

    id: str
    text: str
    stage: Stage = Stage.INPUT
    area: str = ""
    label: int | None = None
    context: str | None = None

    def label_under(self, policy: str) -> int | None:
        """The label, where it speaks of this policy: a harmless text is harmless under each."""
        wanted = AREAS.get(self.area, self.area)
        return self.label if wanted == policy or (wanted == ANY and self.label == 0) else None


@dataclass(frozen=True, slots=True)
class Judged:
    """One text under both versions: scores (the highest of its readings), and verdicts, None where one could not be judged.

    A version that does not apply to the text's stage has no score, and flags nothing.
    """

    asked: Asked
    old_score: float | None
    new_score: float | None
    old: bool | None
    new: bool | None

    @property
    def complete(self) -> bool:
        """Whether both judged it."""
        return self.old is not None and self.new is not None

    @property
    def flipped(self) -> bool:
        """Whether the verdict changes."""
        return self.complete and self.old != self.new


@dataclass(frozen=True, slots=True)
class PolicyComparison:
    """What one classifier says. `released`: flagged by the old version alone, `caught`: by the new one alone."""

    classifier: str
    old: Policy
    new: Policy
    judged: tuple[Judged, ...]

    @property
    def complete(self) -> tuple[Judged, ...]:
        """The texts that were judged by each version that applies to them."""
        return tuple(each for each in self.judged if each.complete)

    @property
    def unjudged(self) -> int:
        """How many texts at least one version could not judge. They count as changed where a bound is set, and in no rate."""
        return len(self.judged) - len(self.complete)

    @property
    def flagged(self) -> tuple[Rate, Rate]:
        """What each version flags."""
        return Rate.of_flags(bool(each.old) for each in self.complete), Rate.of_flags(bool(each.new) for each in self.complete)

    @property
    def released(self) -> Rate:
        """Flagged before, and no more."""
        return Rate.of_flags(bool(each.old and not each.new) for each in self.complete)

    @property
    def caught(self) -> Rate:
        """Not flagged before, and now."""
        return Rate.of_flags(bool(each.new and not each.old) for each in self.complete)

    @property
    def flips(self) -> Rate:
        """Both together."""
        return Rate.of_flags(each.flipped for each in self.complete)

    @property
    def right(self) -> tuple[Rate, Rate] | None:
        """How many labelled texts each version judges as people do; None without labels."""
        known = [(each, label) for each in self.complete if (label := each.asked.label_under(self.new.id)) is not None]
        if not known:
            return None
        return Rate.of_flags(each.old == bool(label) for each, label in known), Rate.of_flags(
            each.new == bool(label) for each, label in known
        )

    @property
    def agreement(self) -> Kappa | None:
        """Cohen's kappa of the two versions; None where nothing was flagged by either, or nothing judged."""
        found = self.complete
        if not any(each.old or each.new for each in found):
            return None
        return kappa([bool(each.old) for each in found], [bool(each.new) for each in found])

    @property
    def changed(self) -> tuple[Judged, ...]:
        """The texts whose verdict changes, the largest change of the score first."""
        return tuple(
            sorted((each for each in self.judged if each.flipped), key=lambda each: -abs((each.new_score or 0) - (each.old_score or 0)))
        )


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a change of a policy may change. `agreement`: Cohen's kappa at least; None is no bound."""

    texts: int = 100
    flips: float = 0.05
    agreement: float | None = None

    def exceeded(self, found: PolicyComparison) -> list[str]:
        """Each bound that a comparison does not keep, as a sentence. A text that could not be judged counts as changed."""
        said = []
        count, name = len(found.complete), found.classifier
        if count < self.texts:
            said.append(
                f"{name}: {count} texts were judged by both versions, at least {self.texts} are needed; give more with --data or --audit"
            )
        changed = found.flips.hits + found.unjudged
        if found.judged and changed / len(found.judged) > self.flips:
            could = f" ({found.unjudged} of them could not be judged)" if found.unjudged else ""
            said.append(f"{name}: {changed} of {len(found.judged)} verdicts change{could}, {self.flips:.1%} may")
        if self.agreement is not None:
            agreed = found.agreement
            if agreed is None:
                said.append(f"{name}: neither version flags a text, so that their agreement cannot be told; give texts that violate")
            elif agreed.value < self.agreement:
                said.append(f"{name}: the versions agree by a kappa of {agreed.value:.3f}, at least {self.agreement:g} is needed")
        return said


async def compared(old: Policy, new: Policy, texts: Sequence[Asked], classifier: Classifier) -> AsyncGenerator[Judged, None]:
    """Judge each text as the guard would: disguises undone, long texts in windows, by each version in its own stages, answers with their
    prompts where a version asks for that. Texts of a stage that neither applies to are left out.

    Raises ClassifierError for a version that the classifier cannot serve, and GuardrailError where the texts cannot tell the two apart.
    """
    route = _route(old, new)
    _comparable(new.id, route, texts)
    await classifier.prepare((old, new) if old.key != new.key else (new,))
    guard = Guard({"it": classifier})
    for stage in Stage:
        of_stage = [text for text in texts if text.stage is stage and route.checks(stage)]
        step = 1 if stage is Stage.OUTPUT and asks(route) else BATCH  # a turn has one prompt
        for first in range(0, len(of_stage), step):
            some = of_stage[first : first + step]
            parts = [Part(str(place), each.text) for place, each in enumerate(some)]
            verdicts = await guard.judge(parts, Turn(route, stage, "*", Origin(), time.monotonic(), context=some[0].context))
            for place, each in enumerate(some):
                yield _judged(each, [verdict for verdict in verdicts if verdict.part == str(place)])


def _route(old: Policy, new: Policy) -> Route:
    """Each version in the stages that it applies to, at its threshold there."""
    prompts, answers = (
        tuple(
            Check(policy, policy.threshold_at(stage), mode=mode)
            for policy, mode in ((old, Mode.ENFORCE), (new, Mode.SHADOW))
            if stage in policy.applies_to
        )
        for stage in Stage
    )
    return Route("compare", "/", "*", "*", "", "it", prompts, answers, on_error=Fallback.BLOCK, deadline_s=PATIENCE_S)


def _comparable(policy: str, route: Route, texts: Sequence[Asked]) -> None:
    """Raises GuardrailError where nothing would be compared, or not what the guard judges."""
    if texts and not any(route.checks(each.stage) for each in texts):
        raise GuardrailError(f"none of the texts is of a stage that {policy!r} applies to; rows of answers have the `kind` {ANSWER}")
    if not texts or not asks(route):
        return
    answers = [each for each in texts if each.stage is Stage.OUTPUT]
    bare = sum(not (each.context or "").strip() for each in answers)
    if bare or not answers:
        lack = f"{bare} of {len(answers)} answers have no prompt" if answers else "there is no answer among the texts"
        raise GuardrailError(
            f"{policy!r} judges answers with their prompts (`judge_with: prompt`), and {lack}: give --data whose answers have "
            "their prompts as `context`; an audit store does not tell them"
        )


def _judged(asked: Asked, verdicts: Iterable[Verdict]) -> Judged:
    found = list(verdicts)
    (old_score, old), (new_score, new) = (_said([each for each in found if each.mode is mode]) for mode in (Mode.ENFORCE, Mode.SHADOW))
    return Judged(asked, old_score, new_score, old, new)


def _said(verdicts: Sequence[Verdict]) -> tuple[float | None, bool | None]:
    """The highest score and the verdict; a text without a word is judged harmless, as the guard does."""
    score = max((each.score for each in verdicts if each.score is not None), default=None)
    if any(each.violation for each in verdicts):
        return score, True
    return score, None if any(each.error is not None for each in verdicts) else False
