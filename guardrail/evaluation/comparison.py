"""Two runs over the same texts, text by text: what the second flags that the first does not, and whether that is chance.

A text's verdict is that of the policies it was asked under: flagged when one of its scores reaches that policy's threshold, an answer's
when it reaches that of answers. Each run has the thresholds that it was made with.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from guardrail.errors import GuardrailError
from guardrail.evaluation.agreement import Kappa, kappa
from guardrail.evaluation.metrics import Quality, quality
from guardrail.evaluation.predictions import Key, Prediction, RunInfo, reached
from guardrail.types import Stage

Place = tuple[str, str]  # set and item
ALL = "all"


@dataclass(frozen=True, slots=True)
class Run:
    """What `read_run` reads."""

    info: RunInfo
    found: Mapping[Key, Prediction]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run says of a text: the highest score, and whether a policy's threshold was reached."""

    score: float
    flagged: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """A text that both runs judged. `unit`: texts that are drawn together; empty: itself alone."""

    set: str
    item: str
    label: int | None
    unit: str
    first: Outcome
    second: Outcome

    @property
    def flipped(self) -> bool:
        """Whether one run flags it and the other does not."""
        return self.first.flagged != self.second.flagged


@dataclass(frozen=True, slots=True)
class Tested:
    """Both runs against the labels. `mended`: wrong in the first and right in the second; `broken`: the other way round.

    `p`: exact two-sided McNemar test of mended against broken, each text taken as independent, not corrected for the number of tests.
    """

    first: Quality
    second: Quality
    mended: int
    broken: int
    p: float


@dataclass(frozen=True, slots=True)
class Tally:
    """The texts of one set, or of all. `tested` is None where no text has a label."""

    name: str
    both: int
    only_first: int
    only_second: int
    neither: int
    kappa: Kappa
    tested: Tested | None

    @property
    def texts(self) -> int:
        """How many there are."""
        return self.both + self.only_first + self.only_second + self.neither


@dataclass(frozen=True, slots=True)
class PolicyTally:
    """Verdicts of one policy on prompts, or on answers. `distance` is the mean absolute difference of the two scores."""

    policy: str
    stage: Stage
    verdicts: int
    thresholds: tuple[float, float]
    only_first: int
    only_second: int
    distance: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """`alone`: texts that only one run judged, or under other policies; `failed`: texts that a run could not judge in full."""

    first: Run
    second: Run
    pairs: tuple[Pair, ...]
    tallies: tuple[Tally, ...]
    policies: tuple[PolicyTally, ...]
    alone: int
    failed: int
    drawn_by_unit: bool


@dataclass(slots=True)
class _Sorted:
    """Texts as they are sorted out."""

    pairs: list[Pair] = field(default_factory=list)
    alone: int = 0
    failed: int = 0


def compare(first: Run, second: Run, units: Mapping[Place, str] | None = None, *, versions: bool = False, seed: int = 0) -> Comparison:
    """Pair the runs' texts and count. `units` are drawn together for intervals. `versions`: policies may differ in their texts.

    Raises GuardrailError when the runs have no text in common, when a set or policy of one name is not the same in both, or when a run has
    two thresholds of a policy and does not say which texts are answers.
    """
    _check(first.info, second.info, versions=versions)
    ours, theirs = _by_text(first), _by_text(second)
    found = _Sorted()
    thresholds = first.info.thresholds(), second.info.thresholds()
    verdicts: dict[tuple[str, Stage], list[tuple[float, float]]] = defaultdict(list)
    for place in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(place, {}), theirs.get(place, {})
        if one.keys() != other.keys():
            found.alone += 1
            continue
        scores = {policy: (one[policy].score, other[policy].score) for policy in one}
        known = {policy: (mine, its) for policy, (mine, its) in scores.items() if mine is not None and its is not None}
        if len(known) < len(scores):
            found.failed += 1
            continue
        stage, label = _stage([*one.values(), *other.values()], (first, second)), next(iter(one.values())).label
        for policy, pair in known.items():
            verdicts[policy, stage].append(pair)
        sides = [{policy: pair[side] for policy, pair in known.items()} for side in (0, 1)]
        outcomes = [Outcome(max(said.values()), reached(said, at[stage])) for said, at in zip(sides, thresholds, strict=True)]
        found.pairs.append(Pair(*place, label, (units or {}).get(place, ""), outcomes[0], outcomes[1]))
    if not found.pairs:
        raise GuardrailError("the two runs have no text in common that both judged; run both over the same sets and policies")
    tallies = _tallies(found.pairs, seed)
    policies = tuple(_policy(key, verdicts[key], first, second) for key in sorted(verdicts))
    return Comparison(first, second, tuple(found.pairs), tallies, policies, found.alone, found.failed, any(p.unit for p in found.pairs))


def mcnemar(mended: int, broken: int) -> float:
    """Exact two-sided p-value: how likely a split at least as uneven is, were each change as likely to mend as to break."""
    changed = mended + broken
    term, total, every = 1, 0, int(2**changed)
    for hits in range(min(mended, broken) + 1):
        total += term
        term = term * (changed - hits) // (hits + 1)
    return min(1.0, 2 * total / every)


def flips(pairs: Sequence[Pair]) -> list[Pair]:
    """The texts with two verdicts, those with the farthest scores first."""
    return sorted((pair for pair in pairs if pair.flipped), key=lambda pair: -abs(pair.first.score - pair.second.score))


def _check(first: RunInfo, second: RunInfo, *, versions: bool) -> None:
    data = {each.name: each.sha256 for each in first.sets}
    for each in second.sets:
        if data.get(each.name, each.sha256) != each.sha256:
            raise GuardrailError(f"the set {each.name} is another file in the second run; run both over the same data")
    digests = {policy.id: policy.digest for policy in first.policies}
    for policy in second.policies:
        if not versions and digests.get(policy.id, policy.digest) != policy.digest:
            raise GuardrailError(f"the policy {policy.id} has another text in the second run; compare versions of policies with --versions")


def _by_text(run: Run) -> dict[Place, dict[str, Prediction]]:
    known = {(policy.id, policy.digest) for policy in run.info.policies}
    found: dict[Place, dict[str, Prediction]] = defaultdict(dict)
    for each in run.found.values():
        if (each.policy, each.digest) in known:
            found[each.set, each.item][each.policy] = each
    return found


def _stage(found: Sequence[Prediction], runs: Sequence[Run]) -> Stage:
    """What a text is. Runs of before answers had thresholds of their own do not say, and there it is all one."""
    told = next((each.stage for each in found if each.stage is not None), None)
    if told is None and any(policy.output_threshold is not None for run in runs for policy in run.info.policies):
        raise GuardrailError(
            f"answers have thresholds of their own, and neither run says whether {found[0].item} of {found[0].set} is one; set"
            " GUARDRAIL_DATA to the folder of its data, or judge it again into another folder"
        )
    return told or Stage.INPUT


def _tallies(pairs: Sequence[Pair], seed: int) -> tuple[Tally, ...]:
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.set].append(pair)
    named = [*groups.items(), (ALL, list(pairs))] if len(groups) > 1 else groups.items()
    return tuple(_tally(name, group, seed) for name, group in named)


def _tally(name: str, pairs: Sequence[Pair], seed: int) -> Tally:
    ours, theirs = [pair.first.flagged for pair in pairs], [pair.second.flagged for pair in pairs]
    both = sum(one and other for one, other in zip(ours, theirs, strict=True))
    units = [f"{pair.set}:{pair.unit}" if pair.unit else "" for pair in pairs]
    return Tally(
        name,
        both=both,
        only_first=sum(ours) - both,
        only_second=sum(theirs) - both,
        neither=len(pairs) - sum(ours) - sum(theirs) + both,
        kappa=kappa(ours, theirs, units, seed=seed),
        tested=_tested([pair for pair in pairs if pair.label is not None]),
    )


def _tested(pairs: Sequence[Pair]) -> Tested | None:
    if not pairs:
        return None
    labels = [pair.label or 0 for pair in pairs]
    mended = sum(pair.flipped and pair.second.flagged == bool(pair.label) for pair in pairs)
    broken = sum(pair.flipped for pair in pairs) - mended
    first, second = (
        quality([outcome.score for outcome in outcomes], labels, [outcome.flagged for outcome in outcomes])
        for outcomes in ([pair.first for pair in pairs], [pair.second for pair in pairs])
    )
    return Tested(first, second, mended, broken, mcnemar(mended, broken))


def _policy(key: tuple[str, Stage], scores: Sequence[tuple[float, float]], first: Run, second: Run) -> PolicyTally:
    policy, stage = key
    ours, theirs = (run.info.thresholds()[stage][policy] for run in (first, second))
    flags = [(one >= ours, other >= theirs) for one, other in scores]
    distance = math.fsum(abs(one - other) for one, other in scores) / len(scores)
    return PolicyTally(policy, stage, len(scores), (ours, theirs), flags.count((True, False)), flags.count((False, True)), distance)
