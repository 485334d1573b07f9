"""Thresholds of several policies chosen together: the best mean F1 that a budget of falsely flagged harmless texts allows.

Policies share the budget, because a harmless text counts as flagged whichever of them flags it. The search is a coordinate ascent over a
grid of short numbers, along rising and falling prices of a false flag; from every price's answer it goes on under the hard limits, and
the best answer that keeps them wins. It is deterministic, and no proof of a global optimum.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from guardrail.units import fold_of

GRID = np.round(np.concatenate([np.arange(0.01, 0.98, 0.005), np.arange(0.98, 0.9991, 0.001), [1.0]]), 4)
PRICES = (0.0, *np.geomspace(0.05, 20.0, 9).tolist())  # of the whole budget, in points of mean F1 / 100
BAR = 5.0  # how often a point of F1 counts that is missing to a bar
FORBIDDEN = 1e3  # the price of what is over a limit
SWEEPS = 12

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """Texts with their labels [N], their scores [N, P] under P policies (-1 where one is not asked) and the names of their units.

    `bar`: the F1 that is asked for; `limit`: the share of the texts that may be flagged. A sheet has a part in the mean F1, or a limit;
    of one with a `floor` nothing counts but that its F1 falls no lower than now. `asked` names the policy, or says that all are.
    """

    name: str
    asked: str
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    units: tuple[str, ...]
    bar: float | None = None
    limit: float | None = None
    floor: bool = False

    def part(self, rows: NDArray[np.bool_]) -> "Sheet":
        """Some of its texts."""
        units = tuple(unit for unit, kept in zip(self.units, rows.tolist(), strict=True) if kept)
        return replace(self, scores=self.scores[rows], labels=self.labels[rows], units=units)

    def folds(self, count: int) -> Places:
        """The fold of each text, the same in all sheets."""
        return np.array([fold_of(unit, count) for unit in self.units], np.int64)


def flags(sheet: Sheet, thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which texts some policy flags; `thresholds` are [P] or, one row a text, [N, P]."""
    return _some(sheet.scores >= thresholds)


def _some(over: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[N] of [N, P]: whether any is."""
    found: NDArray[np.bool_] = np.logical_or.reduce(over, axis=1)
    return found


def f1(flagged: NDArray[np.bool_], labels: NDArray[np.int64]) -> float:
    """F1 of flags against labels; 0 without a hit."""
    hits = int((flagged & (labels == 1)).sum())
    return 2 * hits / (int(flagged.sum()) + int(labels.sum())) if hits else 0.0


def choose(sheets: Sequence[Sheet], start: NDArray[np.float64], *, highest: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Thresholds [P] for the sheets' goals; `start` are those of now, from which one of the searches sets out.

    A policy that no sheet with a goal asks keeps its threshold. Where no thresholds keep the limits, those that break them least come back.
    None is above its `highest`.
    """
    most = np.ones(len(start)) if highest is None else highest
    strictest = np.maximum(np.searchsorted(GRID, most + 1e-9, side="right") - 1, 0)
    search = _Search([replace(sheet, bar=f1(flags(sheet, start), sheet.labels)) if sheet.floor else sheet for sheet in sheets], strictest)
    now = np.minimum(strictest, np.array([int(np.argmin(np.abs(GRID - value))) for value in start], np.int64))
    found = []
    # From both ends: a text that two policies flag is given up by neither of them alone.
    for here, prices in ((now, PRICES), (strictest, PRICES[::-1])):
        for price in prices:
            here = search.climb(here, price=price, forbidden=0.0)
            found.append(search.climb(here, price=0.0, forbidden=FORBIDDEN))
    found.append(search.climb(strictest, price=0.0, forbidden=FORBIDDEN))
    best = max(found, key=lambda places: search.value(places, price=0.0, forbidden=FORBIDDEN))
    asked = np.array([any((sheet.scores[:, number] >= 0).any() for sheet in sheets) for number in range(len(start))])
    return np.where(asked, np.minimum(GRID[best], most), start)


def cross_fitted(
    sheets: Sequence[Sheet], start: NDArray[np.float64], folds: int, *, highest: NDArray[np.float64] | None = None
) -> tuple[list[NDArray[np.bool_]], NDArray[np.float64]]:
    """The flags of each sheet's texts under thresholds that were chosen without their fold's units, and those thresholds [folds, P]."""
    of = [sheet.folds(folds) for sheet in sheets]
    chosen = np.stack(
        [
            choose([sheet.part(fold != number) for sheet, fold in zip(sheets, of, strict=True)], start, highest=highest)
            for number in range(folds)
        ]
    )
    return [flags(sheet, chosen[fold]) for sheet, fold in zip(sheets, of, strict=True)], chosen


class _Search:
    """Coordinate ascent. A threshold is a place in `GRID`; a text is flagged when its score's place is not below it.

    All sheets lie one behind the other, texts along the last axis, so that a step is a handful of array operations whatever their number.
    """

    def __init__(self, sheets: Sequence[Sheet], strictest: Places) -> None:
        kept = [sheet for sheet in sheets if len(sheet.labels)]
        self._strictest = strictest
        # Below the lowest place, and where a policy is not asked: -1.
        self._places = np.ascontiguousarray(np.concatenate([np.searchsorted(GRID, sheet.scores, side="right") - 1 for sheet in kept]).T)
        self._labels = np.concatenate([sheet.labels for sheet in kept])
        self._sheet = np.repeat(np.arange(len(kept)), [len(sheet.labels) for sheet in kept])
        self._rows = np.array([len(sheet.labels) for sheet in kept], np.float64)[:, None]
        self._positives = np.array([sheet.labels.sum() for sheet in kept], np.float64)[:, None]
        self._bars = np.array([sheet.bar or 0.0 for sheet in kept])[:, None]
        self._most = np.array([(sheet.bar or 0.0) if sheet.floor else 1.0 for sheet in kept])[:, None]
        self._limits = np.array([-1.0 if sheet.limit is None else sheet.limit for sheet in kept])[:, None]
        groups = Counter(sheet.asked for sheet in kept if sheet.limit is None)
        # Every policy weighs the same, however many sets are about it.
        weights = [1 / (groups[sheet.asked] * len(groups)) if sheet.limit is None else 0.0 for sheet in kept]
        self._weights = np.array(weights)[:, None]

    def climb(self, start: Places, *, price: float, forbidden: float) -> Places:
        """The best place of one policy after the other, until none moves."""
        here = start.copy()
        for _ in range(SWEEPS):
            before = here.copy()
            for policy, last in enumerate(self._strictest.tolist()):
                values = self._worth(*self._counts(here, policy), price=price, forbidden=forbidden)[: last + 1]
                # Of equals the one nearest to now, then the stricter.
                best = np.flatnonzero(values >= values.max() - 1e-12)
                here[policy] = best[np.argmin(np.abs(best - here[policy]) * 2 - (best > here[policy]))]
            if (before == here).all():
                break
        return here

    def value(self, here: Places, *, price: float, forbidden: float) -> float:
        """What thresholds are worth."""
        flagged, hits = self._counts(here, 0)
        place = slice(here[0], here[0] + 1)
        return float(self._worth(flagged[:, place], hits[:, place], price=price, forbidden=forbidden)[0])

    def _counts(self, here: Places, policy: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Flagged texts and flagged positives of each of S sheets at every place of a policy, those of the others held: [S, G] each."""
        over = np.asarray(self._places >= here[:, None])
        over[policy] = False
        others = np.logical_or.reduce(over, axis=0)
        own = self._places[policy]
        mine = np.flatnonzero(~others & (own >= 0))
        cells = self._sheet[mine] * len(GRID) + own[mine]
        return self._sums(cells, others, None, mine), self._sums(cells, others, self._labels, mine)

    def _sums(self, cells: Places, others: NDArray[np.bool_], weights: Places | None, mine: Places) -> NDArray[np.float64]:
        count = len(self._rows)
        own = np.bincount(cells, weights=None if weights is None else weights[mine], minlength=count * len(GRID))
        base = np.bincount(self._sheet, weights=others if weights is None else others * weights, minlength=count)
        found: NDArray[np.float64] = own.reshape(count, len(GRID))[:, ::-1].cumsum(1)[:, ::-1] + base[:, None]
        return found

    def _worth(self, flagged: NDArray[np.float64], hits: NDArray[np.float64], *, price: float, forbidden: float) -> NDArray[np.float64]:
        """What each place is worth, all sheets together."""
        found = np.minimum(2 * hits / np.maximum(flagged + self._positives, 1), self._most)
        gained = self._weights * (found - BAR * np.maximum(0.0, self._bars - found))
        share = flagged / self._rows
        lost = price / 100 * share / np.maximum(self._limits, 1e-3) + forbidden * np.maximum(0.0, share - self._limits)
        worth: NDArray[np.float64] = np.where(self._limits < 0, gained, -lost).sum(0)
        return worth
