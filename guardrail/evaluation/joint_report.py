"""From a card's judgements to thresholds proposed together, and what they do: here, and to texts they were not chosen on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from guardrail.evaluation.card import TOGETHER, Measured
from guardrail.evaluation.crossfit import counts
from guardrail.evaluation.dataset import Item
from guardrail.evaluation.joint import Sheet, choose, cross_fitted, f1, flags
from guardrail.evaluation.run import ANY
from guardrail.evaluation.suite import Suite, Task
from guardrail.units import unit_of

HARMLESS = Task("harmless answers together", "benign", ANY)
FEWEST = 5  # texts of either label, below which a set's F1 says nothing


@dataclass(frozen=True, slots=True)
class Effect:
    """What thresholds do to a sheet: its F1, or the share that is flagged where it has a limit. `goal`: its bar or limit, where it has one.

    `crossed` is of texts whose units had no part in the choice, and so are `precision`, `recall` and `fpr`.
    """

    name: str
    asked: str
    rows: int
    limited: bool
    goal: float | None
    now: float
    proposed: float
    crossed: float
    precision: float
    recall: float
    fpr: float


@dataclass(frozen=True, slots=True)
class Joint:
    """Thresholds by policy: those of now, those proposed, and the lowest and highest of the folds."""

    now: Mapping[str, float]
    proposed: Mapping[str, float]
    spread: Mapping[str, tuple[float, float]]
    effects: tuple[Effect, ...]
    mean_f1: tuple[float, float, float]

    @property
    def kept(self) -> bool:
        """Whether the proposal keeps every limit on the texts that it was chosen on."""
        return all(each.proposed <= (each.goal or 0.0) + 1e-9 for each in self.effects if each.limited)


def texts(tasks: Sequence[Measured], which: Callable[[Item], bool]) -> list[Measured]:
    """The tasks with some of their texts; a task without any is left out."""
    found = []
    for task in tasks:
        kept = [(item, row) for item, row in zip(task.items, task.scores, strict=True) if which(item)]
        if kept:
            items, scores = zip(*kept, strict=True)
            found.append(replace(task, items=items, scores=scores))
    return found


def answer_sheets(tasks: Sequence[Measured], policies: Sequence[str], *, budget: float, each: float | None = None) -> list[Sheet]:
    """The goals of a choice for answers: the F1 of every task that asks all policies, and the answers that violate nothing under `budget`.

    They are those of the tasks' own sets, since there are no sets of harmless answers alone. `each`: also the share of every set's. What
    is about one policy is small and of one set, so that no policy is to find less there than now, and none is fitted to it.
    """
    found = [_sheet(task, policies, bar=task.task.bars.get("f1")) for task in tasks if _both(task)]
    found = [sheet if sheet.asked == ANY else replace(sheet, floor=True) for sheet in found]
    harmless = texts([task for task in tasks if task.task.asked == ANY], lambda item: not item.label)
    found += [_sheet(task, policies, limit=each) for task in harmless if each is not None]
    return [*found, *([_sheet(_together(harmless, HARMLESS), policies, limit=budget)] if harmless else [])]


def prompt_sheet(tasks: Sequence[Measured], policies: Sequence[str], share: float) -> Sheet:
    """Harmless prompts, of which that share may be flagged where they are judged as answers: there are no sets of ordinary answers."""
    return _sheet(_together(tasks, TOGETHER), policies, limit=share)


def _together(tasks: Sequence[Measured], name: Task) -> Measured:
    items = tuple(item for task in tasks for item in task.items)
    return Measured(name, items, tuple(row for task in tasks for row in task.scores), 0)


def _both(task: Measured) -> bool:
    """Whether it has enough texts of either label."""
    violating = sum(item.label or 0 for item in task.items)
    return min(violating, len(task.items) - violating) >= FEWEST


def sheets(tasks: Sequence[Measured], suite: Suite, policies: Sequence[str], *, budget: float, each: float | None = None) -> list[Sheet]:
    """The goals of a choice: the F1 of every task with both labels, the benign sets together under `budget`, and other limits of the suite.

    `each`: also the share of every benign set that may be flagged; without, the suite's bars of single benign sets are left aside.
    """
    found = []
    benign = [task for task in tasks if task.task.set in suite.benign and task.task.area == "benign"]
    for task in tasks:
        limit = each if task in benign else task.task.bars.get("flagged")
        if limit is not None:
            found.append(_sheet(task, policies, limit=limit))
        elif _both(task):
            found.append(_sheet(task, policies, bar=task.task.bars.get("f1")))
    return [*found, *([_sheet(_together(benign, TOGETHER), policies, limit=budget)] if benign else [])]


def _sheet(task: Measured, policies: Sequence[str], *, bar: float | None = None, limit: float | None = None) -> Sheet:
    return Sheet(
        task.task.set if task.task in (TOGETHER, HARMLESS) else f"{task.task.set}/{task.task.area}",
        task.task.asked,
        np.array([[row.get(policy, -1.0) for policy in policies] for row in task.scores]),
        np.array([item.label or 0 for item in task.items], np.int64),
        tuple(unit_of(item.set, item.unit, item.id) for item in task.items),
        bar,
        limit,
    )


def joint(goals: Sequence[Sheet], now: Mapping[str, float], *, folds: int, highest: float = 1.0, lower: bool = False) -> Joint:
    """Choose on everything, and say what that does here and, by `folds` of units, elsewhere.

    None is above `highest`, if it is not there now; with `lower` none is above what it is now.
    """
    names, start = list(now), np.array(list(now.values()))
    most = start if lower else np.maximum(start, highest)
    found = choose(goals, start, highest=most)
    crossed, chosen = cross_fitted(goals, start, folds, highest=most)
    effects = tuple(_effect(sheet, flags(sheet, start), flags(sheet, found), other) for sheet, other in zip(goals, crossed, strict=True))
    return Joint(
        dict(now),
        {name: round(float(value), 4) for name, value in zip(names, found, strict=True)},
        {name: (float(column.min()), float(column.max())) for name, column in zip(names, chosen.T, strict=True)},
        effects,
        _mean_f1(effects),
    )


def _effect(sheet: Sheet, now: NDArray[np.bool_], proposed: NDArray[np.bool_], crossed: NDArray[np.bool_]) -> Effect:
    limited = sheet.limit is not None
    values = [float(each.mean()) if limited else f1(each, sheet.labels) for each in (now, proposed, crossed)]
    precision, recall, _, fpr = counts(crossed, sheet.labels)
    goal = sheet.limit if limited else sheet.bar
    measured = dict(zip(("now", "proposed", "crossed"), values, strict=True))
    return Effect(sheet.name, sheet.asked, len(sheet.labels), limited, goal, **measured, precision=precision, recall=recall, fpr=fpr)


def _mean_f1(effects: Sequence[Effect]) -> tuple[float, float, float]:
    """Now, proposed and crossed: the mean over policies of the mean over their sets, which is what the choice is for."""
    groups: dict[str, list[Effect]] = {}
    for each in effects:
        if not each.limited:
            groups.setdefault(each.asked, []).append(each)
    means = [(fmean(x.now for x in found), fmean(x.proposed for x in found), fmean(x.crossed for x in found)) for found in groups.values()]
    now, proposed, crossed = map(fmean, zip(*means, strict=True))
    return (now, proposed, crossed)


def document(found: Joint) -> dict[str, object]:
    """All numbers."""
    return asdict(found)


def markdown(found: Joint) -> str:
    """The thresholds, and what they do."""
    return "\n".join(_lines(found))


def _lines(found: Joint) -> Iterator[str]:
    yield from ("| policy | now | proposed | folds |", "|---|--:|--:|--:|")
    for policy, value in found.proposed.items():
        low, high = found.spread[policy]
        yield f"| {policy} | {found.now[policy]:g} | {value:g} | {low:g} to {high:g} |"
    yield from ("", "| harmless texts | asked | rows | limit | flagged now | proposed | crossed |", "|---|---|--:|--:|--:|--:|--:|")
    for each in found.effects:
        if each.limited:
            yield f"| {_start(each)} | {each.goal:.1%} | {each.now:.2%} | {each.proposed:.2%} | {each.crossed:.2%} |"
    yield from ("", "| set | asked | rows | bar | F1 now | proposed | crossed | precision | recall | FPR |", "|---|---|" + "--:|" * 8)
    for each in found.effects:
        if not each.limited:
            bar = "" if each.goal is None else f"{each.goal:.2f}"
            values = each.now, each.proposed, each.crossed, each.precision, each.recall, each.fpr
            yield f"| {_start(each)} | {bar} | {' | '.join(f'{value:.3f}' for value in values)} |"
    yield "| mean over policies | | | | {:.3f} | {:.3f} | {:.3f} | | | |".format(*found.mean_f1)
    yield ""
    yield (
        "Crossed (and precision, recall and FPR): under thresholds that were chosen without the text's unit. Proposed: on the very texts"
        " they were chosen on."
    )
    if not found.kept:
        yield "No thresholds keep all limits; these break them least."


def _start(each: Effect) -> str:
    return f"{each.name} | {'all' if each.asked == ANY else each.asked} | {each.rows:,}"
