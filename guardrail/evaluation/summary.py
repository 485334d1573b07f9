"""From predictions to numbers: one row for each set and area, one policy's rows pooled for its thresholds, and how long it took."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from guardrail.evaluation.agreement import Kappa, kappa
from guardrail.evaluation.crossfit import Pool, pooled
from guardrail.evaluation.dataset import Item
from guardrail.evaluation.metrics import Quality, quality
from guardrail.evaluation.overhead import quantile
from guardrail.evaluation.predictions import Key, Prediction, RunInfo, Thresholds, reached, thresholds_of
from guardrail.evaluation.reliability import Reliability, reliability
from guardrail.evaluation.run import ANY, Plan
from guardrail.ranking import Curve, curve
from guardrail.types import Stage
from guardrail.units import unit_of

FEWEST = 5  # rows of a sub-label that is shown


@dataclass(frozen=True, slots=True)
class Judged:
    """An item with the scores of all policies it was asked under, the strongest of them, and whether one reached its threshold."""

    item: Item
    scores: Mapping[str, float]
    flagged: bool

    @property
    def score(self) -> float:
        """The highest score."""
        return max(self.scores.values())

    @property
    def label(self) -> int:
        """1 or 0; what has no label is not judged."""
        return self.item.label or 0

    @property
    def wrong(self) -> bool:
        """Whether the flag contradicts the label."""
        return self.flagged != bool(self.label)


@dataclass(frozen=True, slots=True)
class SubLabel:
    """What became of the texts with one of the set's own finer labels."""

    name: str
    caught: int
    missed: int
    false: int
    passed: int

    @property
    def detection(self) -> float | None:
        """Share of its violating texts that is flagged, None without any."""
        found = self.caught + self.missed
        return self.caught / found if found else None


@dataclass(frozen=True, slots=True)
class Row:
    """One set and area under its policy (or ANY: under all). `failed` texts were not judged in full and count nowhere else."""

    set: str
    area: str
    policy: str
    failed: int
    judged: tuple[Judged, ...]
    curve: Curve
    quality: Quality
    recall_at_1: float | None
    recall_at_5: float | None
    reliability: Reliability
    kappa: Kappa
    sub_labels: tuple[SubLabel, ...]

    @property
    def name(self) -> str:
        """Set and area in one word."""
        return f"{self.set}/{self.area}" if self.area else self.set


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds that a caller waited for one call, and how much was judged in a second of calls."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    items_per_second: float
    judgements_per_second: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything that is reported of a run. `pooled`: for each policy all prompts, or all answers, that speak of it."""

    info: RunInfo
    rows: tuple[Row, ...]
    pooled: Mapping[tuple[str, Stage], Pool]
    latency: Latency


def summarise(plan: Plan, info: RunInfo, found: Mapping[Key, Prediction]) -> Summary:
    """Measure what was judged at the policies' thresholds. Rows of which every text failed are left out."""
    thresholds = thresholds_of(plan.policies)
    groups: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for data in plan.sets:
        for item in plan.items(data):
            groups[item.set, item.area].append(item)
    pools: dict[tuple[str, Stage], list[tuple[float, int, str]]] = defaultdict(list)
    rows = []
    for (name, area), items in groups.items():
        asked = plan.asked(area)
        judged = [each for item in items if (each := _judged(item, [found.get((name, item.id, *p.key)) for p in asked], thresholds))]
        for each in judged:
            # A text that violates something does not say which policy; one that violates nothing violates none.
            for policy, score in each.scores.items() if len(asked) == 1 or not each.label else ():
                pools[policy, each.item.stage].append((score, each.label, unit_of(each.item.set, each.item.unit, each.item.id)))
        if judged:
            rows.append(_row((name, area, asked[0].id if len(asked) == 1 else ANY), judged, len(items) - len(judged), info.seed))
    return Summary(info, tuple(rows), {key: pooled(texts) for key, texts in pools.items()}, latency(found.values()))


def latency(found: Iterable[Prediction]) -> Latency:
    """Of the judgements that came to a score. A call's time is shared among those that it asked for."""
    scored = [each for each in found if each.score is not None]
    waited = [each.latency_s * 1000 for each in scored]
    busy = sum(each.latency_s / each.together for each in scored)
    items = len({(each.set, each.item) for each in scored})
    p50, p95, p99 = (quantile(waited, share) for share in (0.5, 0.95, 0.99))
    return Latency(p50, p95, p99, items / busy if busy else 0.0, len(scored) / busy if busy else 0.0)


def _judged(item: Item, found: Sequence[Prediction | None], thresholds: Thresholds) -> Judged | None:
    scores = {each.policy: each.score for each in found if each is not None and each.score is not None}
    if len(scores) < len(found):
        return None
    return Judged(item, scores, reached(scores, thresholds[item.stage]))


def _row(names: tuple[str, str, str], judged: Sequence[Judged], failed: int, seed: int) -> Row:
    scores, labels, flags = [each.score for each in judged], [each.label for each in judged], [each.flagged for each in judged]
    found = curve(scores, labels)
    units = [each.item.unit for each in judged]
    return Row(
        *names,
        failed=failed,
        judged=tuple(judged),
        curve=found,
        quality=quality(scores, labels, flags),
        recall_at_1=found.recall_at(0.01),
        recall_at_5=found.recall_at(0.05),
        reliability=reliability(scores, labels),
        kappa=kappa(flags, [bool(label) for label in labels], units, seed=seed),
        sub_labels=tuple(sub_labels(judged)),
    )


def sub_labels(judged: Sequence[Judged]) -> list[SubLabel]:
    """What became of each finer label that occurs often enough, in order of name."""
    tables: dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]] = defaultdict(lambda: np.zeros(4, np.int64))
    for each in judged:
        for name in dict.fromkeys(each.item.sub_labels):
            tables[name][(0 if each.flagged else 1) + (0 if each.label else 2)] += 1
    return [SubLabel(name, *map(int, cells)) for name, cells in sorted(tables.items()) if cells.sum() >= FEWEST]
