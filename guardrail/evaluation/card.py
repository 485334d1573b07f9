"""The numbers of a card: a row for each task of the suite, held against its bars, from predictions that were made once for all of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from guardrail.evaluation.crossfit import Pool, cross_fitted
from guardrail.evaluation.dataset import Item
from guardrail.evaluation.metrics import Quality, quality
from guardrail.evaluation.predictions import Key, Prediction, Thresholds, reached
from guardrail.evaluation.suite import AT_MOST, Questions, Suite, Task
from guardrail.types import Policy
from guardrail.units import unit_of

HALVES = 2
TOGETHER = Task("benign sets together", "benign", "any")


@dataclass(frozen=True, slots=True)
class Bar:
    """What is asked of a metric, and what it is; None where it cannot be told (no text of one label)."""

    metric: str
    bar: float
    value: float | None

    @property
    def met(self) -> bool:
        """Whether it is reached, or not exceeded."""
        if self.value is None:
            return False
        return self.value <= self.bar if self.metric in AT_MOST else self.value >= self.bar


@dataclass(frozen=True, slots=True)
class Measured:
    """A task's texts that were judged in full, with the score of each policy; `failed` were not, and count nowhere."""

    task: Task
    items: tuple[Item, ...]
    scores: tuple[Mapping[str, float], ...]
    failed: int

    def pool(self, thresholds: Thresholds) -> Pool:
        """The score of each text; of several policies the one furthest over its threshold, in log-odds, moved so that 0.5 is at it.

        The scores of different policies are not equally sharp, so the highest of them says less than the one that is furthest over.
        """
        units = tuple(unit_of(item.set, item.unit, item.id) for item in self.items)
        scores = [_strongest(row, thresholds[item.stage]) for item, row in zip(self.items, self.scores, strict=True)]
        return Pool(tuple(scores), tuple(item.label or 0 for item in self.items), units)

    def flags(self, thresholds: Thresholds) -> list[bool]:
        """Which texts some policy flags at its threshold of prompts or, answers, at that of answers."""
        return [reached(row, thresholds[item.stage]) for item, row in zip(self.items, self.scores, strict=True)]


@dataclass(frozen=True, slots=True)
class CardRow:
    """A measured task. `quality` is at the policies' thresholds.

    `crossed_f1`: the F1 at a threshold on the strongest answer that was chosen for it on the other half of the units; None where one label
    is missing there.
    """

    task: Task
    quality: Quality
    crossed_f1: float | None
    failed: int
    bars: tuple[Bar, ...]


def measured(suite: Suite, asked: Questions, found: Mapping[Key, Prediction], policies: Sequence[Policy]) -> list[Measured]:
    """The suite's tasks with what was found, in their order; a task whose texts all failed is left out."""
    tasks = []
    for task in suite.tasks:
        items, scores = [], []
        for item in asked.items.get(task.name, ()):
            answers = {policy.id: found.get(asked.key(item, policy)) for policy in task.policies(policies)}
            known = {name: each.score for name, each in answers.items() if each is not None and each.score is not None}
            if len(known) == len(answers):
                items.append(item)
                scores.append(known)
        if items:
            tasks.append(Measured(task, tuple(items), tuple(scores), len(asked.items[task.name]) - len(items)))
    return tasks


def card(suite: Suite, tasks: Sequence[Measured], thresholds: Thresholds) -> list[CardRow]:
    """A row for each task, and one for the benign sets together where there is more than one of them."""
    rows = [_row(each, thresholds, each.task.bars) for each in tasks]
    benign = [each for each in tasks if each.task.set in suite.benign and each.task.area == "benign"]
    if len(benign) > 1:
        items = tuple(item for each in benign for item in each.items)
        scores = tuple(row for each in benign for row in each.scores)
        together = Measured(TOGETHER, items, scores, sum(each.failed for each in benign))
        rows.append(_row(together, thresholds, suite.benign_bars))
    return rows


def _row(each: Measured, thresholds: Thresholds, bars: Mapping[str, float]) -> CardRow:
    pool = each.pool(thresholds)
    found = quality(pool.scores, pool.labels, each.flags(thresholds))
    crossed = cross_fitted(pool, "f1", folds=HALVES)
    values: dict[str, float | None] = {"f1": found.f1, "auc": found.auc, "auprc": found.auprc, "flagged": found.flagged}
    verdicts = tuple(Bar(metric, bar, values[metric]) for metric, bar in bars.items())
    return CardRow(each.task, found, crossed.f1 if crossed else None, each.failed, verdicts)


def _strongest(scores: Mapping[str, float], thresholds: Mapping[str, float]) -> float:
    if len(scores) == 1:
        return next(iter(scores.values()))
    return 1 / (1 + math.exp(-max(_log_odds(score) - _log_odds(thresholds[policy]) for policy, score in scores.items())))


def _log_odds(probability: float) -> float:
    inside = min(max(probability, 1e-9), 1 - 1e-9)
    return math.log(inside / (1 - inside))
