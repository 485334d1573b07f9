"""Steerability probes: does a classifier read the policy, or remember what harm looks like?

As published for CoPE: inversion flip rate, off-topic false flags, carve-out selectivity (ROOST's evaluation of CoPE, 2026). Added here:
sensitivity to a policy's length, and stability under other words for the same policy.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from guardrail.errors import ClassifierError
from guardrail.evaluation import steer_policies
from guardrail.evaluation.dataset import Item
from guardrail.interfaces import Classifier
from guardrail.policy.trial import tested_as
from guardrail.types import ClassifyRequest, Policy, Stage

CHUNK = 64  # judgements in one call
PATIENCE_S = 3600.0
CARVED = "hate_speech"  # the policy whose targets are carved out


@dataclass(frozen=True, slots=True)
class Rate:
    """`hits` of `of` texts."""

    hits: int
    of: int

    @property
    def share(self) -> float | None:
        """The share, None of nothing."""
        return self.hits / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the share (Wilson 1927); (0, 1) of nothing."""
        if not self.of:
            return (0.0, 1.0)
        z, n, p = 1.959964, self.of, self.hits / self.of
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (max(0.0, middle - half), min(1.0, middle + half))

    @classmethod
    def of_flags(cls, flags: Iterable[bool]) -> "Rate":
        """How many are true."""
        found = list(flags)
        return cls(sum(found), len(found))

    @classmethod
    def pooled(cls, rates: Iterable["Rate"]) -> "Rate":
        """Several rates as one."""
        found = list(rates)
        return cls(sum(rate.hits for rate in found), sum(rate.of for rate in found))


@dataclass(frozen=True, slots=True)
class Sample:
    """A text of a probe: what it is about (a policy's id), whether it violates that policy, the group it attacks, and what it is.

    `criterion` is the name of the policy's criterion that decides, where it is known.
    """

    text: str
    area: str
    label: int
    group: str = ""
    stage: Stage = Stage.INPUT
    criterion: str = ""


@dataclass(frozen=True, slots=True)
class Inversion:
    """Under a policy and the same turned round. `released`: of the positives it flags, those the inverted one lets pass.

    `adopted`: of the negatives that it lets pass, those the inverted policy flags.
    """

    policy: str
    flagged: Rate
    released: Rate
    adopted: Rate


@dataclass(frozen=True, slots=True)
class CarveOut:
    """Of the positives a policy flags: those released once their group is carved out, and those of the other groups, still in scope."""

    group: str
    released: Rate
    in_scope: Rate

    @property
    def selectivity(self) -> float | None:
        """Points between the two: 100 is perfect, 0 blind; None where one side has no flagged text."""
        return _points(self.released, self.in_scope)


@dataclass(frozen=True, slots=True)
class Single:
    """Of the positives a policy flags: those flagged under their own criterion alone, and those flagged under each other one alone.

    A text may fall under two criteria, so that not even a perfect reader reaches 100 points.
    """

    policy: str
    own: Rate
    others: Rate

    @property
    def selectivity(self) -> float | None:
        """Points between the two; None where one side has no flagged text."""
        return _points(self.own, self.others)


@dataclass(frozen=True, slots=True)
class Length:
    """A policy's verdicts at one length: positives flagged, negatives flagged, verdicts as under the whole policy."""

    lines: int
    recall: Rate
    false_flags: Rate
    as_whole: Rate


@dataclass(frozen=True, slots=True)
class Wording:
    """Texts with one verdict under every wording of a policy, and the mean distance (0 to 1) of a text's highest and lowest score."""

    policy: str
    stable: Rate
    spread: float


@dataclass(frozen=True, slots=True)
class Steering:
    """All that the probes found. Rates are pooled over policies; `inversions`, `wordings`, `carve_outs`, `singles` keep them apart."""

    classifier: str
    samples: int
    inversions: tuple[Inversion, ...]
    off_topic: Mapping[str, Rate]
    carve_outs: tuple[CarveOut, ...]
    lengths: tuple[Length, ...]
    wordings: tuple[Wording, ...]
    singles: tuple[Single, ...] = ()

    @property
    def flip(self) -> Rate:
        """Inversion flip rate."""
        return Rate.pooled(each.released for each in self.inversions)

    @property
    def adopted(self) -> Rate:
        """Share of released negatives that an inverted policy flags."""
        return Rate.pooled(each.adopted for each in self.inversions)

    @property
    def false_flags(self) -> Rate:
        """Off-topic false flags."""
        return Rate.pooled(self.off_topic.values())

    @property
    def selectivity(self) -> float | None:
        """Carve-out selectivity in points, all groups together."""
        both = [each for each in self.carve_outs if each.selectivity is not None]
        return _points(Rate.pooled(each.released for each in both), Rate.pooled(each.in_scope for each in both))

    @property
    def criterion_selectivity(self) -> float | None:
        """Selectivity of policies on one criterion alone in points, all policies together."""
        return _points(Rate.pooled(each.own for each in self.singles), Rate.pooled(each.others for each in self.singles))

    @property
    def stable(self) -> Rate:
        """Paraphrase stability."""
        return Rate.pooled(each.stable for each in self.wordings)


def own_samples(policies: Sequence[Policy]) -> list[Sample]:
    """The probes' own mild texts: the policies' own tests, and each claim made of each group."""
    found = [
        Sample(test.text, policy.id, test.expected, stage=tested_as(policy), criterion=test.criterion)
        for policy in policies
        for test in policy.tests
    ]
    if any(policy.id == CARVED for policy in policies):
        for group, entry in steer_policies.material()["groups"].items():
            for claim in steer_policies.material()["claims"]:
                text = claim.replace("{group}", entry["name"])
                found.append(Sample(text[0].upper() + text[1:], CARVED, 1, group))
    return found


def labelled_samples(items: Iterable[Item], policies: Sequence[Policy]) -> list[Sample]:
    """Labelled rows of the policies' areas; the group is known where exactly one of a row's finer labels names one."""
    names = {label: group for group, entry in steer_policies.material()["groups"].items() for label in entry["labels"]}
    asked = {policy.id for policy in policies}
    found = []
    for item in items:
        if item.label is not None and item.area in asked:
            groups = {names[label] for label in item.sub_labels if label in names}
            found.append(Sample(item.text, item.area, item.label, groups.pop() if len(groups) == 1 else "", item.stage))
    return found


async def steer(
    classifier: Classifier,
    policies: Sequence[Policy],
    samples: Sequence[Sample],
    *,
    report: Callable[[int, int], None] = lambda _, __: None,
) -> Steering:
    """Run all probes. A text counts as flagged at its policy's threshold (of what it is). `report` gets judgements done and in all.

    Raises ClassifierError when a text could not be judged: a probe with holes would flatter.
    """
    probes = [_Probe.of(policy, [sample for sample in samples if sample.area == policy.id]) for policy in policies]
    elsewhere = steer_policies.off_topic()
    pairs = {(policy.key, sample.text): (policy, sample.text) for probe in probes for policy in probe.asked for sample in probe.samples}
    pairs |= {(policy.key, sample.text): (policy, sample.text) for sample in samples for policy in elsewhere}
    scores = await _scores(classifier, list(pairs.values()), report)
    return Steering(
        classifier.id,
        len(samples),
        tuple(probe.inversion(scores) for probe in probes),
        {policy.title: Rate.of_flags(_flag(scores, policy, sample) for sample in samples) for policy in elsewhere},
        tuple(found for probe in probes for found in probe.carve_outs(scores)),
        tuple(_at_length(probes, lines, scores) for lines in steer_policies.LENGTHS),
        tuple(probe.wording(scores) for probe in probes if probe.other_words and probe.samples),
        tuple(probe.single(scores) for probe in probes if len(probe.singled) > 1),
    )


Scores = Mapping[tuple[tuple[str, str], str], float]


@dataclass(frozen=True, slots=True)
class _Probe:
    """One policy, its variants, and the texts about it."""

    policy: Policy
    samples: tuple[Sample, ...]
    inverted: Policy
    carved: Mapping[str, Policy]
    lengths: Mapping[int, Policy]
    other_words: tuple[Policy, ...]
    singled: Mapping[str, Policy]

    @classmethod
    def of(cls, policy: Policy, samples: Sequence[Sample]) -> "_Probe":
        groups = sorted({sample.group for sample in samples if sample.group and policy.id == CARVED})
        names = steer_policies.material()["groups"]
        asked = {sample.criterion for sample in samples if sample.label and sample.criterion}
        known = policy.id in steer_policies.material()["areas"]
        return cls(
            policy,
            tuple(samples),
            steer_policies.inverted(policy),
            {group: steer_policies.carved(policy, group, names[group]["name"]) for group in groups},
            {lines: steer_policies.shortened(policy, lines) for lines in steer_policies.LENGTHS if known or lines > 1},
            steer_policies.paraphrased(policy),
            {each.name: steer_policies.singled(policy, each) for each in policy.labels[0].includes if each.name in asked},
        )

    @property
    def asked(self) -> tuple[Policy, ...]:
        return (self.policy, self.inverted, *self.carved.values(), *self.lengths.values(), *self.other_words, *self.singled.values())

    def inversion(self, scores: Scores) -> Inversion:
        positives = [sample for sample in self.samples if sample.label]
        flagged = [sample for sample in positives if _flag(scores, self.policy, sample)]
        passed = [sample for sample in self.samples if not sample.label and not _flag(scores, self.policy, sample)]
        return Inversion(
            self.policy.id,
            Rate(len(flagged), len(positives)),
            Rate.of_flags(not _flag(scores, self.inverted, sample) for sample in flagged),
            Rate.of_flags(_flag(scores, self.inverted, sample) for sample in passed),
        )

    def carve_outs(self, scores: Scores) -> list[CarveOut]:
        flagged = [sample for sample in self.samples if sample.label and sample.group and _flag(scores, self.policy, sample)]
        return [
            CarveOut(
                group,
                Rate.of_flags(not _flag(scores, policy, sample) for sample in flagged if sample.group == group),
                Rate.of_flags(not _flag(scores, policy, sample) for sample in flagged if sample.group != group),
            )
            for group, policy in self.carved.items()
        ]

    def single(self, scores: Scores) -> Single:
        told = [sample for sample in self.samples if sample.label and sample.criterion in self.singled]
        flagged = [sample for sample in told if _flag(scores, self.policy, sample)]
        return Single(
            self.policy.id,
            Rate.of_flags(_flag(scores, self.singled[sample.criterion], sample) for sample in flagged),
            Rate.of_flags(
                _flag(scores, policy, sample) for sample in flagged for name, policy in self.singled.items() if name != sample.criterion
            ),
        )

    def wording(self, scores: Scores) -> Wording:
        wordings = (self.policy, *self.other_words)
        values = [[scores[policy.key, sample.text] for policy in wordings] for sample in self.samples]
        bars = [self.policy.threshold_at(sample.stage) for sample in self.samples]
        stable = [len({value >= bar for value in row}) == 1 for row, bar in zip(values, bars, strict=True)]
        return Wording(self.policy.id, Rate.of_flags(stable), sum(max(row) - min(row) for row in values) / len(values))


def _at_length(probes: Sequence[_Probe], lines: int, scores: Scores) -> Length:
    recall: list[bool] = []
    false: list[bool] = []
    same: list[bool] = []
    for probe in probes:
        if lines in probe.lengths:
            for sample in probe.samples:
                flag = _flag(scores, probe.lengths[lines], sample)
                (recall if sample.label else false).append(flag)
                same.append(flag == _flag(scores, probe.policy, sample))
    return Length(lines, Rate.of_flags(recall), Rate.of_flags(false), Rate.of_flags(same))


def _points(one: Rate, other: Rate) -> float | None:
    """Percentage points that the first lies above the second."""
    return None if one.share is None or other.share is None else 100 * (one.share - other.share)


def _flag(scores: Scores, policy: Policy, sample: Sample) -> bool:
    return scores[policy.key, sample.text] >= policy.threshold_at(sample.stage)


async def _scores(classifier: Classifier, pairs: Sequence[tuple[Policy, str]], report: Callable[[int, int], None]) -> Scores:
    policies = {policy.key: policy for policy, _ in pairs}
    await classifier.prepare(list(policies.values()))
    ordered = sorted(pairs, key=lambda pair: pair[1])  # the judgements of one text stand together
    found: dict[tuple[tuple[str, str], str], float] = {}
    for first in range(0, len(ordered), CHUNK):
        requests = [ClassifyRequest(policy, text) for policy, text in ordered[first : first + CHUNK]]
        answers = await classifier.classify(requests, deadline=time.monotonic() + PATIENCE_S)
        for request, answer in zip(requests, answers, strict=True):
            if isinstance(answer, ClassifierError):
                raise answer
            found[request.policy.key, request.text] = answer.value
        report(min(first + CHUNK, len(ordered)), len(ordered))
    return found
