"""Thresholds that are measured on texts they were not chosen on: units are dealt into folds, and each fold is cut by the others' choice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guardrail.evaluation.thresholds import PRESETS, Proposal, propose
from guardrail.ranking import Curve, curve
from guardrail.units import folds as deal

FOLDS = 5


@dataclass(frozen=True, slots=True)
class Pool:
    """Scored texts that speak of one policy. `units` (empty: the text alone) are never on both sides of a cut."""

    scores: tuple[float, ...]
    labels: tuple[int, ...]
    units: tuple[str, ...]

    @property
    def curve(self) -> Curve:
        """What each threshold would flag."""
        return curve(self.scores, self.labels)

    def folds(self, count: int) -> NDArray[np.int64]:
        """The fold of each text."""
        names = [unit or f"\0{place}" for place, unit in enumerate(self.units)]
        return np.array(deal(names, self.labels, count), np.int64)


@dataclass(frozen=True, slots=True)
class CrossFit:
    """What a target's thresholds did to texts that they were not chosen on. `low` and `high` are the folds' thresholds."""

    low: float
    high: float
    precision: float
    recall: float
    f1: float
    fpr: float


@dataclass(frozen=True, slots=True)
class Proposed:
    """A threshold chosen on all texts, and what choosing so does to texts that had no part in it.

    `crossed` is None where there are too few units to tell, and for presets, which are fitted to nothing.
    """

    here: Proposal
    crossed: CrossFit | None

    @property
    def told(self) -> Proposal | CrossFit | None:
        """The honest numbers: of presets those here, of others the crossed ones, or none."""
        return self.here if self.here.target in PRESETS else self.crossed

    def cells(self) -> list[str]:
        """Threshold, the folds' thresholds, and precision, recall, F1 and false positive rate, as `COLUMNS` says."""
        told = self.told
        spread = f"{self.crossed.low:g} to {self.crossed.high:g}" if self.crossed else "-"
        values = (told.precision, told.recall, told.f1, told.fpr) if told else ()
        return [f"{self.here.threshold:g}", spread, *(f"{value:.3f}" for value in values), *["-"] * (4 - len(values))]


COLUMNS = ("threshold", "folds", "precision", "recall", "F1", "FPR")


def proposed(pool: Pool, target: str) -> Proposed | None:
    """What a target asks for, chosen on all texts and measured by cross-fitting; None where it cannot be reached here."""
    here = propose(pool.curve, target)
    if here is None:
        return None
    return Proposed(here, None if target in PRESETS else cross_fitted(pool, target))


def cross_fitted(pool: Pool, target: str, *, folds: int = FOLDS) -> CrossFit | None:
    """Choose a target's threshold on all folds but one, cut that one with it, and measure all folds' cuts together.

    None where one of the choices cannot be made (see `propose`). Raises GuardrailError for an unknown target.
    """
    fold = pool.folds(folds)
    scores, labels = np.asarray(pool.scores), np.asarray(pool.labels)
    chosen: dict[int, Proposal] = {}
    for number in sorted(set(fold.tolist())):
        others = fold != number
        found = propose(curve(scores[others], labels[others]), target)
        if found is None:
            return None
        chosen[number] = found
    if len(chosen) < 2:
        return None
    cuts = np.array([chosen[number].threshold for number in fold.tolist()])
    counted = counts(scores >= cuts, labels)
    thresholds = [each.threshold for each in chosen.values()]
    return CrossFit(min(thresholds), max(thresholds), *counted)


def counts(flags: NDArray[np.bool_], labels: NDArray[np.int64]) -> tuple[float, float, float, float]:
    """Precision, recall, F1 and false positive rate of flags; 0 where there is nothing to count."""
    hits, flagged, positives = int((flags & (labels == 1)).sum()), int(flags.sum()), int(labels.sum())
    return (
        hits / flagged if flagged else 0.0,
        hits / positives if positives else 0.0,
        2 * hits / (flagged + positives) if hits else 0.0,
        (flagged - hits) / (len(labels) - positives) if len(labels) > positives else 0.0,
    )


def pooled(rows: Sequence[tuple[float, int, str]]) -> Pool:
    """A pool of (score, label, unit)."""
    scores, labels, units = zip(*rows, strict=True) if rows else ((), (), ())
    return Pool(scores, labels, units)
