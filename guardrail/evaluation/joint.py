"""Thresholds of several policies chosen together: the best mean F1 that a budget of falsely flagged harmless texts allows.

Policies share the budget, because a harmless text counts as flagged whichever of them flags it. The search is a coordinate ascent over a
grid of short numbers, along rising and falling prices of a false flag; from every price's answer it goes on under the hard limits, and
the best answer that keeps them wins. It is deterministic, and no proof of a global optimum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guardrail.units import fold_of

GRID = np.round(np.concatenate([np.arange(0.01, 0.98, 0.005), np.arange(0.98, 0.9991, 0.001), [1.0]]), 4)
PRICES = (0.0, *np.geomspace(0.02, 20.0, 16).tolist())  # of the whole budget, in points of mean F1 / 100
BAR = 5.0  # how often a point of F1 counts that is missing to a bar
FORBIDDEN = 1e3  # the price of what is over a limit
SWEEPS = 12

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """Texts with their labels [N], their scores [N, P] under P policies (-1 where one is not asked) and the names of their units.

    `bar`: the F1 that is asked for; `limit`: the share of the texts that may be flagged. A sheet has a part in the mean F1, or a limit.
    `asked` names the policy, or says that all are.
    """

    name: str
    asked: str
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    units: tuple[str, ...]
    bar: float | None = None
    limit: float | None = None

    def part(self, rows: NDArray[np.bool_]) -> "Sheet":
        """Some of its texts."""
        units = tuple(unit for unit, kept in zip(self.units, rows.tolist(), strict=True) if kept)
        return Sheet(self.name, self.asked, self.scores[rows], self.labels[rows], units, self.bar, self.limit)

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


def choose(sheets: Sequence[Sheet], start: NDArray[np.float64]) -> NDArray[np.float64]:
    """Thresholds [P] for the sheets' goals; `start` are those of now, from which one of the searches sets out.

    A policy that no sheet with a goal asks keeps its threshold. Where no thresholds keep the limits, those that break them least come back.
    """
    search = _Search(sheets, len(start))
    now = np.array([int(np.argmin(np.abs(GRID - value))) for value in start], np.int64)
    strictest = np.full(len(start), len(GRID) - 1)
    found = []
    # From both ends: a text that two policies flag is given up by neither of them alone.
    for here, prices in ((now, PRICES), (strictest, PRICES[::-1])):
        for price in prices:
            here = search.climb(here, price=price, forbidden=0.0)
            found.append(search.climb(here, price=0.0, forbidden=FORBIDDEN))
    found.append(search.climb(strictest, price=0.0, forbidden=FORBIDDEN))
    best = max(found, key=lambda places: search.value(places, price=0.0, forbidden=FORBIDDEN))
    asked = np.array([any((sheet.scores[:, number] >= 0).any() for sheet in sheets) for number in range(len(start))])
    return np.where(asked, GRID[best], start)


def cross_fitted(sheets: Sequence[Sheet], start: NDArray[np.float64], folds: int) -> tuple[list[NDArray[np.bool_]], NDArray[np.float64]]:
    """The flags of each sheet's texts under thresholds that were chosen without their fold's units, and those thresholds [folds, P]."""
    of = [sheet.folds(folds) for sheet in sheets]
    chosen = np.stack(
        [choose([sheet.part(fold != number) for sheet, fold in zip(sheets, of, strict=True)], start) for number in range(folds)]
    )
    return [flags(sheet, chosen[fold]) for sheet, fold in zip(sheets, of, strict=True)], chosen


class _Search:
    """Coordinate ascent. A threshold is a place in `GRID`; a text is flagged when its score's place is not below it."""

    def __init__(self, sheets: Sequence[Sheet], policies: int) -> None:
        self._policies = policies
        self._sheets = [sheet for sheet in sheets if len(sheet.labels)]
        # Below the lowest place, and where a policy is not asked: -1.
        self._places: list[Places] = [np.searchsorted(GRID, sheet.scores, side="right") - 1 for sheet in self._sheets]
        self._asks: list[NDArray[np.bool_]] = [np.logical_or.reduce(sheet.scores >= 0, axis=0) for sheet in self._sheets]
        groups: dict[str, int] = {}
        for sheet in self._sheets:
            if sheet.limit is None:
                groups[sheet.asked] = groups.get(sheet.asked, 0) + 1
        # Every policy weighs the same, however many sets are about it.
        self._weights = [1 / (groups[sheet.asked] * len(groups)) if sheet.limit is None else 0.0 for sheet in self._sheets]

    def climb(self, start: Places, *, price: float, forbidden: float) -> Places:
        """The best place of one policy after the other, until none moves."""
        here = start.copy()
        for _ in range(SWEEPS):
            before = here.copy()
            for policy in range(self._policies):
                values = self._along(here, policy, price=price, forbidden=forbidden)
                # Of equals the one nearest to now, then the stricter.
                best = np.flatnonzero(values >= values.max() - 1e-12)
                here[policy] = best[np.argmin(np.abs(best - here[policy]) * 2 - (best > here[policy]))]
            if (before == here).all():
                break
        return here

    def value(self, here: Places, *, price: float, forbidden: float) -> float:
        """What thresholds are worth."""
        return sum(
            float(self._worth(number, *self._counts(number, here, None), price=price, forbidden=forbidden)[0])
            for number in range(len(self._sheets))
        )

    def _along(self, here: Places, policy: int, *, price: float, forbidden: float) -> NDArray[np.float64]:
        """What every place of one policy is worth, those of the others held: [G]."""
        values = np.zeros(len(GRID))
        for number, asks in enumerate(self._asks):
            if asks[policy]:
                values += self._worth(number, *self._counts(number, here, policy), price=price, forbidden=forbidden)
        return values

    def _counts(self, number: int, here: Places, policy: int | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Flagged texts and flagged positives at every place of a policy, [G] each; without a policy just as they are, [1]."""
        places: Places = self._places[number]
        labels = self._sheets[number].labels
        over = np.asarray(places >= here)
        if policy is None:
            flagged = _some(over)
            return np.array([flagged.sum()], float), np.array([labels[flagged].sum()], float)
        over[:, policy] = False
        others = _some(over)
        mine = np.flatnonzero(~others & (places[:, policy] >= 0))
        own = places[mine, policy]
        every = np.bincount(own, minlength=len(GRID))[::-1].cumsum()[::-1] + int(others.sum())
        hits = np.bincount(own, weights=labels[mine], minlength=len(GRID))[::-1].cumsum()[::-1] + int(labels[others].sum())
        return every.astype(np.float64), hits.astype(np.float64)

    def _worth(
        self, number: int, flagged: NDArray[np.float64], hits: NDArray[np.float64], *, price: float, forbidden: float
    ) -> NDArray[np.float64]:
        sheet = self._sheets[number]
        if sheet.limit is not None:
            share = flagged / len(sheet.labels)
            return -price / 100 * share / max(sheet.limit, 1e-3) - forbidden * np.maximum(0.0, share - sheet.limit)
        found = 2 * hits / np.maximum(flagged + sheet.labels.sum(), 1)
        short = np.maximum(0.0, sheet.bar - found) if sheet.bar is not None else 0.0
        worth: NDArray[np.float64] = self._weights[number] * (found - BAR * short)
        return worth
